"""The samples of a score, and the interface of their sources: a generator that draws them (drawer.py), or files (given.py)."""

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
KEPT_VALUES = 2**22  # values of the samples kept for pictures: 16 MiB of float32,
KEPT_IMAGES = 64  # but at least this many images


@dataclass(frozen=True)
class Samples:
    """n samples as images and as vectors of one set of features.

    images: the first few or all, float32 on the CPU. features: (n, D). num_not_finite: samples with a value that is not finite. y:
    int64 (n,), the requested class of each, or its label; None without classes. efforts: the cost of drawing each shard; empty for
    given images. asked: the requested conditions of the images, if they are more than a class: a vector, a field, or several.
    """

    images: Tensor
    features: Tensor
    num_not_finite: int
    y: Tensor | None
    efforts: Sequence[Effort] = ()
    asked: Conditions = None

    def finite(self, rows: Tensor) -> Tensor:
        """`rows`, which were computed from the samples, unchanged; UnmeasurableError if a sample is not finite."""
        if self.num_not_finite > 0:
            raise UnmeasurableError(f"{self.num_not_finite} of {len(self.features)} samples are not finite")
        return rows

    def vectors(self) -> Tensor:
        """The features, (n, D) float32 on the CPU; UnmeasurableError if a sample is not finite."""
        return self.finite(self.features)

    def moments(self, device: torch.device | str) -> Moments:
        """The moments of the features, computed on `device`; UnmeasurableError if a sample is not finite."""
        batches = (rows.to(device) for rows in self.vectors().split(1024))
        return FeatureStatistics(self.features.shape[1], batches).compute()


class Source(ABC):
    """A source of samples.

    device: the device that computes features. cache: results kept between calls. generator: draws the samples; None for given
    images. training: optimizer steps, seconds and images of its training, as far as they are known. lacks: requirements of metrics
    that these samples do not meet, with a reason for each.
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

    def with_measurements(self, data: DataModule, progress: Progress) -> Source:
        """The source with the measurements that it needs before samples are drawn. All ranks must call it."""
        return self

    def references(self, data: DataModule, features: Sequence[Features], progress: Progress) -> list[Reference]:
        """The real images that the samples are compared with, as vectors of each set of features."""
        return references_of(data, features, self.cache, self.device, progress)

    @abstractmethod
    def samples(
        self, references: Sequence[Reference], settings: Evaluation, whole: bool, progress: Progress
    ) -> list[Samples] | None:
        """The samples, as vectors of the features of each reference; with several ranks on rank 0, None on the others.

        whole: keep all of them as images, not only the first few.
        """

    @abstractmethod
    def protocol(self, settings: Evaluation) -> dict[str, Any]:
        """Entries of the protocol, plain JSON: "model", "samples" (their origin), and everything else that determines them."""

    def remarks(self, data: DataModule, settings: Evaluation) -> list[str]:
        """Sentences on why distances of these samples may differ from others on the same data."""
        return []


def num_kept(shape: Sequence[int]) -> int:
    """The number of samples of this shape that are kept as images, unless all are."""
    return max(KEPT_IMAGES, KEPT_VALUES // prod(shape))
