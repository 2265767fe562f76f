"""Samples as a metric sees them: some as images, all as features, the class of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from diffusion_lab.metrics.statistics import FeatureStatistics, Moments, UnmeasurableError

KEPT_VALUES = 2**22  # samples kept for pictures: 16 MiB of float32,
KEPT_IMAGES = 64  # but no fewer images than this


def num_kept(shape: Sequence[int]) -> int:
    """How many samples of this shape are kept as images."""
    return max(KEPT_IMAGES, KEPT_VALUES // prod(shape))


@dataclass(frozen=True)
class Samples:
    """n samples: the first few as images (float32, CPU), all as one set of features, and the class of each.

    y: int64 (n,), the class that each was asked for, or is labelled with. None where there is none.
    """

    images: Tensor
    features: Tensor
    num_not_finite: int
    y: Tensor | None

    def finite(self, rows: Tensor) -> Tensor:
        """Rows that were computed from the samples, as they are; UnmeasurableError if a sample is not finite."""
        if self.num_not_finite > 0:
            raise UnmeasurableError(f"{self.num_not_finite} of {len(self.features)} samples are not finite")
        return rows

    def vectors(self) -> Tensor:
        """(n, D) float32 on the CPU; UnmeasurableError if a sample is not finite."""
        return self.finite(self.features)

    def moments(self, device: torch.device) -> Moments:
        """Of the features, computed on `device`; UnmeasurableError if a sample is not finite."""
        statistics = FeatureStatistics(self.features.shape[1])
        for rows in self.vectors().split(1024):
            statistics.update(rows.to(device))
        return Moments.of(statistics.compute().tensors())
