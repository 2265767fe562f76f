"""Given images, not drawn by a model of ours, as the samples or the reference of a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.data.in_memory import OneSet
from diffusion_lab.data.module import DataModule
from diffusion_lab.data.order import fixed_rest, fixed_subset
from diffusion_lab.metrics.features import Features
from diffusion_lab.metrics.reference import Moments, Need, Reference, references_of
from diffusion_lab.metrics.samples import Samples, Source, num_kept
from diffusion_lab.metrics.settings import Evaluation
from diffusion_lab.metrics.stored import Progress
from diffusion_lab.store import CacheDirectory

_MODEL = "needs a model, but these samples are images"
_LABELS = "the samples have no class labels (an npz may have them as arr_1)"


@dataclass(eq=False)
class GivenImages(Source):
    """Images from files: all of them, or a fixed random choice of evaluation.num_samples, in a fixed random order.

    images: as levels. labels: int64 (N,), the class of each; None if unknown. about: entries of the protocol.
    cache: where features are kept. on: the device that computes features. differences: sentences on properties of the files that
    increase a distance. published: published statistics by the suffix of their names, empty to compare with all images of the data;
    None: the images are compared with a split of the data. training: the cost of a training; unknown here.
    """

    images: OneSet
    labels: Tensor | None
    about: dict[str, Any]
    cache: CacheDirectory
    on: torch.device | str
    differences: Sequence[str] = ()
    published: Mapping[str, Moments] | None = None
    training: Mapping[str, float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.images.prepare()
        self.count = self.images.num_train

    @property
    def device(self) -> torch.device | str:
        return self.on

    @property
    def lacks(self) -> Mapping[Need, str]:
        needed = dict.fromkeys((Need.GENERATOR, Need.CHAIN, Need.STEP_COSTS, Need.TRUTH), _MODEL)
        return needed | ({Need.LABELS: _LABELS} if self.labels is None else {})

    def check(self, data: DataModule) -> None:
        """ValueError if the samples have classes that the data lack."""
        highest = -1 if self.labels is None else int(self.labels.max())
        if data.num_classes is not None and highest >= data.num_classes:
            raise ValueError(f"{self.images.name} has classes up to {highest}, but {data.name} has {data.num_classes}")

    def remarks(self, data: DataModule, settings: Evaluation) -> list[str]:
        usual = replace(settings, num_samples=None).resolve_num_samples(data)
        found = list(self.differences)
        if usual and settings.num_samples is None and self.count != usual:
            found.append(f"models are scored on {usual} samples by default, and the distance falls with n")
        return found

    def references(self, data: DataModule, features: Sequence[Features], progress: Progress) -> list[Reference]:
        found = super().references(data, features, progress)
        if self.published is None:
            return found
        return [GivenReference(**vars(own), published=self.published.get(own.features.moments_suffix)) for own in found]

    def samples(
        self, references: Sequence[Reference], settings: Evaluation, whole: bool, progress: Progress
    ) -> list[Samples]:
        count, there = settings.num_samples, self.count
        if count is not None and count > there:
            raise ValueError(f"evaluation.num_samples={count}: {self.images.name} has only {there} images")
        chosen = fixed_subset(there, count)
        order = fixed_rest(len(chosen), len(chosen))  # some metrics take the first images; files may be sorted by class
        chosen = chosen[order]
        shown = self.images.at(chosen if whole else chosen[: num_kept(self.images.shape)])
        labels = None if self.labels is None else self.labels[chosen]
        features = [reference.features for reference in references]
        seen = references_of(self.images, features, self.cache, self.device, progress)
        return [Samples(shown, own.vectors("train", count)[order], 0, labels) for own in seen]

    def protocol(self, settings: Evaluation) -> dict[str, Any]:
        labels = "none" if self.labels is None else "as given"
        return {"samples": {"labels": labels, "given": self.about}, "model": {"family": "given images"}}


@dataclass(eq=False)
class GivenReference(Reference):
    """Given images used entirely as the reference, or published mean and covariance.

    data: the images, possibly none beside statistics. published: the statistics, for these features; their images are
    unknown. None: computed from the images.
    """

    published: Moments | None = None

    @property
    def remarks(self) -> Sequence[str]:
        unsaid = "the file does not say which split, resizing and network its author used"
        return [] if self.published is None else [unsaid]

    @property
    def lacks(self) -> Mapping[Need, str]:
        if self.data.num_train:
            return super().lacks
        return {Need.REAL_IMAGES: f"needs real images, but {self.data.name} holds only statistics"}

    def described(self, split: str) -> str:
        form = f"{self.data.num_train} images" if self.published is None else "mu and sigma"
        return f"{form} of {self.data.name}"

    def protocol(self, split: str) -> dict[str, Any]:
        form = "images" if self.published is None else "mu and sigma"
        return {
            "given": self.data.name,
            "form": form,
            "num_images": self.data.num_train,
            "identity": self.data.identity,
        }

    def moments(self, split: str, num_images: int | None = None) -> Moments:
        return self.published or super().moments(split, num_images)
