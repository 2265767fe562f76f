"""Mean and covariance of training images, for a model whose chain starts from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from diffusion_lab.data.base import DataModule
from diffusion_lab.diffusion import DataMoments
from diffusion_lab.evaluation.features import Pixels
from diffusion_lab.evaluation.reference import Reference
from diffusion_lab.evaluation.statistics import Moments, UnmeasurableError

LARGEST = 4096  # values an image, whose covariance takes 128 MB


def data_moments(
    data: DataModule, by_class: bool, cache: Path, progress: Callable[[str, int, int], None] | None = None
) -> DataMoments:
    """Of all training images, without mirroring; by class, one mean for each class and the covariance within classes.

    Raises UnmeasurableError where the images are too large, or a class has fewer than two.
    """
    data.prepare()
    pixels = Pixels()
    pixels.check(data.shape)
    if pixels.dim > LARGEST:
        raise UnmeasurableError(
            f"start=data_moments needs the covariance of images of {pixels.dim} values, more than {LARGEST}: use start=noise"
        )
    if by_class:
        check_classes(data)
    images = Reference(data, pixels, cache, progress=progress)
    about = f"{data.num_train} training images, {data.identity[:12]}"
    if by_class:
        of_class = images.class_moments("train")
        groups, about = [of_class[label] for label in range(data.num_classes)], f"{about}, by class"
    else:
        groups = [images.moments("train")]
    mean = torch.stack([part.mean for part in groups])
    # torchmetrics drops the axes of one value.
    return DataMoments.from_covariance(
        mean.reshape(-1, pixels.dim), _within(groups).reshape(pixels.dim, pixels.dim), about
    )


def check_classes(data: DataModule) -> None:
    """UnmeasurableError where a class has fewer than two training images, or of a cluster fewer were looked at."""
    counts = data.class_shares("train") * data.num_train if data.clusters is None else data.clusters.counts
    fewest = int(counts.argmin())
    if counts[fewest].round() < 2:
        fix = "use start=noise" + ("" if data.clusters is None else ", or a smaller labels.num_clusters")
        raise UnmeasurableError(
            f"start=data_moments needs two training images of each class, but class {fewest} has fewer: {fix}"
        )


def _within(groups: list[Moments]) -> torch.Tensor:
    """The covariance around the mean of each group."""
    weights = torch.stack([part.n - 1 for part in groups])
    return sum(weight * part.covariance for weight, part in zip(weights, groups, strict=True)) / weights.sum()
