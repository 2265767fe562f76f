"""The samples of a score, and what they come from: a generator that draws them (drawer.py), or files (given.py)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.data.module import DataModule
from diffusion_lab.diffusion.shapes import Conditions
from diffusion_lab.metrics.effort import Effort
from diffusion_lab.metrics.features import Features
from diffusion_lab.metrics.reference import (
    FeatureStatistics,
    Moments,
    Need,
    Reference,
    UnmeasurableError,
    references_of,
)
from diffusion_lab.metrics.settings import Evaluation
from diffusion_lab.metrics.stored import Progress
from diffusion_lab.models.generator import Generator
from diffusion_lab.store import CacheDirectory

NO_TRUTH = "compares samples with the images that they are drawn for, so it needs condition=vector or field"
KEPT_VALUES = 2**22  # samples kept for pictures: 16 MiB of float32,
KEPT_IMAGES = 64  # but no fewer images than this


@dataclass(frozen=True)
class Samples:
    """n samples: the first few or all as images (float32, CPU), all as one set of features (n, D), and the class of each.

    y: int64 (n,), the class that each was asked for, or is labelled with. None where there is none.
    efforts: what drawing them took, by shard; of given images there is none. asked: what the images were drawn for, where that is
    more than a class: a vector, a field, or several conditions.
    """

    images: Tensor
    features: Tensor
    num_not_finite: int
    y: Tensor | None
    efforts: Sequence[Effort] = ()
    asked: Conditions = None

    def finite(self, rows: Tensor) -> Tensor:
        """Rows that were computed from the samples, as they are; UnmeasurableError if a sample is not finite."""
        if self.num_not_finite > 0:
            raise UnmeasurableError(f"{self.num_not_finite} of {len(self.features)} samples are not finite")
        return rows

    def vectors(self) -> Tensor:
        """(n, D) float32 on the CPU; UnmeasurableError if a sample is not finite."""
        return self.finite(self.features)

    def moments(self, device: torch.device | str) -> Moments:
        """Of the features, computed on `device`; UnmeasurableError if a sample is not finite."""
        batches = (rows.to(device) for rows in self.vectors().split(1024))
        return FeatureStatistics(self.features.shape[1], batches).compute()


class Source(ABC):
    """What samples come from.

    device: where features are computed. cache: results kept between calls. generator: what draws them; None for given images.
    training: steps, seconds and images of its training, as far as they are known. lacks: what a metric may need and these samples
    lack, with the reason, in words for a table.
    """

    cache: CacheDirectory
    generator: Generator | None = None
    training: Mapping[str, float | None]

    @property
    @abstractmethod
    def device(self) -> torch.device | str: ...

    @property
    @abstractmethod
    def lacks(self) -> Mapping[Need, str]: ...

    def measured(self, data: DataModule, progress: Progress) -> Source:
        """The source with what must be measured before samples are drawn. All ranks must call it."""
        return self

    def references(self, data: DataModule, features: Sequence[Features], progress: Progress) -> list[Reference]:
        """What the samples are compared with, as each of the features sees it."""
        return references_of(data, features, self.cache, self.device, progress)

    @abstractmethod
    def samples(
        self, references: Sequence[Reference], settings: Evaluation, whole: bool, progress: Progress
    ) -> list[Samples] | None:
        """The samples, as the features of each reference see them. whole: all of them as images too, not only the first few.

        Of several ranks, rank 0 has them and the others None.
        """

    @abstractmethod
    def protocol(self, settings: Evaluation) -> dict[str, Any]:
        """Plain JSON: "model", what drew the samples; "samples", where they come from; and whatever else decides them."""

    def remarks(self, data: DataModule, settings: Evaluation) -> list[str]:
        """What makes distances of these samples differ from those of others that are compared with these data, in words."""
        return []


def num_kept(shape: Sequence[int]) -> int:
    """How many samples of this shape are kept as images, unless all are."""
    return max(KEPT_IMAGES, KEPT_VALUES // prod(shape))
