"""Where the samples of a score come from: a model that draws them, or a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffusion_lab.metrics.needs import Need
from diffusion_lab.metrics.reference import Progress, Reference
from diffusion_lab.metrics.samples import Samples
from diffusion_lab.metrics.settings import Evaluation
from diffusion_lab.metrics.stopwatch import TrainingCost
from diffusion_lab.models.base import GenerativeModel

if TYPE_CHECKING:
    from diffusion_lab.data.module import DataModule


class Source(ABC):
    """Something that samples come from.

    model, training: as far as they are known. lacks: what a metric may need and these samples do not come with, and why, in
    words that a table can show.
    """

    model: GenerativeModel | None = None
    training: TrainingCost | None = None
    lacks: Mapping[Need, str] = {}

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where features are computed."""

    @abstractmethod
    def check(self, data: DataModule) -> None:
        """ValueError, in one sentence, if the samples cannot be compared with these data."""

    @abstractmethod
    def samples(
        self, references: Sequence[Reference], settings: Evaluation, progress: Progress
    ) -> list[Samples] | None:
        """The samples, as the features of each reference see them. Of several ranks, rank 0 has them and the others None."""

    @abstractmethod
    def protocol(self, settings: Evaluation) -> dict[str, Any]:
        """Plain JSON: "model", what drew the samples; "samples", where they come from; and whatever else decides them."""

    def remarks(self, data: DataModule, settings: Evaluation) -> list[str]:
        """What makes distances of these samples differ from those of others that are compared with these data, in words."""
        return []

    @contextmanager
    def ready(self, settings: Evaluation) -> Iterator[None]:
        """Inside the block samples are drawn with these settings."""
        yield

    def pictures(self, data: DataModule, settings: Evaluation) -> tuple[Tensor | None, Tensor | None]:
        """(interpolation, reconstructions), as `latents.latent_pictures` makes them; None where there are none."""
        return None, None
