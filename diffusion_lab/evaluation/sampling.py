"""Samples 0 .. n − 1 of a model, as the data would have stored them, and what features see in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffusion_lab.data.levels import from_levels, to_levels
from diffusion_lab.evaluation.cost import Stopwatch, peak_memory_mib, reset_peak_memory
from diffusion_lab.evaluation.statistics import FeatureStatistics, Moments, UnmeasurableError
from diffusion_lab.models.base import GenerativeModel

if TYPE_CHECKING:
    from diffusion_lab.evaluation.features import Features

GOLDEN_RATIO = (5**0.5 - 1) / 2
KEPT_VALUES = 2**22  # samples kept for pictures: 16 MiB of float32,
KEPT_IMAGES = 64  # but no fewer images than this


def quantise(x: Tensor, num_levels: int | None) -> Tensor:
    """x in [-1, 1] rounded to the nearest of the data's levels; unchanged for continuous data.

    Real images lie on the levels. Samples that do not could be told apart by that alone, and features might.
    """
    return x if num_levels is None else from_levels(to_levels(x, num_levels), num_levels)


def labels(indices: Tensor, seed: int, prior: Tensor) -> Tensor:
    """Class of sample i: the inverse distribution function of `prior` at u_i = frac(u_0(seed) + i·(√5 − 1)/2).

    A function of (seed, i) alone. The golden ratio's multiples fill [0, 1) more evenly than random numbers, so any run
    of n indices has each class n·p times up to a few, and scores do not carry the noise of a draw of labels.

    indices int64 (B,), prior float64 (num_classes,) summing to 1 -> int64 (B,).
    """
    start = torch.rand((), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    u = (start + indices.cpu().double() * GOLDEN_RATIO).frac()
    classes = torch.searchsorted(prior.cpu().cumsum(0), u, right=True)
    last_possible = prior.cpu().nonzero().max()  # rounding may leave the sum below 1
    return classes.clamp(max=last_possible).to(indices.device)


def draw(
    model: GenerativeModel,
    num_samples: int,
    batch_size: int,
    seed: int,
    num_levels: int | None,
    class_prior: Tensor | None,
    stopwatch: Stopwatch,
) -> Iterator[Tensor]:
    """Batches of samples 0 .. num_samples − 1 of the stream `seed`, on the model's device, rounded to `num_levels`.

    class_prior: what labels are drawn from; None: y is None. The stopwatch sees the model's own work only. A batch with
    a value that is not finite comes unrounded, since NaN has no nearest level.
    """
    for start in range(0, num_samples, batch_size):
        indices = torch.arange(start, min(start + batch_size, num_samples), device=model.device)
        y = None if class_prior is None else labels(indices, seed, class_prior)
        with torch.no_grad(), stopwatch.lap(len(indices)):
            x = model.sample(indices, seed, y)
        yield quantise(x, num_levels) if x.isfinite().all() else x


@dataclass(frozen=True)
class Drawn:
    """n samples: the first few as images (float32, CPU), all as features, and what drawing them took."""

    images: Tensor
    features: Tensor
    statistics: FeatureStatistics
    num_not_finite: int
    stopwatch: Stopwatch
    peak_memory_mib: float | None
    peak_memory_of: str

    def finite(self, rows: Tensor) -> Tensor:
        """Rows that were computed from the samples, as they are; UnmeasurableError if a sample is not finite."""
        if self.num_not_finite > 0:
            raise UnmeasurableError(f"{self.num_not_finite} of {len(self.features)} samples are not finite")
        return rows

    def vectors(self) -> Tensor:
        """(n, D) float32 on the CPU; UnmeasurableError if a sample is not finite."""
        return self.finite(self.features)

    def moments(self) -> Moments:
        """Of the features; UnmeasurableError if a sample is not finite."""
        self.vectors()
        return self.statistics.compute()


def draw_features(
    model: GenerativeModel,
    features: Features,
    num_samples: int,
    batch_size: int,
    seed: int,
    num_levels: int | None,
    class_prior: Tensor | None,
    progress: Callable[[str, int, int], None],
) -> Drawn:
    """Draw, look, count: see `draw` and `Drawn`."""
    reset_peak_memory(model.device)
    stopwatch = Stopwatch(model.device)
    statistics = FeatureStatistics(features.dim).to(model.device)
    room = max(KEPT_IMAGES, KEPT_VALUES // prod(model.shape))
    images, vectors, done, not_finite = [], [], 0, 0
    for x in draw(model, num_samples, batch_size, seed, num_levels, class_prior, stopwatch):
        images.append(x[: max(0, room - done)].float().cpu())
        not_finite += int((~x.flatten(1).isfinite().all(1)).sum())
        with torch.no_grad():
            batch = features(x)
        statistics.update(batch)
        vectors.append(batch.float().cpu())
        done += len(x)
        progress("samples", done, num_samples)
    peak, peak_of = peak_memory_mib(model.device)
    return Drawn(torch.cat(images), torch.cat(vectors), statistics, not_finite, stopwatch, peak, peak_of)
