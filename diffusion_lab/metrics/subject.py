"""What a metric may use: the features of samples and of real images, and the source of the samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffusion_lab.metrics.naming import Naming
from diffusion_lab.metrics.reference import Progress, Reference
from diffusion_lab.metrics.samples import Samples
from diffusion_lab.metrics.settings import Evaluation
from diffusion_lab.metrics.source import Source
from diffusion_lab.metrics.statistics import Moments

if TYPE_CHECKING:
    from diffusion_lab.data.module import DataModule
    from diffusion_lab.metrics.features import Features
    from diffusion_lab.models.base import GenerativeModel


@dataclass(frozen=True)
class View:
    """Samples and real images as one set of features sees them. naming: what its numbers are called."""

    naming: Naming
    drawn: Samples
    reference: Reference
    settings: Evaluation

    @property
    def features(self) -> Features:
        return self.reference.features

    @property
    def device(self) -> torch.device:
        return self.reference.device

    @property
    def split(self) -> str:
        """Which real images are the reference."""
        return self.settings.reference

    @property
    def num_held_out(self) -> int:
        """How many images the other split has."""
        return self.reference.data.size(self.settings.held_out_split)

    @property
    def compared(self) -> str:
        """What the samples are compared with, in words."""
        return self.reference.described(self.split)

    @cached_property
    def real(self) -> Moments:
        """Of all images of the reference."""
        return self.reference.moments(self.split)

    @cached_property
    def some_real(self) -> Tensor:
        """(n, D) float32: the features of some images of the reference, settings.reference_features at most."""
        return self.reference.vectors(self.split, self.settings.reference_features)

    @cached_property
    def on_device(self) -> Tensor:
        """(n, D) float32: the features of all samples, where the features compute. Samples that are not finite are among them."""
        return self.drawn.features.to(self.device)


@dataclass(frozen=True)
class Subject:
    """What is scored, on which data. views: at least one; all are of the same samples."""

    source: Source
    data: DataModule
    views: Sequence[View]
    settings: Evaluation
    progress: Progress

    @property
    def drawn(self) -> Samples:
        """The samples; of a model, with what drawing them took."""
        return self.views[0].drawn

    @property
    def model(self) -> GenerativeModel:
        """What drew them, for a metric that needs a model."""
        return self.source.model
