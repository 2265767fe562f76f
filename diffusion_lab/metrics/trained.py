"""A trained model as what samples come from: it draws them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffusion_lab.metrics.cached_samples import draw_for_score
from diffusion_lab.metrics.drawing import Drawn
from diffusion_lab.metrics.latents import latent_pictures
from diffusion_lab.metrics.reference import Progress, Reference
from diffusion_lab.metrics.settings import Evaluation
from diffusion_lab.metrics.source import Source
from diffusion_lab.metrics.stopwatch import TrainingCost
from diffusion_lab.models.base import GenerativeModel

if TYPE_CHECKING:
    from diffusion_lab.data.module import DataModule


@contextmanager
def ready(model: GenerativeModel, weights: str) -> Iterator[None]:
    """The model has these weights and drops nothing inside the block. ValueError if there are no such weights."""
    was_training = model.training
    with model.use_weights(weights):
        model.eval()
        try:
            yield
        finally:
            model.train(was_training)


class TrainedModel(Source):
    """The model with the weights `settings.weights` (already resolved: not "auto").

    identities: for each set of features, what decides the samples and their features beside the weights and
    `model.sampling_protocol()`: the network's architecture, the code. cache_dir keeps the samples between calls; anew: they are
    drawn again. Where several ranks score it, they share the drawing.
    """

    def __init__(
        self,
        model: GenerativeModel,
        identities: Sequence[str],
        cache_dir: Path,
        training: TrainingCost | None = None,
        anew: bool = False,
    ) -> None:
        self.model, self.training = model, training
        self._identities, self._cache_dir, self._anew = identities, cache_dir, anew

    @property
    def device(self) -> torch.device:
        return self.model.device

    def check(self, data: DataModule) -> None:
        model = self.model
        if tuple(model.shape) != tuple(data.shape):
            raise ValueError(
                f"the model generates shape {tuple(model.shape)}, but the data set {data.name} has {tuple(data.shape)}"
            )
        if model.num_classes not in (None, data.num_classes):
            raise ValueError(
                f"the model has {model.num_classes} classes, but the data set {data.name} has {data.num_classes}"
            )

    @contextmanager
    def ready(self, settings: Evaluation) -> Iterator[None]:
        """With these weights, and without dropout. ValueError if there are no such weights."""
        with ready(self.model, settings.weights):
            yield

    def samples(self, references: Sequence[Reference], settings: Evaluation, progress: Progress) -> list[Drawn] | None:
        return draw_for_score(
            self.model, references, settings, self._cache_dir, self._identities, progress, anew=self._anew
        )

    def protocol(self, settings: Evaluation) -> dict[str, Any]:
        labels = f"drawn from the shares of the classes in {settings.reference}"
        return {
            "samples": {"labels": "none" if self.model.num_classes is None else labels},
            "weights": settings.weights,
            "model": self.model.protocol(),
        }

    def pictures(self, data: DataModule, settings: Evaluation) -> tuple[Tensor | None, Tensor | None]:
        if len(data.shape) != 3:
            return None, None
        return latent_pictures(self.model, data, settings.seed, settings.unseen_split)
