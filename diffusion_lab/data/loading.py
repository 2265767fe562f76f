"""Batches for the training device: gathered there from images in its memory, or prepared ahead by a thread."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import tee
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from diffusion_lab.data.checks import one_of, require
from diffusion_lab.diffusion.condition_parts import as_conditions, each, parts, rows, where
from diffusion_lab.diffusion.levels import from_levels, to_levels
from diffusion_lab.diffusion.shapes import Conditions

Batch = tuple[Tensor, Conditions]
Pick = tuple[Tensor, Tensor]  # indices of images, int64 (B,), and whether each is mirrored, bool (B,)

Show = Callable[[Iterable[Tensor]], Iterator[Batch]]  # one batch for each tensor of indices

_SHARE = 0.25  # of a GPU's free memory, the most that images take with "auto"
_AT_ONCE = 2**22  # bytes of images that are read at a time
_AHEAD = 2  # batches prepared in advance


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device, copied from pinned memory, so that the host does not wait."""
    return tensor if tensor.device == device else tensor.pin_memory().to(device, non_blocking=True)


def mirrored(batch: Batch, chosen: Tensor) -> Batch:
    """(x, y) with some images and their fields mirrored. chosen: which of them, bool (B,) on the host."""
    x, y = batch
    if not chosen.any():
        return batch
    chosen = sent(chosen, x.device)
    x = torch.where(chosen.reshape(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)
    return x, where(chosen, each(lambda part: part.flip(-1) if part.ndim > 2 else part, y), y)


def from_host(show: Show, picks: Iterable[Pick]) -> Generator[Batch]:
    """(x, y) of each pick, read by the host. show: one batch for each tensor of indices."""
    picks, again = tee(picks)
    batches = show(indices for indices, _ in picks)
    return (mirrored(batch, chosen) for batch, (_, chosen) in zip(batches, again, strict=True))


@dataclass(frozen=True)
class Held:
    """Images in the memory of one device.

    x: uint8 levels (N, …) if there are at most 256, else float32. y: the conditions of each. num_levels: of the data; None without.
    """

    x: Tensor
    y: Conditions
    num_levels: int | None

    @classmethod
    def of(cls, show: Show, images: Tensor, num_levels: int | None, device: torch.device, at_once: int = 1) -> Held:
        """The images with these indices, int64 (N,), read `at_once` at a time.

        show: one batch for each tensor of indices. num_levels: of the data; None without levels. device: where they are held.
        """
        num_levels = num_levels if num_levels is not None and num_levels <= 256 else None
        held, first = list[Tensor](), 0
        for x, y in show(images.split(at_once)):
            some = (x if num_levels is None else to_levels(x, num_levels), *parts(y))
            held = held or [torch.empty(len(images), *part.shape[1:], dtype=part.dtype, device=device) for part in some]
            for whole, part in zip(held, some, strict=True):
                whole[first : first + len(x)] = part
            first += len(x)
        return cls(held[0], as_conditions(held[1:]), num_levels)

    @classmethod
    def wanted(
        cls, option: str | bool, show: Show, images: Tensor, num_levels: int | None, device: torch.device
    ) -> Held | None:
        """The images with these indices, int64 (N,), on the device, or None. DataError if they are requested but do not fit.

        option: True, False, or "auto", which is True for a GPU if a quarter of its free memory suffices.
        show, num_levels, device: as in `of`.
        """
        if option is False or (option == "auto" and device.type != "cuda"):
            return None
        of_one = cls.of(show, images[:1], num_levels, torch.device("cpu")).size
        needed = len(images) * of_one
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else math.inf
        if option == "auto" and needed > _SHARE * free:
            return None
        said = (
            f"data.on_device=true: {needed / 2**20:,.0f} MiB of images, but {free / 2**20:,.0f} MiB are free; use auto."
        )
        require(needed <= free, said)
        return cls.of(show, images, num_levels, device, max(1, _AT_ONCE // of_one))

    @property
    def size(self) -> int:
        """The size in bytes."""
        return sum(part.numel() * part.element_size() for part in (self.x, *parts(self.y)))

    def batch(self, indices: Tensor, chosen: Tensor) -> Batch:
        """(x, y) of the images of a pick, gathered on the device."""
        indices = sent(indices, self.x.device)
        x = self.x[indices]
        x = x if self.num_levels is None else from_levels(x, self.num_levels)
        return mirrored((x, rows(self.y, indices)), chosen)


def ahead(made: Generator[Batch], device: torch.device) -> Iterator[Batch]:
    """An endless stream of batches, prepared by a thread that is two batches ahead, in pinned memory for a GPU.

    The caller makes the first one, because it may start processes.
    """
    on_gpu = device.type == "cuda"
    start: dict[str, Any] = {"initializer": torch.cuda.set_device, "initargs": (device,)} if on_gpu else {}
    with closing(made), ThreadPoolExecutor(1, "batches", **start) as thread:

        def one() -> Batch:
            x, y = next(made)
            return (x.pin_memory(), each(Tensor.pin_memory, y)) if on_gpu else (x, y)

        ready = one()
        coming = deque(thread.submit(one) for _ in range(_AHEAD))
        while True:
            yield ready
            ready = coming.popleft().result()
            coming.append(thread.submit(one))


class LoadingDataModule(LightningDataModule):
    """A data module that prepares batches for the training device.

    holdable: whether a GPU may hold its images, because none is decoded each time it is shown. on_disk: whether they are read from
    a file on demand.
    """

    name: str
    num_levels: int | None
    holdable: ClassVar[bool] = False
    on_disk: bool = False

    def __init__(self) -> None:
        super().__init__()
        self._on_device: str | bool = "auto"
        self._held: Held | None = None

    def hold_on_device(self, option: str | bool) -> None:
        """Set whether the training GPU holds the training images: `option` of `Held.wanted`."""
        one_of(("auto", True, False), on_device=option)
        said = f"data.on_device=true: {self.name} decodes its images as they are needed; use auto."
        require(option is not True or self.holdable, said)
        self._on_device = option

    def made(self, show: Show, images: Tensor, picks: Iterable[Pick]) -> Iterator[Batch]:
        """The batches of an endless stream of picks, whose indices count the training images in `images`."""
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        if self.holdable and self._held is None:
            self._held = Held.wanted(self._on_device, show, images, self.num_levels, device)
        if (held := self._held) is not None:
            return (held.batch(*pick) for pick in picks)
        made = from_host(show, ((images[places], chosen) for places, chosen in picks))
        return ahead(made, device) if self.on_disk or device.type == "cuda" else made

    def teardown(self, stage: str | None = None) -> None:
        self._held = None
