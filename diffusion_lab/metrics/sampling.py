"""Samples of a model, as the data would have stored them, and the labels they are drawn for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_lab.diffusion import SampleNoise
from diffusion_lab.diffusion.levels import from_levels, to_levels
from diffusion_lab.diffusion.streams import CLASS
from diffusion_lab.metrics.stopwatch import Stopwatch
from diffusion_lab.models.base import GenerativeModel


def quantise(x: Tensor, num_levels: int | None) -> Tensor:
    """x in [-1, 1] rounded to the nearest of the data's levels; unchanged for continuous data.

    Real images lie on the levels. Samples that do not could be told apart by that alone, and features might.
    """
    return x if num_levels is None else from_levels(to_levels(x, num_levels), num_levels)


def labels(indices: Tensor, seed: int, prior: Tensor) -> Tensor:
    """Class of sample i ~ prior: its inverse distribution function at a u_i that is a function of (seed, i) alone.

    Drawn independently, as the classes of n real images are, so that the distance of n samples carries the noise of a draw as
    its floor and an unconditional model do. Spread evenly, they give a distance below that of real images.

    indices int64 (B,), prior float64 (num_classes,) summing to 1 -> int64 (B,).
    """
    u = SampleNoise(seed, indices.cpu()).fork(CLASS).uniform(0)
    classes = torch.searchsorted(prior.cpu().cumsum(0), u, right=True)
    last_possible = prior.cpu().nonzero().max()  # rounding may leave the sum below 1
    return classes.clamp(max=last_possible).to(indices.device)


@dataclass(frozen=True)
class Stream:
    """Samples 0, 1, 2, … of a seed, as the data would have stored them.

    num_levels: what they are rounded to; None: continuous. class_prior: what labels are drawn from; None: y is None.
    batch_size: images at a time, which decides rounding and cost, not the images.
    precision: of the network, 32-true or bf16-mixed (convolutions and matrix products in bfloat16).
    """

    seed: int
    batch_size: int
    num_levels: int | None = None
    class_prior: Tensor | None = None
    precision: str = "32-true"

    def draw(self, model: GenerativeModel, indices: range, stopwatch: Stopwatch) -> Iterator[Tensor]:
        """Batches of the samples `indices`, on the model's device; the stopwatch sees the model's own work only.

        A batch with a value that is not finite comes unrounded, since NaN has no nearest level.
        """
        for start in range(indices.start, indices.stop, self.batch_size):
            batch = torch.arange(start, min(start + self.batch_size, indices.stop), device=model.device)
            y = None if self.class_prior is None else labels(batch, self.seed, self.class_prior)
            with torch.no_grad(), self._autocast(model.device), stopwatch.lap(len(batch)):
                x = model.sample(batch, self.seed, y).float()
            yield quantise(x, self.num_levels) if x.isfinite().all() else x

    def _autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed")
