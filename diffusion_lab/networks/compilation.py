"""torch.compile as an option that never stops a run: without a compiler the network is not compiled, and one line says why."""

import os
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
