"""How batches reach the device that trains: gathered there from images that it holds, or made by a thread, ahead of training."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import tee

import torch
from torch import Tensor

from diffusion_lab.data.checks import require
from diffusion_lab.diffusion.levels import from_levels, to_levels
from diffusion_lab.diffusion.parts import as_conditions, each, parts, rows, where
from diffusion_lab.diffusion.shapes import Conditions

Batch = tuple[Tensor, Conditions]
Pick = tuple[Tensor, Tensor]  # which images, int64 (B,), and whether each is mirrored, bool (B,)

Show = Callable[[Iterable[Tensor]], Iterator[Batch]]  # one batch for each tensor of indices

_SHARE = 0.25  # of a GPU's free memory, which images take without being told to
_AT_ONCE = 500  # images that are read at a time
_AHEAD = 2  # batches that wait


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device, from pinned memory, so that the host does not wait for the copy."""
    return tensor if tensor.device == device else tensor.pin_memory().to(device, non_blocking=True)


def mirrored(batch: Batch, chosen: Tensor) -> Batch:
    """(x, y) with the images that are chosen, bool (B,) on the host, mirrored, and their fields with them."""
    x, y = batch
    if not chosen.any():
        return batch
    chosen = sent(chosen, x.device)
    x = torch.where(chosen.reshape(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)
    return x, where(chosen, each(lambda part: part.flip(-1) if part.ndim > 2 else part, y), y)


def from_host(show: Show, picks: Iterable[Pick]) -> Generator[Batch]:
    """(x, y) of each pick, as the host reads them."""
    picks, again = tee(picks)
    batches = show(indices for indices, _ in picks)
    return (mirrored(batch, chosen) for batch, (_, chosen) in zip(batches, again, strict=True))


@dataclass(frozen=True)
class Held:
    """Images on one device. x: uint8 levels (N, …) where there are at most 256, else float32. y: of each."""

    x: Tensor
    y: Conditions
    num_levels: int | None

    @classmethod
    def of(cls, show: Show, images: Tensor, num_levels: int | None, device: torch.device) -> Held:
        """The images with these indices, int64 (N,)."""
        num_levels = num_levels if num_levels is not None and num_levels <= 256 else None
        held, first = list[Tensor](), 0
        for x, y in show(images.split(_AT_ONCE)):
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
        """Those, if the device is to hold them. DataError where they are to be there and there is no room.

        option: True, False, or "auto", which is True for a GPU where a quarter of its free memory suffices.
        """
        if option is False or (option == "auto" and device.type != "cuda"):
            return None
        needed = len(images) * cls.of(show, images[:1], num_levels, torch.device("cpu")).size
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else math.inf
        if option == "auto" and needed > _SHARE * free:
            return None
        said = (
            f"data.on_device=true: {needed / 2**20:,.0f} MiB of images, but {free / 2**20:,.0f} MiB are free; use auto."
        )
        require(needed <= free, said)
        return cls.of(show, images, num_levels, device)

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(part.numel() * part.element_size() for part in (self.x, *parts(self.y)))

    def batch(self, indices: Tensor, chosen: Tensor) -> Batch:
        """(x, y) of the images of a pick, gathered where they are."""
        indices = sent(indices, self.x.device)
        x = self.x[indices]
        x = x if self.num_levels is None else from_levels(x, self.num_levels)
        return mirrored((x, rows(self.y, indices)), chosen)


def ahead(made: Generator[Batch], device: torch.device) -> Iterator[Batch]:
    """An endless stream, made by a thread that is two batches ahead, in pinned memory for a GPU.

    The first is made by the caller: it may start processes.
    """
    on_gpu = device.type == "cuda"
    start = {"initializer": torch.cuda.set_device, "initargs": (device,)} if on_gpu else {}
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
