"""The GPU, bf16 in hardware, free disk and free memory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from diffusion_lab.devices import num_cores, precision_of, usable_gpus, visible_gpus
from diffusion_lab.doctor.finding import BROKEN, LACKS, OK, Finding

_GIB = 2**30
_LEAST_DISK = 0.2  # GiB; the default command writes about a tenth of it
_LITTLE_DISK = 5  # GiB; a sweep of larger models writes more
_LITTLE_MEMORY = 2  # GiB; the default command takes about one


def devices() -> Iterator[Finding]:
    """The GPUs that PyTorch can use, or the cores of the CPU."""
    import torch

    cores = f"{num_cores()} CPU core{'s' if num_cores() > 1 else ''}"
    usable = usable_gpus()
    if usable:
        names = sorted({torch.cuda.get_device_name(index) for index in range(len(usable))})
        yield Finding("GPU", OK, f"{len(usable)} ({', '.join(names)}), {cores}")
    elif visible := visible_gpus():
        found = f"{len(visible)} visible, but PyTorch {torch.__version__} can use none of them; training uses {cores}"
        yield Finding("GPU", LACKS, found, "install a PyTorch that was built for your driver (pytorch.org/get-started)")
    else:
        yield Finding(
            "GPU",
            LACKS,
            f"none; training uses {cores}",
            "use a machine with a GPU for images of 32×32 and larger; smaller ones train on a CPU",
        )


def bf16() -> Iterator[Finding]:
    """What trainer.precision=auto comes to."""
    precision = precision_of("auto", on_gpu=bool(usable_gpus()))
    has_it = precision != "32-true"
    yield Finding(
        "bf16", OK if has_it else LACKS,
        f"{'computed in hardware' if has_it else 'not computed in hardware'}; trainer.precision=auto is {precision}",
        "" if has_it else "nothing: training uses float32, which takes longer",
    )  # fmt: skip


def disk(outputs: Path) -> Iterator[Finding]:
    """Whether `outputs` can be written, and how much room there is."""
    folder = next(path for path in (outputs.absolute(), *outputs.absolute().parents) if path.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        yield Finding(
            "disk",
            BROKEN,
            f"{folder} cannot be written",
            "work in a folder that you may write to, or set outputs=FOLDER",
        )
        return
    free = shutil.disk_usage(folder).free / _GIB
    state = BROKEN if free < _LEAST_DISK else LACKS if free < _LITTLE_DISK else OK
    yield Finding(
        "disk",
        state,
        f"{free:,.1f} GiB free for {outputs}",
        "" if state == OK else "free some space, or set outputs=FOLDER on another disk",
    )


def memory() -> Iterator[Finding]:
    """The memory that is free on this machine, or in the container's share of it."""
    free = _free_memory()
    if free is None:
        yield Finding("memory", OK, "not measured on this system")
        return
    enough = free >= _LITTLE_MEMORY * _GIB
    to_do = "" if enough else "close other programs, or train with a smaller data.batch_size"
    yield Finding("memory", OK if enough else LACKS, f"{free / _GIB:,.1f} GiB free", to_do)


def _free_memory(system: Path = Path("/")) -> int | None:
    """Bytes; None where the system does not say so as Linux does."""
    try:
        lines = (system / "proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    try:
        limit, used = ((system / "sys/fs/cgroup" / f"memory.{name}").read_text().strip() for name in ("max", "current"))
    except OSError:
        return free
    return free if limit == "max" else min(free, max(0, int(limit) - int(used)))
