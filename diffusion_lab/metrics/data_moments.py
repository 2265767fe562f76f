"""Mean and covariance of training images, for a model whose chain starts from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from diffusion_lab.data.module import DataModule
from diffusion_lab.diffusion import DataMoments
from diffusion_lab.metrics.duration import say_if_long
from diffusion_lab.metrics.features import Pixels
from diffusion_lab.metrics.reference import Reference
from diffusion_lab.metrics.statistics import UnmeasurableError

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
    whole = images.moments("train")
    mean, covariance = whole.mean.reshape(1, pixels.dim), whole.dense().reshape(pixels.dim, pixels.dim)
    if by_class:
        counts, means = images.class_means("train")
        covariance = _within(whole.n, covariance, counts, means - mean)
        mean, about = means, f"{about}, by class"
    say_if_long(f"start=data_moments, of {pixels.dim:,} values an image,", 6.0 * pixels.dim**3)
    return DataMoments.from_covariance(mean, covariance, about)


def check_classes(data: DataModule) -> None:
    """UnmeasurableError where a class has fewer than two training images, or a cluster fewer than two of those looked at."""
    counts = data.class_shares("train") * data.num_train if data.clusters is None else data.clusters.counts
    fewest = int(counts.argmin())
    if counts[fewest].round() < 2:
        fix = "use start=noise" + ("" if data.clusters is None else ", or a smaller labels.num_clusters")
        raise UnmeasurableError(
            f"start=data_moments needs two training images of each class, but class {fewest} has fewer: {fix}"
        )


def _within(n: Tensor, covariance: Tensor, counts: Tensor, shifts: Tensor) -> Tensor:
    """((n − 1)·Σ − Σ_k n_k·s_k·s_kᵀ) / (n − K), around the mean of each class; s_k (K, D) are these less the mean of all.

    The covariance of each class is not needed: of a hundred classes they would take gigabytes.
    """
    return ((n - 1) * covariance - (counts[:, None] * shifts).T @ shifts) / (n - len(counts))
