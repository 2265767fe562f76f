"""Opening a checkpoint of any supported format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from diffusion_lab.interop import from_denoising_diffusion_pytorch, from_diffusers, from_openai
from diffusion_lab.interop.checkpoints import CheckpointError, Imported, read_saved

# Options of the command for some formats.
OPTIONS = tuple(sorted(from_diffusers.TAKES | from_denoising_diffusion_pytorch.TAKES | from_openai.TAKES))


def opened(path: Path, given: Mapping[str, str]) -> Imported:
    """The model in a diffusers folder, a milestone of denoising-diffusion-pytorch or a state dict of OpenAI's code.

    given: the user's options among `OPTIONS`, and their prediction. CheckpointError or RunError, in one
    sentence, if it cannot be imported, or if an option does not belong to its format.
    """
    if path.is_dir():
        _check_options(given, from_diffusers.TAKES, "a folder of diffusers")
        return from_diffusers.opened(path, given)
    saved = read_saved(path)
    if isinstance(saved, dict) and from_denoising_diffusion_pytorch.is_milestone(saved):
        _check_options(given, from_denoising_diffusion_pytorch.TAKES, "a milestone of denoising-diffusion-pytorch")
        return from_denoising_diffusion_pytorch.opened(path, saved, given)
    _check_options(given, from_openai.TAKES, "a state dict of OpenAI's code")
    return from_openai.opened(path, saved, given)


def _check_options(given: Mapping[str, str], taken: frozenset[str], what: str) -> None:
    for name in sorted(given.keys() & set(OPTIONS)):
        if name not in taken:
            raise CheckpointError(f"{name}={given[name]} has no effect for {what}: remove it")
