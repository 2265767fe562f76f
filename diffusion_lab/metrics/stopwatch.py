"""What a model costs: time, memory, parameters."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import nn


@dataclass(frozen=True)
class TrainingCost:
    """What training took, as the model directory records it. None: it was not recorded."""

    steps: int | None
    seconds: float | None
    images: int | None


@dataclass(frozen=True)
class Lap:
    """One batch. The first of a process also pays for memory, kernels and compilation."""

    images: int
    seconds: float
    first: bool


@dataclass(frozen=True)
class Effort:
    """What drawing some samples took, and on what: times on different machines are not one number."""

    laps: list[Lap]
    device: str
    threads: int
    nfe: int
    peak_memory_mib: float | None
    peak_memory_of: str


class Stopwatch:
    """Seconds of each batch that this process handles."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.laps: list[Lap] = []

    @contextmanager
    def lap(self, images: int) -> Iterator[None]:
        """Times the block, which handles `images` images; waits for the device on both sides."""
        self._wait()
        start = perf_counter()
        yield
        self._wait()
        self.laps.append(Lap(images, perf_counter() - start, first=not self.laps))

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def counted(laps: Sequence[Lap]) -> list[Lap]:
    """The batches from which the cost is measured: not the first of a process, if there are others."""
    return [lap for lap in laps if not lap.first] or list(laps)


def seconds_per_1000(laps: Sequence[Lap]) -> float:
    """Seconds per 1000 images of the batches that count."""
    warm = counted(laps)
    return 1000 * sum(lap.seconds for lap in warm) / sum(lap.images for lap in warm)


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def device_name(device: torch.device) -> str:
    """What times depend on: the GPU's name, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


class PeakMemory:
    """The most memory that was taken, on a GPU since this object was made; a process's own peak cannot be reset."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    @property
    def mib(self) -> tuple[float | None, str]:
        """(MiB, what was measured): a GPU's allocations, else the largest this process has been."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20, "largest GPU allocation while drawing samples"
        try:
            import resource
        except ImportError:
            return None, "this system does not report the peak memory of a process"
        unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
        return peak, "largest resident size of the process since it started"
