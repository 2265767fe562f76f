"""The devices of this machine that a command may use, and how many of them a job requests.

Found without touching a GPU: a process that has initialised CUDA cannot fork any more, and holds memory on its first GPU.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_ANSWER_SECONDS = 60
_ALL = ("auto", -1, "-1", None)


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that this process may use: indices, UUIDs or MIG names, as CUDA_VISIBLE_DEVICES takes them.

    CUDA_VISIBLE_DEVICES restricts them by CUDA's own rules: the first name of no device ends the list, and a name that
    stands twice empties it. Without it they are all of the machine's; a GPU that is split counts as its MIG slices.
    """
    names, listed = _named(), _listed()
    if listed is None:  # no nvidia-smi: an AMD GPU, a container without it, or no GPU
        import torch

        return _first(names, torch.cuda.device_count())
    if names is None:
        return tuple(name for index, gpu in enumerate(listed) for name in gpu.slices or [str(index)])
    if len(set(names)) < len(names):
        return ()
    return tuple(takewhile(lambda name: _exists(name, listed), names))


def usable_gpus() -> tuple[str, ...]:
    """Those of them that PyTorch can use in this process, in its order: number k is torch.device("cuda", k)."""
    import torch

    return _first(_named(), torch.cuda.device_count() if torch.cuda.is_available() else 0)


def num_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def precision_of(option: str | int, on_gpu: bool) -> str | int:
    """What trainer.precision comes to here; auto: bf16-mixed where the device computes bf16 in hardware, else 32-true."""
    if option != "auto":
        return option
    return "bf16-mixed" if _has_bf16(on_gpu) else "32-true"


@dataclass(frozen=True)
class Request:
    """What trainer.accelerator and trainer.devices request on a machine: GPUs, or processes of its CPU, one per device.

    indices: which of the GPUs that are visible, where a list says it. everything: all devices are wanted.
    """

    on_gpu: bool
    size: int
    indices: tuple[int, ...] | None = None
    everything: bool = False

    def index(self, local_rank: int) -> int:
        """Which of the visible GPUs process number `local_rank` of this machine takes."""
        return local_rank if self.indices is None else self.indices[local_rank]


def requested(
    accelerator: str,
    devices: int | str | Sequence[int] | None,
    gpus: Sequence[str],
    cores: int | None = None,
    prefix: str = "trainer.",
) -> Request:
    """The devices that the two options request on a machine with these GPUs. ValueError, in one sentence, if it lacks them.

    accelerator: auto (a GPU where there is one), gpu (or cuda), cpu. devices: a number; auto, -1 or None, which are all GPUs
    and on a CPU one process; or a list of indices. cores: the most processes on a CPU; None: any number. `prefix` stands before
    both names on the command line.
    """
    if accelerator not in ("auto", "gpu", "cuda", "cpu"):
        raise ValueError(f"{prefix}accelerator={accelerator}: choose auto, gpu or cpu")
    on_gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and len(gpus) > 0)
    if on_gpu and not gpus:
        raise ValueError(
            f"{prefix}accelerator={accelerator}: there is no GPU here that PyTorch can use{_restriction()}; use auto or cpu"
        )
    if devices in _ALL:
        return Request(on_gpu, len(gpus) if on_gpu else 1, everything=True)
    indices = tuple(devices) if isinstance(devices, Sequence) and not isinstance(devices, str) else None
    size = len(set(indices)) if indices else int(str(devices)) if str(devices).isdecimal() else 0
    if size < 1 or (indices and (size < len(indices) or not all(str(index).isdecimal() for index in indices))):
        raise ValueError(f"{prefix}devices={devices}: give a number of devices, or auto for all")
    if on_gpu and max(indices or (size - 1,)) >= len(gpus):
        visible = "1 GPU is" if len(gpus) == 1 else f"{len(gpus)} GPUs are"
        raise ValueError(f"{prefix}devices={devices}: {visible} visible here{_restriction()}")
    if not on_gpu and cores is not None and size > cores:
        available = "1 CPU core is" if cores == 1 else f"{cores} CPU cores are"
        raise ValueError(
            f"{prefix}devices={devices}: each process needs a core of its own, and {available} available here"
        )
    return Request(on_gpu, size, indices)


@dataclass(frozen=True)
class Place:
    """Where a job runs: on these GPUs, one a process, or else on the CPU. threads: of each process."""

    gpus: tuple[str, ...]
    processes: int
    threads: int

    def __str__(self) -> str:
        """ "GPU 5", "GPUs 4, 5", "CPU, 1 thread", "CPU, 2 processes of 1 thread"."""
        if self.gpus:
            names = ", ".join(self.gpus)
            return names if "-" in names else f"GPU{'s' if len(self.gpus) > 1 else ''} {names}"
        each = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"CPU, {each}" if self.processes == 1 else f"CPU, {self.processes} processes of {each}"


@dataclass(frozen=True)
class _Gpu:
    """One of the machine's GPUs; slices: the UUIDs of its MIG parts, where it is split."""

    uuid: str
    slices: list[str]


def _has_bf16(on_gpu: bool) -> bool:
    """Not what torch can emulate, which is slower than float32."""
    import torch

    if on_gpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _listed() -> list[_Gpu] | None:
    """All of the machine, as `nvidia-smi -L` lists them; None: it does not."""
    try:
        said = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    gpus: list[_Gpu] = []
    for kind, uuid in re.findall(r"^\s*(GPU|MIG)\b.*\(UUID: (\S+)\)", said.stdout, flags=re.MULTILINE):
        if kind == "GPU":
            gpus.append(_Gpu(uuid, []))
        else:
            gpus[-1].slices.append(uuid)
    return gpus


def _exists(name: str, gpus: Sequence[_Gpu]) -> bool:
    """Whether an index, or a UUID or its beginning, is that of one device."""
    if name.isdecimal():
        return int(name) < len(gpus)
    older = re.fullmatch(r"MIG-(GPU-.+)/\d+/\d+", name)  # how older drivers call a slice
    if older:
        return older[1] in [gpu.uuid for gpu in gpus]
    uuids = [uuid for gpu in gpus for uuid in (gpu.uuid, *gpu.slices)]
    return name.startswith(("GPU-", "MIG-")) and sum(uuid.startswith(name) for uuid in uuids) == 1


def _named() -> tuple[str, ...] | None:
    """What CUDA_VISIBLE_DEVICES names; None: it is not set."""
    wanted = os.environ.get(_VISIBLE)
    return None if wanted is None else tuple(name.strip() for name in wanted.split(","))


def _first(names: tuple[str, ...] | None, count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)) if names is None else names[:count])


def _restriction() -> str:
    wanted = os.environ.get(_VISIBLE)
    return "" if wanted is None else f" ({_VISIBLE}={wanted})"
