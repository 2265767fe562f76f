"""Data sets in memory: images as uint8 or uint16 levels, points as float32, or real numbers read on demand. No worker processes."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffusion_lab.data.module import DataModule, Item
from diffusion_lab.data.order import held_out
from diffusion_lab.data.reals import Rows
from diffusion_lab.diffusion.levels import from_levels


@dataclass(frozen=True)
class Split:
    """One split of a data set.

    values: uint8 or uint16 levels (N, C, H, W), or float32 points (N, D), or rows of real numbers. labels: int64 (N,), or None
    without classes. beside: further attributes of the images, by name: "vector" (N, D); "field" (N, C, *spatial).
    """

    values: Tensor | Rows
    labels: Tensor | None
    beside: dict[str, Tensor | Rows] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def num_classes(self) -> int | None:
        """One more than the highest label; None without labels."""
        return None if self.labels is None else int(self.labels.max()) + 1

    def parted(self, share: float) -> tuple[Split, Split]:
        """(training split, test split), of which the second is a fixed random `share`."""
        is_test = held_out(len(self), share)
        train, test = (self._only(of.nonzero().flatten()) for of in (~is_test, is_test))
        return train, test

    def _only(self, places: Tensor) -> Split:
        def some(rows: Tensor | Rows) -> Tensor | Rows:
            return rows.only(places) if isinstance(rows, Rows) else rows[places]

        beside = {name: some(rows) for name, rows in self.beside.items()}
        return Split(some(self.values), None if self.labels is None else self.labels[places], beside)


class InMemoryDataModule(DataModule):
    """A data module with both splits in memory. A subclass states name, num_classes and num_levels, and reads the splits."""

    holdable = True

    @abstractmethod
    def _read(self) -> tuple[Split, Split]:
        """The training and the test split."""

    def _load(self) -> None:
        train, test = self._read()
        self._splits = {"train": train, "test": test}
        self.shape = tuple(train.values.shape[1:])
        self.num_train, self.num_test = len(train), len(test)
        self.identity = self._identify(train, test)
        self.on_disk = any(isinstance(part, Rows) for part in (train.values, *train.beside.values()))

    def _identify(self, train: Split, test: Split) -> str:
        """The SHA-256 of the content in memory, so that equal images from different files have equal digests."""
        parts = [(split.values, split.labels, *split.beside.values()) for split in (train, test)]
        return hash_of(tensor for part in parts for tensor in part if isinstance(tensor, Tensor))

    def _classes(self, split: str) -> Tensor | None:
        return self._splits[split].labels

    def _vectors(self, split: str) -> Tensor | Rows | None:
        return self._splits[split].beside.get("vector")

    def _show(self, split: str, picks: Iterable[Tensor]) -> Iterator[Item]:
        here = self._splits[split]
        given = here.beside if here.labels is None else {"classes": here.labels, **here.beside}
        for pick in picks:
            x = here.values[pick]
            x = x if self.num_levels is None else from_levels(x, self.num_levels)
            yield x, {name: rows[pick] for name, rows in given.items()}


def hash_of(tensors: Iterable[Tensor]) -> str:
    """The SHA-256 of shapes, types and values."""
    content = hashlib.sha256()
    for tensor in tensors:
        content.update(f"{tuple(tensor.shape)} {tensor.dtype};".encode())
        content.update(tensor.numpy().tobytes())
    return content.hexdigest()


class OneSet(InMemoryDataModule):
    """Images, possibly none, as the split `train`; nothing is held out, and they have no classes.

    name: of the set. levels: uint8 or uint16 (N, C, H, W), from 0 to num_levels − 1. identity: the SHA-256 of the content.
    """

    num_classes = None
    num_levels: int

    def __init__(self, name: str, levels: Tensor, num_levels: int, identity: str) -> None:
        super().__init__(batch_size=1, seed=0)
        self.name, self.num_levels, self._levels, self._given_identity = name, num_levels, levels, identity

    def at(self, indices: Tensor) -> Tensor:
        """float32 (B, C, H, W): the images with these indices, int64 (B,)."""
        return from_levels(self._levels[indices], self.num_levels)

    def _read(self) -> tuple[Split, Split]:
        return Split(self._levels, None), Split(torch.empty_like(self._levels[:0]), None)

    def _identify(self, train: Split, test: Split) -> str:
        return self._given_identity
