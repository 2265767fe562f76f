"""The interface of a condition: the value that a sample is conditioned on, and how it follows from an image of the data."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from math import nan, prod
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor

from diffusion_lab.diffusion.condition_parts import as_conditions, parts
from diffusion_lab.diffusion.shapes import Conditions

MOST_VALUES = 2**25  # values of all examined images: 256 MB of float64
MOST_IMAGES = 10_000
_HELD_OUT, _KEPT_NUMBERS = 1000, 10_000  # most test images, and most numbers, in the record of a model
Size = int | Sequence[int]  # K of classes; (D,) of a vector; (C, *spatial) of a field


class Source(Protocol):
    """The data while a condition is prepared. name: of the data set. num_classes, class_names: its own."""

    name: str
    num_classes: int | None
    class_names: Sequence[str] | None

    @property
    def num_trained_on(self) -> int: ...

    def shown(self, count: int) -> tuple[Tensor, dict[str, Tensor]]:
        """(x, attributes) of `count` training images, never mirrored."""

    def vectors(self) -> Tensor:
        """The vectors of all training images, (N, D)."""


class LacksConditionError(ValueError):
    """The data lack this condition."""


class Condition(ABC):
    """A condition: a function of an image x and of its attributes in the data set, whose value is an input of the network.

    A value is a class, int64 (), or float32: a vector (D,) or a field (C, *spatial), of any resolution. Fields are mirrored with x.
    For a condition of your own write a subclass with `of` and, for classes, their number `size`, and a yaml in conf/condition.

    After `prepare`: `size`, the number of classes or the shape of a value. For classes: `names`, if any, and, if they are found in
    the images rather than given by the data, `identity`, the digest of the clusters, `counts` (K,) of the examined images, and
    `description`. Such classes are drawn as often as they occur, others in turn.
    """

    size: Size
    names: Sequence[str] | None = None
    identity: str | None = None
    counts: Tensor | None = None
    description: str = ""

    def prepare(self, data: Source) -> None:
        """Set `size` and the other facts from the training images. LacksConditionError if the data lack the condition."""
        y = self.of(*data.shown(1))
        if y.is_floating_point():
            self.size = tuple(y.shape[1:])
        else:
            self.count(self.of(*self.looked_at(data)))

    def looked_at(self, data: Source) -> tuple[Tensor, dict[str, Tensor]]:
        """(x, attributes) of the training images, of at most `most_images`."""
        return data.shown(min(self.most_images(data.shown(1)[0].numel()), data.num_trained_on))

    def most_images(self, dim: int) -> int:
        """The number of examined images with `dim` values each."""
        return min(MOST_IMAGES, max(MOST_VALUES // dim, 1))

    def count(self, y: Tensor) -> None:
        """Record the classes y (N,) found in the examined images."""
        size = getattr(self, "size", None)
        if not isinstance(size, int):
            raise TypeError(
                f"{type(self).__name__}.of returns classes: state their number as {type(self).__name__}.size"
            )
        self.identity = hashlib.sha256(y.numpy().tobytes()).hexdigest()
        self.counts = y.bincount(minlength=size)
        self.description = self.description or f"{self.size} classes of {type(self).__name__}"

    @abstractmethod
    def of(self, x: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        """The values (B, …) for images x (B, …), not mirrored. given: their attributes by name: "classes", "vector", "field"."""

    @property
    def shares(self) -> Tensor | None:
        """(K,) float64: shares of classes found in the images, smoothed to be positive; None for other conditions."""
        return None if self.counts is None else (self.counts + 1) / (self.counts + 1).sum().double()

    def bits(self, y: Tensor) -> Tensor:
        """−log2 p(y) for values determined by x, float64 (B,), else 0: −log2 p(x | y) plus this is at least −log2 p(x)."""
        y = y.cpu()
        return torch.zeros(len(y), dtype=torch.float64) if self.shares is None else -self.shares[y].log2()

    def record(self) -> dict[str, Any]:
        """The record for the model's folder, as plain JSON, which allows sampling without the data."""
        found = {} if self.shares is None else {"shares": self.shares.tolist()}
        return found if self.names is None else {**found, "names": list(self.names)}


def has_classes(size: Size) -> TypeGuard[int]:
    """Whether values of this size are classes."""
    return isinstance(size, int)


def has_field(size: Size) -> TypeGuard[Sequence[int]]:
    """Whether values of this size are fields."""
    return not isinstance(size, int) and len(size) > 1


def null_of(size: Size) -> int | float:
    """The value that means "no condition"."""
    return size if isinstance(size, int) else nan


def nothing(sizes: Sequence[Size], count: int, device: torch.device) -> Conditions:
    """y of `count` samples without any condition, for conditions of these sizes."""
    shapes = [() if isinstance(size, int) else tuple(size) for size in sizes]
    return as_conditions(
        [torch.full((count, *shape), null_of(size), device=device) for shape, size in zip(shapes, sizes, strict=True)]
    )


def records(
    conditions: Mapping[str, Condition], held_out: Callable[[Tensor], Conditions], count: int
) -> dict[str, dict[str, Any]]:
    """The record of each condition for the model's folder, which allows sampling without the data.

    For vectors it includes the values of up to 1,000 of the `count` test images, if these are few numbers. held_out: indices -> y
    of test images.
    """
    found = {name: condition.record() for name, condition in conditions.items()}
    sizes, count = [condition.size for condition in conditions.values()], min(_HELD_OUT, count)
    row = sum(1 if isinstance(size, int) else prod(size) for size in sizes)
    if all(map(has_classes, sizes)) or any(map(has_field, sizes)) or row * count > _KEPT_NUMBERS:
        return found
    kept = parts(held_out(torch.arange(count)))
    if all(bool(part.isfinite().all()) for part in kept):
        for record, part in zip(found.values(), kept, strict=True):
            record["held_out"] = [
                row if isinstance(row, int) else [float(f"{value:.9g}") for value in row] for row in part.tolist()
            ]
    return found
