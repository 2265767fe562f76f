"""Faster training on this machine: torch.compile, where there is a compiler, and freed memory that is kept."""

import ctypes
import os
import platform
import shutil
import sys
import sysconfig
from pathlib import Path

import torch
from torch import nn


def compile_network(network: nn.Module) -> str | None:
    """Compile `network` in place. Returns None, or one line of notice where this machine has no compiler and nothing was done.

    In place (nn.Module.compile), so parameters, state_dict keys and the class stay what they were. The work is done at
    the first call and takes a minute or two for a U-Net: worth it for long runs only.
    """
    missing = missing_for(next(network.parameters()).device)
    if missing:
        return f"torch.compile is off: {missing}; the run continues without it"
    network.compile()
    return None


def missing_for(device: torch.device) -> str | None:
    """What torch.compile lacks here for `device`, or None: Triton for a GPU, a compiler and Python's headers for a CPU."""
    if device.type != "cpu":
        from torch.utils._triton import has_triton

        return None if has_triton() else f"Triton is not installed for {device.type}"
    compiler = os.environ.get("CXX") or {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    if shutil.which(compiler) is None:
        return f"the C++ compiler {compiler} was not found (install it, or name yours in CXX)"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "Python.h was not found (install Python's development headers)"
    return None


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, for speed on a CPU. True where the C library can (glibc).

    Every training step allocates and frees the same few hundred activations. By default glibc hands large freed blocks back to the
    kernel, which zeroes them page by page when the next step allocates again: about a tenth of a training step of a small U-Net.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # As in glibc's malloc.h: M_MMAP_MAX, M_TRIM_THRESHOLD (never) and M_TOP_PAD.
    return all(mallopt(option, value) == 1 for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 2**26)))
