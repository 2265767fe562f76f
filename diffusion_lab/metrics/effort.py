"""The cost of drawing samples: seconds of each batch, memory, and the machine."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import torch

from diffusion_lab.metrics.reference import UnmeasurableError


@dataclass(frozen=True)
class Effort:
    """The cost of drawing some samples, with the machine, because times on different machines must not be combined.

    laps: (images, seconds) of each batch. cold: whether the first of them is the first of its process, which also pays for memory,
    kernels and compilation. device: the GPU's name, or "cpu". threads: of torch on the CPU. nfe: network evaluations per sample.
    peak_memory_mib: in MiB; peak_memory_of: a description of the measured memory.
    """

    laps: list[tuple[int, float]]
    cold: bool
    device: str
    threads: int
    nfe: int
    peak_memory_mib: float
    peak_memory_of: str


def timed(efforts: Sequence[Effort]) -> list[tuple[int, float]]:
    """The batches (images, seconds) used to measure the cost: without the first of each process, if there are others."""
    warm = [lap for effort in efforts for lap in effort.laps[effort.cold :]]
    return warm or [lap for effort in efforts for lap in effort.laps]


def seconds_per_1000(efforts: Sequence[Effort]) -> float:
    """Seconds to draw 1000 samples; UnmeasurableError if they were not all drawn on the same device."""
    machines = sorted({f"{effort.device} with {effort.threads} threads" for effort in efforts})
    if len(machines) > 1:
        raise UnmeasurableError(f"some samples were drawn on {machines[0]}, others on {machines[1]}")
    laps = timed(efforts)
    return 1000 * sum(seconds for _, seconds in laps) / sum(images for images, _ in laps)


def device_name(device: torch.device) -> str:
    """The GPU's name, or "cpu": times depend on it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def peak_memory(device: torch.device) -> tuple[float, str]:
    """(MiB, a description of it): a GPU's largest allocation while drawing, or the largest size of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20, "largest GPU allocation while drawing samples"
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    return peak, "largest resident size of the process since it started"


def now(device: torch.device) -> float:
    """The time in seconds, after all work on the device has ended."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()
