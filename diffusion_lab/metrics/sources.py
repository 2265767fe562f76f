"""Where the samples of a score come from, a trained model that draws them or images that somebody else made, and what those are
compared with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffusion_lab.data.module import DataModule
from diffusion_lab.data.order import fixed_rest, fixed_subset
from diffusion_lab.metrics.draw import Samples, draw_for_score, num_kept
from diffusion_lab.metrics.features import Features
from diffusion_lab.metrics.measuring import batches_of
from diffusion_lab.metrics.reference import Moments, Need, Reference, references_of
from diffusion_lab.metrics.settings import Evaluation
from diffusion_lab.metrics.shards import Progress
from diffusion_lab.metrics.stopwatch import TrainingCost
from diffusion_lab.models.base import GenerativeModel
from diffusion_lab.sampling import slerp

if TYPE_CHECKING:
    from diffusion_lab.data.in_memory import OneSet
    from diffusion_lab.data.module import DataModule

PATHS, PATH_IMAGES = 4, 8  # ways between samples, images of each
PAIRS = 32  # real images, each beside its reconstruction
_MODEL = "needs a model, but these samples are images"
_LABELS = "the samples have no class labels (an npz may have them as arr_1)"


class Source(ABC):
    """Something that samples come from.

    device: where features are computed. model, training: as far as they are known. lacks: what a metric may need and these samples
    do not come with, and why, in words that a table can show.
    """

    device: torch.device
    model: GenerativeModel | None = None
    training: TrainingCost | None = None
    lacks: Mapping[Need, str] = {}

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

    def pictures(self, data: DataModule, settings: Evaluation) -> tuple[Tensor | None, Tensor | None]:
        """(interpolation, reconstructions), as `latent_pictures` makes them; None where there are none."""
        return None, None


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
        self.model: GenerativeModel = model
        self.device = model.device
        self.lacks = {} if model.denoiser else {Need.DENOISER: "this family has no noisy chain"}
        self.training, self._identities, self._cache_dir, self._anew = training, identities, cache_dir, anew

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

    def samples(
        self, references: Sequence[Reference], settings: Evaluation, progress: Progress
    ) -> list[Samples] | None:
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


@torch.no_grad()
def latent_pictures(
    model: GenerativeModel, data: DataModule, seed: int, split: str = "test"
) -> tuple[Tensor, Tensor | None]:
    """(interpolation, reconstructions), float32 on the CPU. A conditional model is given the classes.

    interpolation (PATHS · PATH_IMAGES, *shape): way p leads from sample 2p of the stream to sample 2p + 1 and keeps one class,
    the classes in turn. reconstructions (2 · PAIRS, *shape): the first PAIRS images of the split, each followed by its
    `reconstruct`ion. None for a family without an encoder.
    """
    paths = torch.arange(PATHS, device=model.device).repeat_interleave(PATH_IMAGES)
    weight = torch.linspace(0, 1, PATH_IMAGES, device=model.device).repeat(PATHS)
    x_0, y, indices = next(batches_of(model, data, split, PAIRS, PAIRS))
    between = slerp(model.latents(2 * paths, seed), model.latents(2 * paths + 1, seed), weight)
    ways = model.decode(between, model.classes_in_turn(paths)).cpu()
    again = model.reconstruct(x_0, y, seed, indices)
    return ways, None if again is None else torch.stack([x_0, again.clamp(-1, 1)], dim=1).flatten(0, 1).cpu()


class GivenImages(Source):
    """All of the `count` images, or of a smaller `evaluation.num_samples` a fixed random choice, in a fixed random order.

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
        self.device, self.count, self._differences = torch.device(device), images.num_train, differences
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


class GivenReference(Reference):
    """Given images, all of which are the reference, or published mean and covariance.

    data: the images, perhaps none where there are statistics. published: the statistics, of these features; of images that are
    not known. None: those of the images.
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
