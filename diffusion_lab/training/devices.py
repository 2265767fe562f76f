"""The devices of this machine that a command may use, and the number of devices that a job requests.

GPUs are found without initialising CUDA: a process that has done so cannot fork, and holds memory on its first GPU.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

_VISIBLE = "CUDA_VISIBLE_DEVICES"
AUTO_PRECISIONS = ("bf16-mixed", "32-true")  # possible values of trainer.precision=auto
_ALL = ("auto", -1, "-1", None)


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, in the notation of CUDA_VISIBLE_DEVICES: indices, UUIDs or names of MIG slices.

    With CUDA_VISIBLE_DEVICES set these are the first of its names, as many as CUDA finds. Otherwise a GPU that is split into MIG
    slices counts once.
    """
    import torch

    named, count = os.environ.get(_VISIBLE), torch.cuda.device_count()
    return tuple(map(str, range(count)) if named is None else [name.strip() for name in named.split(",")][:count])


def usable_gpus() -> tuple[str, ...]:
    """The visible GPUs that PyTorch can use, in its order: number k is torch.device("cuda", k)."""
    import torch

    return visible_gpus() if torch.cuda.is_available() else ()


def num_cores() -> int:
    """The number of CPU cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def auto_precision(on_gpu: bool) -> str:
    """The precision for trainer.precision=auto: bf16-mixed if the device computes bf16 in hardware, else 32-true."""
    return AUTO_PRECISIONS[0 if _has_bf16(on_gpu) else 1]


@dataclass(frozen=True)
class DeviceRequest:
    """The devices that trainer.accelerator and trainer.devices request: GPUs, or processes on the CPU, one per device.

    on_gpu: whether they are GPUs. size: their number. indices: of the visible GPUs, if the option lists them. everything: whether
    all devices are requested.
    """

    on_gpu: bool
    size: int
    indices: tuple[int, ...] | None = None
    everything: bool = False

    def index(self, local_rank: int) -> int:
        """The index among the visible GPUs for process number `local_rank` of this machine."""
        return local_rank if self.indices is None else self.indices[local_rank]


def requested(
    accelerator: str,
    devices: int | str | Sequence[int] | None,
    gpus: Sequence[str],
    cores: int | None = None,
    prefix: str = "trainer.",
) -> DeviceRequest:
    """The devices that the two options request on a machine with these GPUs. ValueError, in one sentence, if they are missing.

    accelerator: auto (a GPU if there is one), gpu (or cuda), cpu. devices: a number; auto, -1 or None for all GPUs, or one
    process on a CPU; or a list of indices. gpus: the visible GPUs. cores: the most processes on a CPU; None: any number.
    prefix: of both names on the command line.
    """
    if accelerator not in ("auto", "gpu", "cuda", "cpu"):
        raise ValueError(f"{prefix}accelerator={accelerator}: choose auto, gpu or cpu")
    on_gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and len(gpus) > 0)
    if on_gpu and not gpus:
        raise ValueError(
            f"{prefix}accelerator={accelerator}: there is no GPU here that PyTorch can use{_restriction()}; use auto or cpu"
        )
    if devices in _ALL:
        return DeviceRequest(on_gpu, len(gpus) if on_gpu else 1, everything=True)
    indices = tuple(devices) if isinstance(devices, Sequence) and not isinstance(devices, str) else None
    size = len(set(indices)) if indices else int(str(devices)) if str(devices).isdecimal() else 0
    if size < 1 or (indices and (size < len(indices) or not all(str(index).isdecimal() for index in indices))):
        raise ValueError(f"{prefix}devices={devices}: give a number of devices, or auto for all")
    if on_gpu and max(indices or (size - 1,)) >= len(gpus):
        raise ValueError(f"{prefix}devices={devices}: the number of GPUs visible here is {len(gpus)}{_restriction()}")
    if not on_gpu and cores is not None and size > cores:
        raise ValueError(
            f"{prefix}devices={devices}: each process needs a core of its own; the number of CPU cores here is {cores}"
        )
    return DeviceRequest(on_gpu, size, indices)


@dataclass(frozen=True)
class JobDevices:
    """The devices of a job. gpus: one per process, empty for the CPU. processes: their number. threads: of each process."""

    gpus: tuple[str, ...]
    processes: int
    threads: int

    def __str__(self) -> str:
        """A description: "GPU 5", "GPUs 4, 5", "CPU, 1 thread", "CPU, 2 processes of 1 thread"."""
        if self.gpus:
            names = ", ".join(self.gpus)
            return names if "-" in names else f"GPU{'s' if len(self.gpus) > 1 else ''} {names}"
        each = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"CPU, {each}" if self.processes == 1 else f"CPU, {self.processes} processes of {each}"


def _has_bf16(on_gpu: bool) -> bool:
    """Whether the device computes bf16 in hardware; torch's emulation is slower than float32."""
    import torch

    if on_gpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _restriction() -> str:
    wanted = os.environ.get(_VISIBLE)
    return "" if wanted is None else f" ({_VISIBLE}={wanted})"
