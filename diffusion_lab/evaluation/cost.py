"""What a model costs: parameters, time, memory, arithmetic."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import nn


@dataclass(frozen=True)
class TrainingCost:
    """What training took, as the model directory records it."""

    steps: int
    seconds: float
    images: int


class Stopwatch:
    """Seconds per image, by batch. The first batch also pays for memory, kernels and compilation: it is not counted
    where there is a second one."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.batches: list[tuple[int, float]] = []  # (images, seconds)

    @contextmanager
    def lap(self, images: int) -> Iterator[None]:
        """Times the block, which handles `images` images; waits for the device on both sides."""
        self._wait()
        start = perf_counter()
        yield
        self._wait()
        self.batches.append((images, perf_counter() - start))

    @property
    def warm(self) -> list[tuple[int, float]]:
        """The batches that count."""
        return self.batches[1:] or self.batches

    @property
    def timed_images(self) -> int:
        return sum(images for images, _ in self.warm)

    @property
    def seconds_per_1000(self) -> float:
        return 1000 * sum(seconds for _, seconds in self.warm) / self.timed_images

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def reset_peak_memory(device: torch.device) -> None:
    """Starts a new measurement on a GPU; a process's own peak cannot be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mib(device: torch.device) -> tuple[float | None, str]:
    """(MiB, what was measured): a GPU's allocations since the reset, else the largest this process has been."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20, "largest GPU allocation while drawing samples"
    try:
        import resource
    except ImportError:
        return None, "this system does not tell a process's peak memory"
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    return peak, "largest resident size of the process since it started"
