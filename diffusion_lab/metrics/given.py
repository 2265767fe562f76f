"""Images that somebody else made, as a source of samples. Nothing is drawn, and there is no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffusion_lab.data.order import fixed_rest, fixed_subset
from diffusion_lab.metrics.needs import Need
from diffusion_lab.metrics.reference import Progress, Reference, references_of
from diffusion_lab.metrics.samples import Samples, num_kept
from diffusion_lab.metrics.settings import Evaluation
from diffusion_lab.metrics.source import Source

if TYPE_CHECKING:
    from diffusion_lab.data.in_memory import OneSet
    from diffusion_lab.data.module import DataModule

_MODEL = "needs a model, but these samples are images"
_LABELS = "the samples have no class labels (an npz may have them as arr_1)"


class GivenImages(Source):
    """All of the images, or of a smaller `evaluation.num_samples` a fixed random choice, in a fixed random order.

    labels: int64 (N,), the class of each; None where nobody says. about: facts for the protocol. cache_dir keeps features between
    calls. differences: what of their files makes a distance larger, in words.
    """

    def __init__(
        self,
        images: OneSet,
        labels: Tensor | None,
        about: dict[str, Any],
        cache_dir: Path,
        device: torch.device | str,
        differences: Sequence[str] = (),
    ) -> None:
        images.prepare()
        self._images, self._labels, self._about, self._cache_dir = images, labels, about, cache_dir
        self._device, self._differences = torch.device(device), differences
        self.lacks = {Need.MODEL: _MODEL} | ({Need.LABELS: _LABELS} if labels is None else {})

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def count(self) -> int:
        """How many there are."""
        return self._images.num_train

    def check(self, data: DataModule) -> None:
        if tuple(self._images.shape) != tuple(data.shape):
            raise ValueError(
                f"{self._images.name} has {self._images.shape}, but the data set {data.name} has {data.shape}"
            )
        highest = -1 if self._labels is None else int(self._labels.max())
        if data.num_classes is not None and highest >= data.num_classes:
            raise ValueError(f"{self._images.name} has classes up to {highest}, but {data.name} has {data.num_classes}")

    def remarks(self, data: DataModule, settings: Evaluation) -> list[str]:
        usual = replace(settings, num_samples=None).resolve_num_samples(data)
        found = list(self._differences)
        if usual and settings.num_samples is None and self.count != usual:
            found.append(f"models are scored on {usual} samples by default, and the distance falls with n")
        return found

    def samples(self, references: Sequence[Reference], settings: Evaluation, progress: Progress) -> list[Samples]:
        count, there = settings.num_samples, self.count
        if count is not None and count > there:
            raise ValueError(f"evaluation.num_samples={count}: {self._images.name} has only {there} images")
        chosen = fixed_subset(there, count)
        order = fixed_rest(len(chosen), len(chosen))  # some metrics take the first, and files are often sorted by class
        chosen = chosen[order]
        shown = self._images.at(chosen[: num_kept(self._images.shape)])
        labels = None if self._labels is None else self._labels[chosen]
        features = [reference.features for reference in references]
        seen = references_of(self._images, features, self._cache_dir, self.device, progress)
        return [Samples(shown, own.vectors("train", count)[order], 0, labels) for own in seen]

    def protocol(self, settings: Evaluation) -> dict[str, Any]:
        labels = "none" if self._labels is None else "as given"
        return {"samples": {"labels": labels, "given": self._about}, "model": {"family": "given images"}}
