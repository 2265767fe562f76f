"""Units of real-valued data, and of vectors and fields beside them: x = shift + scale·z in each channel, z the model's value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Units:
    """Shift and scale of real-valued data: one number per channel (per dimension of points), scale > 0.

    names: of the channels, if any.
    """

    shift: Sequence[float]
    scale: Sequence[float]
    names: Sequence[str] | None = None

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Units | None:
        """Units in the facts of a trained model; None for data with levels, and for densities, which have none."""
        found = facts.get("units")
        if found is None:
            return None
        names = found["names"]
        return cls(list(found["shift"]), list(found["scale"]), None if names is None else list(names))

    @classmethod
    def of_condition(cls, record: Mapping[str, Any]) -> Units | None:
        """Units in the record of a condition; None for classes."""
        return cls(record["shift"], record["scale"]) if "shift" in record else None

    def normalised(self, x: Tensor) -> Tensor:
        """z, float32, of x (B, C, …), computed in float64."""
        shift, scale = self._like(x)
        return ((x.double() - shift) / scale).float()

    def restored(self, z: Tensor) -> Tensor:
        """x, float32, of z (B, C, …)."""
        shift, scale = self._like(z)
        return (shift + scale * z.double()).float()

    def _like(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1, *[1] * (x.ndim - 2))
        shift, scale = (torch.tensor(part, dtype=torch.float64, device=x.device) for part in (self.shift, self.scale))
        return shift.view(shape), scale.view(shape)

    @property
    def log2_scale(self) -> float:
        """The mean of log2 scale over the dimensions: −log2 p(x)/D = −log2 p(z)/D + this, by the change of variables."""
        return math.fsum(map(math.log2, self.scale)) / len(self.scale)
