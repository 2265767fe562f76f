"""Samples of a model, as the data would have stored them, and the labels they are drawn for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_lab.data.levels import from_levels, to_levels
from diffusion_lab.evaluation.cost import Stopwatch
from diffusion_lab.models.base import GenerativeModel

GOLDEN_RATIO = (5**0.5 - 1) / 2


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


@dataclass(frozen=True)
class Stream:
    """Samples 0, 1, 2, … of a seed, as the data would have stored them.

    num_levels: what they are rounded to; None: continuous. class_prior: what labels are drawn from; None: y is None.
    batch_size: images at a time, which decides rounding and cost, not the images.
    """

    seed: int
    batch_size: int
    num_levels: int | None = None
    class_prior: Tensor | None = None

    def draw(self, model: GenerativeModel, indices: range, stopwatch: Stopwatch) -> Iterator[Tensor]:
        """Batches of the samples `indices`, on the model's device; the stopwatch sees the model's own work only.

        A batch with a value that is not finite comes unrounded, since NaN has no nearest level.
        """
        for start in range(indices.start, indices.stop, self.batch_size):
            batch = torch.arange(start, min(start + self.batch_size, indices.stop), device=model.device)
            y = None if self.class_prior is None else labels(batch, self.seed, self.class_prior)
            with torch.no_grad(), stopwatch.lap(len(batch)):
                x = model.sample(batch, self.seed, y)
            yield quantise(x, self.num_levels) if x.isfinite().all() else x
