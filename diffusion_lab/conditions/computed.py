"""Conditions computed from the image itself: any data have them, and samples can be measured by them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from diffusion_lab.conditions.condition import Condition, Source
from diffusion_lab.store.option_names import check_at_least


class LowResolution(Condition):
    """The image at a lower resolution, as means over blocks of `factor` pixels along each axis, for super-resolution."""

    def __init__(self, factor: int) -> None:
        self.factor = factor
        check_at_least(2, self, "factor", prefix="condition.low_resolution.")

    def prepare(self, data: Source) -> None:
        sides = data.shown(1)[0].shape[2:]
        if not sides or any(side % self.factor for side in sides):
            size = "×".join(map(str, sides)) if sides else "points"
            raise ValueError(
                f"condition.low_resolution.factor={self.factor} must divide each side of the data, which are {size}"
            )
        super().prepare(data)

    def of(self, x: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        for axis in range(2, x.ndim):
            x = x.unflatten(axis, (-1, self.factor)).mean(axis + 1)
        return x


class BrightnessArea(Condition):
    """Two numbers of an image: its mean, from −1 to 1, and the share of its values above `threshold`, from 0 to 1.

    Missing values are ignored."""

    names = ("brightness", "area")

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def of(self, x: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        flat = x.flatten(1)
        above = (flat > self.threshold).float().masked_fill(flat.isnan(), torch.nan)
        return torch.stack([flat.nanmean(1), above.nanmean(1)], dim=1)
