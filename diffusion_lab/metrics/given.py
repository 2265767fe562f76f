"""Given images, not drawn by a model of ours, as the samples or the reference of a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffusion_lab.data.module import DataModule
from diffusion_lab.data.order import fixed_rest, fixed_subset
from diffusion_lab.metrics.features import Features
from diffusion_lab.metrics.reference import Moments, Need, Reference, references_of
from diffusion_lab.metrics.samples import Samples, Source, num_kept
from diffusion_lab.metrics.settings import Evaluation
from diffusion_lab.metrics.shards import Progress

if TYPE_CHECKING:
    from diffusion_lab.data.in_memory import OneSet

_MODEL = "needs a model, but these samples are images"
_LABELS = "the samples have no class labels (an npz may have them as arr_1)"


class GivenImages(Source):
    """All `count` images, or a fixed random choice of evaluation.num_samples, in a fixed random order.

    labels: int64 (N,), the class of each; None if unknown. about: facts for the protocol. differences: properties of the files
    that increase a distance, in words. published: they are compared with all images of the data, or with these published
    statistics, by the suffix of their names; None: with a split of the data.
    """

    def __init__(
        self,
        images: OneSet,
        labels: Tensor | None,
        about: dict[str, Any],
        cache: Path,
        device: torch.device | str,
        differences: Sequence[str] = (),
        published: Mapping[str, Moments] | None = None,
    ) -> None:
        images.prepare()
        self._images, self._labels, self._about, self._published = images, labels, about, published
        self.device, self.cache = torch.device(device), cache
        self.count, self._differences = images.num_train, differences
        self.lacks = {Need.MODEL: _MODEL} | ({Need.LABELS: _LABELS} if labels is None else {})

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

    def references(self, data: DataModule, features: Sequence[Features], progress: Progress) -> list[Reference]:
        if self._published is None:
            return super().references(data, features, progress)
        return [
            GivenReference(data, part.to(self.device).eval(), self.cache, self.device, progress, known)
            for part in features
            for known in [self._published.get(part.moments_suffix)]
        ]

    def samples(self, references: Sequence[Reference], settings: Evaluation, progress: Progress) -> list[Samples]:
        count, there = settings.num_samples, self.count
        if count is not None and count > there:
            raise ValueError(f"evaluation.num_samples={count}: {self._images.name} has only {there} images")
        chosen = fixed_subset(there, count)
        order = fixed_rest(len(chosen), len(chosen))  # some metrics take the first images; files may be sorted by class
        chosen = chosen[order]
        shown = self._images.at(chosen[: num_kept(self._images.shape)])
        labels = None if self._labels is None else self._labels[chosen]
        features = [reference.features for reference in references]
        seen = references_of(self._images, features, self.cache, self.device, progress)
        return [Samples(shown, own.vectors("train", count)[order], 0, labels) for own in seen]

    def protocol(self, settings: Evaluation) -> dict[str, Any]:
        labels = "none" if self._labels is None else "as given"
        return {"samples": {"labels": labels, "given": self._about}, "model": {"family": "given images"}}


class GivenReference(Reference):
    """Given images used entirely as the reference, or published mean and covariance.

    data: the images, perhaps none beside statistics. published: the statistics, for these features; their images are
    unknown. None: computed from the images.
    """

    def __init__(
        self,
        data: DataModule,
        features: Features,
        cache: Path,
        device: torch.device | str,
        progress: Progress | None,
        published: Moments | None = None,
    ) -> None:
        super().__init__(data, features, cache, device, progress)
        self._published = published
        if published is not None:
            self.remarks = ["the file does not say which split, resizing and network its author used"]
        if not data.num_train:
            self.lacks = {Need.REAL_IMAGES: f"needs real images, but {data.name} holds only statistics"}

    def described(self, split: str) -> str:
        form = f"{self.data.num_train} images" if self._published is None else "mu and sigma"
        return f"{form} of {self.data.name}"

    def protocol(self, split: str) -> dict[str, Any]:
        form = "images" if self._published is None else "mu and sigma"
        return {
            "given": self.data.name,
            "form": form,
            "num_images": self.data.num_train,
            "identity": self.data.identity,
        }

    def moments(self, split: str, num_images: int | None = None) -> Moments:
        return super().moments(split, num_images) if self._published is None else self._published
