"""Opening a checkpoint of any supported format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from diffusion_lab.interop import from_diffusers, from_jit, from_openai
from diffusion_lab.interop.checkpoints import CheckpointError, Imported, read_tensors

# Options of the command for some formats.
OPTIONS = tuple(sorted(from_diffusers.TAKES | from_openai.TAKES))


def opened(path: Path, given: Mapping[str, str]) -> Imported:
    """The model in a diffusers folder, or in a state dict of JiT or of OpenAI's code.

    given: the user's options among `OPTIONS`. CheckpointError or RunError, in one sentence, if it cannot be imported, or if an
    option does not belong to its format.
    """
    if path.is_dir():
        _check_options(given, from_diffusers.TAKES, "a folder of diffusers")
        return from_diffusers.opened(path, given)
    tensors = read_tensors(path)
    if from_jit.is_jit(tensors):
        _check_options(given, frozenset(), "a checkpoint of JiT")
        return from_jit.opened(path, tensors)
    _check_options(given, from_openai.TAKES, "a state dict of OpenAI's code")
    return from_openai.opened(path, tensors, given)


def _check_options(given: Mapping[str, str], taken: frozenset[str], what: str) -> None:
    for name in sorted(given.keys() & set(OPTIONS)):
        if name not in taken:
            raise CheckpointError(f"{name}={given[name]} has no effect for {what}: remove it")
