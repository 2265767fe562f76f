"""Measurements made before sampling: statistics of a network, and the mean and covariance of training images.

One pass over images records a network's output and its error at each t. The results are stored in shards, so an interrupted pass
resumes, ranks divide it, and a process that finds the same pass running waits for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.analysis import NetworkStatistics
from diffusion_lab.data.module import DataModule, images_at_once
from diffusion_lab.diffusion import DataMoments, Variance
from diffusion_lab.diffusion.condition_parts import moved
from diffusion_lab.diffusion.shapes import Conditions
from diffusion_lab.metrics.drawer import Shard, ShardStore, complete
from diffusion_lab.metrics.features import Pixels
from diffusion_lab.metrics.reference import Reference, UnmeasurableError
from diffusion_lab.metrics.stored import Progress, digest, silent
from diffusion_lab.models.diffusion_generator import DiffusionGenerator
from diffusion_lab.models.generator import Generator
from diffusion_lab.models.measured import (
    dimension_means,
    last_step_means,
    network_means,
    with_data_moments,
    with_step_costs,
    with_variance,
)
from diffusion_lab.store import CacheDirectory
from diffusion_lab.training.ranks import broadcast_from_rank_zero

# (generator, x_0, y, seed, indices) -> (B, …) by name
Statistic = Callable[[DiffusionGenerator, Tensor, Conditions, int, Tensor], Mapping[str, Tensor]]
IndexedBatch = tuple[Tensor, Conditions, Tensor]  # x_0, y, indices
SHARD_IMAGES = 32  # images at a time
SEED = 0  # of the noise
RECIPE = 3  # increase it when the same key would give other numbers
LARGEST = 4096  # values of an image; their covariance takes 128 MB


def batches_of(
    generator: Generator, data: DataModule, split: str, batch_size: int | None, limit: int, start: int = 0
) -> Iterator[IndexedBatch]:
    """(x_0, y, indices) of the first `limit` images of a split, on the generator's device.

    x_0 (B, *shape) float32 and y come from `data`; y is None for an unconditional generator. batch_size: images at a time; None: as
    many as `images_at_once` allows. start: the index of the first image.
    """
    batch_size = images_at_once(data.shape) if batch_size is None else batch_size
    for x_0, y in data.batches(split, batch_size, limit=limit, start=start):
        indices = torch.arange(start, start + len(x_0), device=generator.device)
        known = None if generator.num_classes is None and not generator.conditions else moved(y, generator.device)
        yield x_0.to(generator.device), known, indices
        start += len(x_0)


@dataclass(frozen=True)
class Means:
    """Means over images and noise, float64 by name. about: the images, in words, for the record."""

    means: Mapping[str, Tensor]
    about: str


@dataclass(frozen=True)
class Measurements:
    """The measurements that a diffusion generator needs before it draws.

    data_moments: whether its start needs mean and covariance of the training images. variance: a function of statistics of its
    network; None if the variance needs none. step_costs: whether its spacing or a metric needs the costs of its steps. num_images:
    at most this many images for the latter two. identity: a text that determines the statistics together with weights and images:
    how the model was built, and its code. about: model and weights, for the name of a folder.
    """

    data_moments: bool
    variance: Callable[..., Variance] | None
    step_costs: bool
    num_images: int
    identity: str
    about: str

    @property
    def any(self) -> bool:
        return self.data_moments or self.variance is not None or self.step_costs

    def applied(
        self, generator: DiffusionGenerator, data: DataModule, cache: CacheDirectory, progress: Progress = silent
    ) -> DiffusionGenerator:
        """The generator with these measurements. All ranks must call it; they share the work, and each returns it."""
        new = generator
        if self.data_moments:
            new = with_data_moments(new, data_moments(data, generator.num_classes is not None, cache, progress))
        if self.variance is not None:
            found = self._means(network_means, {"of": "network"}, generator, data, cache, progress, "train")
            means = dict(found.means)
            if self.variance.func.varies:  # type: ignore[attr-defined]  # a partial of a class
                facts = {"of": "dimensions"}
                means |= self._means(dimension_means, facts, generator, data, cache, progress, "train").means
            new = with_variance(new, NetworkStatistics(**means, of=found.about), self.variance)
        if self.step_costs:  # used to choose steps
            split = data.choosing_split
            decoder = {"of": "last step", "decoder": repr(generator.decoder), "num_levels": generator.num_levels}
            found = self._means(network_means, {"of": "network"}, generator, data, cache, progress, split)
            last = self._means(last_step_means, decoder, generator, data, cache, progress, split).means["bits"]
            new = with_step_costs(new, NetworkStatistics(**found.means, of=found.about), last)
        return new

    def _means(
        self,
        statistic: Statistic,
        facts: Mapping[str, Any],
        generator: DiffusionGenerator,
        data: DataModule,
        cache: CacheDirectory,
        progress: Progress,
        split: str,
    ) -> Means:
        """The mean of `statistic` over images of `split`. facts: what it depends on besides the generator, as plain JSON."""
        data.prepare()
        total = min(self.num_images, data.size(split))
        parts = [range(start, min(start + SHARD_IMAGES, total)) for start in range(0, total, SHARD_IMAGES)]

        @torch.no_grad()
        def sums(part: range, of: Sequence[int], report: Callable[[int], None]) -> list[Shard]:
            x_0, y, indices = next(batches_of(generator, data, split, len(part), total, part.start))
            values = statistic(generator, x_0, y, SEED, indices)
            report(len(part))
            return [({name: rows.sum(dim=0).cpu() for name, rows in values.items()}, {})]

        decisive = {
            **facts,
            **({} if data.named(split) == "train" else {"split": data.named(split)}),
            "model": self.identity,
            "weights": digest(generator.weights()),
            "data": data.identity,
            "num_images": total,
            "shard_images": SHARD_IMAGES,
            "recipe": RECIPE,
        }
        key = json.dumps(decisive, sort_keys=True)
        store = ShardStore(cache, cache.statistics(f"{self.about}-{total}", key), key)
        found = complete([store], parts, sums, "statistics of the network", progress)
        means: dict[str, Tensor] = {}
        if found is not None:
            shards = [tensors for tensors, _ in found[0]]
            means = {name: sum((shard[name] for shard in shards), torch.zeros(())) / total for name in shards[0]}
        means = broadcast_from_rank_zero(means)
        return Means(means, f"{total} {'training' if split == 'train' else split} images, {digest(means)[:12]}")


def data_moments(data: DataModule, by_class: bool, cache: CacheDirectory, progress: Progress = silent) -> DataMoments:
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
    images = Reference(data, pixels, cache, progress=progress)
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
    """UnmeasurableError if a class has fewer than two training images, or a cluster fewer than two examined images."""
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
