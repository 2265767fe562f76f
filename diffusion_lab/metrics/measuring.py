"""Measurements made before sampling: statistics of a network, and the mean and covariance of training images.

One pass over images records a network's output and its error at each t. It is stored in shards, so an interrupted pass resumes,
ranks divide it, and a process that finds the same pass running waits for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.data.module import DataModule, images_at_once
from diffusion_lab.diffusion import DataMoments
from diffusion_lab.diffusion.parts import moved
from diffusion_lab.diffusion.shapes import Conditions
from diffusion_lab.metrics.features import Pixels
from diffusion_lab.metrics.reference import Reference, UnmeasurableError
from diffusion_lab.metrics.shards import Progress, Shard, ShardStore, complete, digest, silent
from diffusion_lab.models.base import GenerativeModel
from diffusion_lab.models.trainable import TrainableModel
from diffusion_lab.store import CacheDirectory
from diffusion_lab.training.ranks import broadcast_from_rank_zero

# (x_0, y, seed, indices) -> (B, …) by name
Measure = Callable[[Tensor, Conditions, int, Tensor], Mapping[str, Tensor]]
IndexedBatch = tuple[Tensor, Conditions, Tensor]  # x_0, y, indices
SHARD_IMAGES = 32  # images at a time
SEED = 0  # of the noise, always the same
RECIPE = 3  # increase it when the same key would give other numbers
LARGEST = 4096  # values an image, whose covariance takes 128 MB


@contextmanager
def ready(model: TrainableModel, weights: str) -> Iterator[None]:
    """Inside the block the model has these weights and dropout is off. ValueError if the weights do not exist."""
    was_training = model.training
    with model.use_weights(weights):
        model.eval()
        try:
            yield
        finally:
            model.train(was_training)


def batches_of(
    model: TrainableModel, data: DataModule, split: str, batch_size: int | None, limit: int, start: int = 0
) -> Iterator[IndexedBatch]:
    """(x_0, y, indices) of the first images of a split, on the device of the model; y None for an unconditional model."""
    batch_size = images_at_once(data.shape) if batch_size is None else batch_size
    for x_0, y in data.batches(split, batch_size, limit=limit, start=start):
        indices = torch.arange(start, start + len(x_0), device=model.device)
        known = None if model.num_classes is None and not model.conditions else moved(y, model.device)
        yield x_0.to(model.device), known, indices
        start += len(x_0)


@dataclass(frozen=True)
class Measured:
    """means: name -> float64, over images and noise. about: a description of the images and the pass, for the record."""

    means: Mapping[str, Tensor]
    about: str


def measure_once(
    model: GenerativeModel,
    measure: Measure,
    facts: Mapping[str, Any],
    data: DataModule,
    num_images: int,
    weights: str,
    cache: Path,
    identity: str,
    about: str,
    progress: Progress | None = None,
    split: str = "train",
) -> Measured:
    """The mean of `measure`, a method of the model, over images of `split`, with the weights of this name.

    num_images: at most. identity: what the numbers depend on besides weights and images: how the model was built, and its code;
    facts: other such values, as plain JSON. about: model and weights, in words. If several ranks call it, they share the work,
    and all of them return the result.
    """
    data.prepare()
    total = min(num_images, data.size(split))
    parts = [range(start, min(start + SHARD_IMAGES, total)) for start in range(0, total, SHARD_IMAGES)]

    @torch.no_grad()
    def sums(part: range, of: Sequence[int], report: Callable[[int], None]) -> list[Shard]:
        x_0, y, indices = next(batches_of(model, data, split, len(part), total, part.start))
        measured = measure(x_0, y, SEED, indices)
        report(len(part))
        return [({name: values.sum(dim=0).cpu() for name, values in measured.items()}, {})]

    with ready(model, weights):
        decisive = {
            **facts,
            **({} if data.named(split) == "train" else {"split": data.named(split)}),
            "model": identity,
            "weights": digest(model.state_dict()),
            "data": data.identity,
            "num_images": total,
            "shard_images": SHARD_IMAGES,
            "recipe": RECIPE,
        }
        key = json.dumps(decisive, sort_keys=True)
        store = ShardStore(CacheDirectory(cache).statistics(f"{about}-{total}", key), key)
        found = complete([store], parts, sums, "statistics of the network", progress or silent)
    means: dict[str, Tensor] = {}
    if found is not None:
        shards = [tensors for tensors, _ in found[0]]
        means = {name: sum((shard[name] for shard in shards), torch.zeros(())) / total for name in shards[0]}
    means = broadcast_from_rank_zero(means)
    return Measured(means, f"{total} {'training' if split == 'train' else split} images, {digest(means)[:12]}")


def data_moments(data: DataModule, by_class: bool, cache: Path, progress: Progress | None = None) -> DataMoments:
    """Moments of all training images, without mirroring; by class, one mean per class and the covariance within classes.

    UnmeasurableError if the images are too large, or a class has fewer than two.
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
    images = Reference(data, pixels, cache, progress=progress or silent)
    about = f"{data.num_train} training images, {data.identity[:12]}"
    whole = images.moments("train")
    mean, covariance = whole.mean.reshape(1, pixels.dim), whole.dense().reshape(pixels.dim, pixels.dim)
    if by_class:
        counts, means = images.class_means("train")
        shifts = means - mean
        between = (counts[:, None] * shifts).T @ shifts
        covariance = ((whole.n - 1) * covariance - between) / (whole.n - len(counts))
        mean, about = means, f"{about}, by class"
    return DataMoments.from_covariance(mean, covariance, about)


def check_classes(data: DataModule) -> None:
    """UnmeasurableError if a class has fewer than two training images, or a cluster fewer than two of those examined."""
    shares = data.class_shares("train")
    assert shares is not None
    found = None if data.clusters is None else data.clusters.counts
    counts = shares * data.num_train if found is None else found
    fewest = int(counts.argmin())
    if counts[fewest].round() < 2:
        fix = "use start=noise" + ("" if data.clusters is None else ", or fewer clusters")
        raise UnmeasurableError(
            f"start=data_moments needs two training images of each class, but class {fewest} has fewer: {fix}"
        )
