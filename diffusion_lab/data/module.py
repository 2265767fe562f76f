"""The interface of every data set: facts, endless training batches, ordered batches for scoring, a density if known.

A data module provides the images; `BatchOrder` chooses those of training batch k. Scoring uses no trainer.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffusion_lab.conditions import Classes, Condition
from diffusion_lab.conditions.condition import has_classes
from diffusion_lab.conditions.units import Units
from diffusion_lab.data.checks import at_least, check_shares, require
from diffusion_lab.data.loading import Batch, LoadingDataModule
from diffusion_lab.data.order import (
    Batches,
    BatchOrder,
    fixed_rest,
    fixed_subset,
    parts_repeated,
    parts_trained,
    without_validation,
)
from diffusion_lab.diffusion import SampleNoise
from diffusion_lab.diffusion.condition_parts import as_conditions, moved
from diffusion_lab.diffusion.shapes import Conditions

if TYPE_CHECKING:
    from diffusion_lab.data.reals import Rows

HeldOutBatch = tuple[Tensor, Conditions, SampleNoise]
Item = tuple[Tensor, dict[str, Tensor]]  # x of a batch, and its attributes in the data: "classes", "vector", "field"

_LOOKED_AT = 1000  # images examined for the shares of levels, and for vectors that are stored in image files only
_VALUES_AT_ONCE = 2**21  # values of images at a time; networks need about a hundred times this memory
_AT_ONCE = 500  # images read at a time without a given batch size


def images_at_once(shape: Sequence[int]) -> int:
    """The default number of images to process at a time: 128, fewer of more than 64×64 pixels in colour, a power of two."""
    return 2 ** int(math.log2(max(1, min(128, _VALUES_AT_ONCE // math.prod(shape)))))


class DataModule(LoadingDataModule, ABC):
    """A data set with its facts.

    A batch is (x, y). Images: x float32 (B, C, H, W) in [-1, 1]; points: x float32 (B, D). y: the values of the condition, a tuple
    of several, or None; by default the classes, int64 (B,), if the data have classes.

    Facts, available after `prepare()`: `name`; `shape` (C, H, W) or (D,); `num_classes` (None: no classes);
    `num_levels` (None: continuous; else x = 2·level/(num_levels − 1) − 1 exactly); `num_train`, `num_test`;
    `identity`, the SHA-256 of the content (of the definition, for data drawn from a density).

    If `hold_back` sets `num_validation` above 0, that many training images form the split "validation" and are not in "train",
    and `num_train` is the number of the others. Subclasses implement the splits "train" and "test" only.

    `class_names`: a name for each class, if the data have names. `conditions`: the parts of y by name; classes are then those of y.
    `how_read`: one sentence on how arrays were read. `units`: of real data; in x they are removed, so each channel has mean 0 and
    standard deviation 1. `masks_missing`: whether x may be NaN where a value is missing. `groups`: the group of each training
    image, int64, before validation images are held back; a group is held back as a whole.

    batch_size: images of one optimizer step, divided among the ranks and, if gradients are accumulated, into parts.
    seed: of the order of the training images and of their mirroring, 0 … 2⁶⁴ − 1. flip: whether training mirrors half of them.
    """

    name: str
    shape: tuple[int, ...]
    num_classes: int | None
    class_names: Sequence[str] | None = None
    num_levels: int | None
    num_train: int
    num_test: int
    num_validation: int = 0
    identity: str
    how_read: str | None = None
    units: Units | None = None
    masks_missing: bool = False
    groups: Tensor | None = None

    def __init__(self, batch_size: int, seed: int, flip: bool = False) -> None:
        super().__init__()
        at_least(1, batch_size=batch_size)
        require(0 <= seed < 2**64, f"seed={seed} must be a whole number from 0 to 2**64 - 1.")
        self.batch_size, self.seed, self.flip = batch_size, seed, flip
        self._prepared = False
        self._held_out: tuple[int, int, int] | None = None  # number of images, of one batch, seed
        self._trained_on: int | float | None = None
        self._places: dict[str, Tensor] = {}  # split -> indices of its images in the training split of the subclass
        self.conditions: dict[str, Condition] = {}

    def prepare(self) -> None:
        """Load the data and set the facts; DataError if data are missing, empty or broken. Further calls do nothing."""
        if not self._prepared:
            self._load()
            self._divide()
            require(
                not isinstance(self._trained_on, int) or self._trained_on <= self.num_train,
                f"train_images={self._trained_on}: {self.name} has {self.num_train} training images; use null for all.",
            )
            if not self.conditions and self.num_classes is not None:
                self.conditions = {"classes": Classes()}
            for condition in self.conditions.values():
                condition.prepare(self)
            self.num_classes, self.class_names = None, None
            if (known := self.class_condition) is not None and has_classes(known.size):
                self.num_classes, self.class_names = known.size, known.names
            self._prepared = True

    def missing(self) -> str | None:
        """One sentence on files that are missing on this machine, and how to get them; None if all exist. Decodes no image."""
        return None

    @abstractmethod
    def _load(self) -> None:
        """Find and check the data, read them if they are small, and set every fact."""

    @abstractmethod
    def _show(self, split: str, picks: Iterable[Tensor]) -> Iterator[Item]:
        """One batch for each pick: the images of `split` with these indices, int64 (B,), and their attributes."""

    @abstractmethod
    def _classes(self, split: str) -> Tensor | None:
        """The class of each image of `split` in the data, int64 (N,); None without classes. Decodes no image."""

    def _vectors(self, split: str) -> Tensor | Rows | None:
        """The vector of each image of `split`, float64 (N, D); None if it is known only by reading the image."""
        return None

    def setup(self, stage: str | None = None) -> None:
        self.prepare()

    def train_dataloader(self) -> Batches[Batch]:
        """Endless (x, y): the rows of this rank, a part of a batch at a time; begins at 0, or at the attached trainer's step."""
        self.prepare()
        rank, world_size = self._ranks
        parts = self.trainer.accumulate_grad_batches if self.trainer else 1
        check_shares(self.batch_size, world_size, parts)
        images = fixed_subset(self.num_train, self.num_trained_on)
        order = BatchOrder(len(images), self.batch_size // parts, self.seed, self.flip, rank, world_size)

        def stream() -> Iterator[Batch]:
            start, cycle = (parts_trained(self.trainer), parts_repeated(self.trainer)) if self.trainer else (0, 0)
            return self.made(partial(self._conditioned, "train"), images, order.batches_from(start, cycle))

        return Batches(stream)

    def train_on(self, images: int | float | None) -> None:
        """Train on some of the training images only: this number or share of a fixed random order; None: on all.

        Samples are still compared with all of them.
        """
        fits = images is None or (images >= 1 if isinstance(images, int) else 0 < images <= 1)
        require(fits, f"train_images={images}: give a number of images, a share between 0 and 1, or null for all.")
        self._trained_on = images

    def notes(self) -> list[str]:
        """One sentence on each option that exceeds the size of its split."""
        size, split = self.num_trained_on, self.validation_split
        small = f"data.batch_size={self.batch_size}: there are {size} training images, so a batch repeats some"
        found = [small] if self.batch_size > size else []
        if self._held_out is not None and (wanted := self._held_out[0]) > (there := self.size(split)):
            found.append(f"val.num_images={wanted}: the {split} split has {there} images, and all of them are used")
        return found

    @property
    def num_trained_on(self) -> int:
        """The number of images that training shows."""
        if isinstance(self._trained_on, float):
            return max(1, round(self._trained_on * self.num_train))
        return self._trained_on or self.num_train

    def condition_on(self, conditions: Mapping[str, Condition]) -> None:
        """Set the conditions that form y, by name, before `prepare`. By default the classes, if the data have classes."""
        self.conditions = dict(conditions)

    @property
    def class_condition(self) -> Condition | None:
        """The first condition whose values are classes or clusters."""
        return next((condition for condition in self.conditions.values() if has_classes(condition.size)), None)

    @property
    def clusters(self) -> Condition | None:
        """The class condition, if its classes were found in the images and are not those of the data; else None."""
        return None if (known := self.class_condition) is None or known.identity is None else known

    def hold_back(self, num_images: int) -> None:
        """Hold back training images for validation, before `prepare`: a fixed random choice; a larger one contains a smaller."""
        fits = isinstance(num_images, int) and num_images >= 0
        require(fits, f"data.validation={num_images} must be a number of training images, or 0 for none.")
        self.num_validation = num_images

    def _divide(self) -> None:
        if self.num_validation:
            require(
                self.num_validation < self.num_train,
                f"data.validation={self.num_validation}: {self.name} has {self.num_train} training images: choose fewer, so that "
                "some are left to train on.",
            )
            train, validation = without_validation(self.num_train, self.num_validation, self.groups)
            self._places, self.num_train = {"train": train, "validation": validation}, len(train)

    @property
    def validation_split(self) -> str:
        """The split that monitors training: "validation", or "test" if no images are held back."""
        return "validation" if self.num_validation else "test"

    @property
    def choosing_split(self) -> str:
        """The split by which steps are chosen: "validation", or "train" if no images are held back."""
        return "validation" if self.num_validation else "train"

    def size(self, split: str) -> int:
        """The number of images of "train", "validation" or "test"."""
        return {"train": self.num_train, "validation": self.num_validation, "test": self.num_test}[split]

    def named(self, split: str) -> str:
        """The name of a split in cache keys, with the number of validation images, on which the images of "train" depend."""
        return f"{split}, {self.num_validation} for validation" if split in self._places else split

    def shown(self, count: int) -> Item:
        """(x, attributes) of a random choice of `count` training images, not mirrored."""
        x, given = zip(*self._of("train", fixed_subset(self.num_train, count).split(_AT_ONCE)), strict=True)
        return torch.cat(x), {name: torch.cat([some[name] for some in given]) for name in given[0]}

    def vectors(self) -> Tensor:
        """The vectors of all training images, (N, D); of 1,000 of them if images must be decoded for it."""
        found, places = self._vectors("train"), fixed_subset(self.num_train, self.num_trained_on)
        if found is None:
            return self.shown(min(_LOOKED_AT, len(places)))[1]["vector"]
        return found[self._places["train"][places] if "train" in self._places else places]

    def _of(self, split: str, picks: Iterable[Tensor]) -> Iterator[Item]:
        """`_show`, also for "validation"."""
        places = self._places.get(split)
        return self._show(split, picks) if places is None else self._show("train", (places[pick] for pick in picks))

    def _conditioned(self, split: str, picks: Iterable[Tensor]) -> Iterator[Batch]:
        """(x, y) of these images."""
        for x, given in self._of(split, picks):
            y = [condition.of(x, given) for condition in self.conditions.values()]
            yield x, as_conditions([part.float() if part.is_floating_point() else part for part in y])

    @cached_property
    def end_shares(self) -> tuple[float, float] | None:
        """Shares of the values at the lowest and at the highest level, in the first training images; None without levels."""
        if self.num_levels is None:
            return None
        size = min(_LOOKED_AT, self.num_train)
        x = torch.cat([x for x, _ in self.batches("train", size, limit=size)])
        low, high = (round(float((x == end).double().mean()), 6) for end in (-1, 1))
        return low, high

    def hold_out(self, num_images: int, batch_size: int | None, seed: int) -> None:
        """Choose the images of the held-out loss: how many, how many at a time, and the seed of their noise. Before this: none."""
        batch_size = images_at_once(self.shape) if batch_size is None else batch_size
        at_least(1, "val", num_images=num_images, batch_size=batch_size)
        at_least(0, "val", seed=seed)
        self._held_out = (num_images, batch_size, seed)

    def val_dataloader(self) -> Batches[HeldOutBatch]:
        """(x, y, noise) of images of `validation_split`, never mirrored; each rank takes its rows of a batch.

        The noise of an image depends on its index and the seed. If a batch cannot be divided evenly, its last images are left out,
        so that every rank has as many batches and as many rows.
        """
        self.prepare()
        if self._held_out is None:
            return Batches(lambda: iter(()))
        num_images, batch_size, seed = self._held_out
        rank, world_size = self._ranks
        chosen = fixed_rest(self.size(self.validation_split), num_images).split(batch_size)
        shares = [batch[: len(batch) // world_size * world_size].chunk(world_size) for batch in chosen]
        mine = [share[rank] for share in shares if len(share[0])]
        return Batches(lambda: self._show_held_out(mine, seed))

    def _show_held_out(self, chosen: list[Tensor], seed: int) -> Iterator[HeldOutBatch]:
        batches = self._conditioned(self.validation_split, chosen)
        for indices, (x, y) in zip(chosen, batches, strict=True):
            yield x, y, SampleNoise(seed, indices)

    @property
    def _ranks(self) -> tuple[int, int]:
        """(the number of this process, the number of processes)."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def batches(self, split: str, batch_size: int, limit: int | None = None, start: int = 0) -> Iterator[Batch]:
        """(x, y) of "train", "validation" or "test" for scoring: in order, never mirrored; the last batch may be smaller.

        `limit` below the size of the split takes a fixed random subset of it, the same on every machine;
        the subset of a smaller limit is its beginning. `start` skips that many images of this sequence.
        """
        self.prepare()
        splits = dict.fromkeys(("train", "test", *self._places))
        require(split in splits, f"There is no split {split!r}: the splits are {', '.join(splits)}.")
        order = fixed_subset(self.size(split), limit)
        return self._conditioned(split, (some for some in order[start:].split(batch_size) if len(some)))

    def y_of(self, split: str, indices: Tensor) -> Conditions:
        """y of images of a split, indices int64 (B,), modulo its size."""
        self.prepare()
        _, y = next(self._conditioned(split, [indices.cpu() % self.size(split)]))
        return moved(y, indices.device)

    def y_of_samples(self, split: str, indices: Tensor) -> Conditions:
        """y of samples that are compared with a split: that of its images, in a fixed random order."""
        order = fixed_rest(self.size(split), self.size(split))
        return self.y_of(split, order[indices.cpu() % len(order)].to(indices.device))

    @property
    def training_identity(self) -> str:
        """SHA-256 of the images that a model is trained on, without those for validation, and of its clusters."""
        parts = [f"without {self.num_validation}"] if self.num_validation else []
        parts += [condition.identity for condition in self.conditions.values() if condition.identity is not None]
        return hashlib.sha256(" ".join([self.identity, *parts]).encode()).hexdigest() if parts else self.identity

    def class_shares(self, split: str) -> Tensor | None:
        """The share of each class in `split`, float64 (num_classes,); of clusters, in the examined images. None without classes."""
        self.prepare()
        if self.clusters is not None or self.class_condition is None:
            return None if self.clusters is None else self.clusters.shares
        labels = self._classes("train" if split in self._places else split)
        assert labels is not None  # as there are classes
        labels = labels[self._places.get(split, slice(None))]
        return labels.bincount(minlength=self.num_classes or 0).double() / len(labels)

    def log_prob(self, x: Tensor) -> Tensor | None:
        """log p(x) in nats, float64 (B,); None if the density is unknown."""
        return None

    def entropy_bits(self) -> float | None:
        """The differential entropy H(x) in bits per dimension; None if it is unknown."""
        return None
