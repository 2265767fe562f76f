"""Faster training: torch.compile where a compiler is available, TF32, and reuse of freed memory."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

if TYPE_CHECKING:
    from diffusion_lab.models.trainable import TrainableModel


def compile_model(model: TrainableModel, how: bool | str) -> str | None:
    """Compile the functions that a training step evaluates, and `model.network`. Arguments and result as in `compile_network`."""
    notice = compile_network(model.network, how)
    if notice is None:
        model.compile_step(partial(_compiled, how=how))
    return notice


def compile_network(network: nn.Module, how: bool | str = True) -> str | None:
    """Compile `network` in place. Returns None, or one line if this machine has no compiler and nothing was done.

    Compiling in place keeps parameters, state_dict keys and the class. Compilation happens in the first call and takes a minute or
    two for a U-Net: worthwhile for long runs only. how: True; False: do nothing; "graphs": a GPU replays recorded kernels, which
    the host does not launch one by one.
    """
    if not how:
        return None
    missing = missing_for(next(network.parameters()).device)
    if missing:
        return f"torch.compile is off: {missing}; the run continues without it"
    network._compiled_call_impl = _compiled(network._call_impl, how)  # as nn.Module.compile does
    return None


def _compiled(function: Callable[..., Any], how: bool | str) -> Callable[..., Any]:
    if how != "graphs":
        return torch.compile(function)
    recorded = torch.compile(function, mode="reduce-overhead", dynamic=False)
    # The next call overwrites the output of a graph.
    return lambda *args: tree_map(torch.clone, recorded(*args))


def check_compile(how: bool | str, on_gpu: bool | None, num_parts: int | None, model: TrainableModel) -> None:
    """ValueError for a value of compile=… that cannot work. how: the value. on_gpu: None if the device is not known yet.

    num_parts: of a batch in training; None for a trained model.
    """
    if how not in (True, False, "graphs"):
        raise ValueError(f"compile={how}: choose true, graphs or false")
    if how == "graphs" and on_gpu is False:
        raise ValueError("compile=graphs needs a GPU: use compile=true")
    model.check_compile(how, trained=num_parts is None)
    if how == "graphs" and num_parts not in (None, 1):
        raise ValueError("compile=graphs needs whole batches: use trainer.accumulate_grad_batches=1 or compile=true")


def missing_for(device: torch.device) -> str | None:
    """A phrase on the part of torch.compile that is missing for `device`, or None.

    A GPU needs Triton, a CPU a compiler and Python's headers.
    """
    if device.type != "cpu":
        from torch.utils._triton import has_triton

        return None if has_triton() else f"Triton is not installed for {device.type}"
    compiler = os.environ.get("CXX") or {"darwin": "clang++"}.get(sys.platform, "g++")
    if shutil.which(compiler) is None:
        return f"the C++ compiler {compiler} was not found (install it, or name yours in CXX)"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "Python.h was not found (install Python's development headers)"
    return None


@contextmanager
def tf32(on_gpu: bool) -> Iterator[None]:
    """In the block, products of float32 matrices on a GPU round their factors to 10 bits (TF32), like cuDNN's convolutions."""
    before = torch.get_float32_matmul_precision()
    try:
        if on_gpu:
            torch.set_float32_matmul_precision("high")
        yield
    finally:
        torch.set_float32_matmul_precision(before)


# Peak rates of dense bf16 products, from the makers, by a part of the card's name; the first match counts.
_PEAKS = (
    ("B200", 2.25e15), ("GH200", 9.89e14), ("H200", 9.89e14), ("H100 PCIe", 7.56e14), ("H100 NVL", 8.35e14), ("H100", 9.89e14),
    ("A100", 3.12e14), ("A10G", 7.0e13), ("A10", 1.25e14), ("A40", 1.497e14), ("RTX A6000", 1.548e14), ("RTX 6000 Ada", 3.64e14),
    ("L40S", 3.62e14), ("L40", 1.81e14), ("L4", 1.21e14), ("RTX 5090", 2.095e14), ("RTX 4090", 1.652e14), ("RTX 3090", 7.1e13),
)  # fmt: skip


def peak_flops(device: torch.device) -> float | None:
    """The maker's peak operations per second of a GPU for bf16 without sparsity; None if it is not in the table."""
    return peak_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def peak_of(name: str) -> float | None:
    """`peak_flops` by the name of a GPU."""
    return next((peak for part, peak in _PEAKS if part in name), None)


def keep_freed_memory() -> bool:
    """Let this process keep freed memory, which is faster on a CPU. True if the C library supports it (glibc).

    Every training step allocates and frees the same few hundred activations. By default glibc returns large freed blocks to the
    kernel, which zeroes them page by page at the next allocation: about a tenth of the time of a training step of a small U-Net.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # From glibc's malloc.h: M_MMAP_MAX, M_TRIM_THRESHOLD (never) and M_TOP_PAD.
    return all(mallopt(option, value) == 1 for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 2**26)))
