"""From a published checkpoint and its flags to the options that make the same model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from diffusion_lab.from_config.mistakes import MistakeError
from diffusion_lab.from_config.trained import quoted
from diffusion_lab.interop.openai_flags import described, only_guided
from diffusion_lab.interop.openai_presets import GUIDED, PRESETS, UPSAMPLERS

if TYPE_CHECKING:
    from torch import Tensor

_OWN = ("checkpoint", "flags", "code")  # options of the command, quoted anew: flags hold commas and spaces
_LOGITS, _LABELS = "out.2.c_proj.bias", "label_emb.weight"  # as long as there are classes


def with_described_parts(options: list[str]) -> list[str]:
    """`options`, after those that the flags of the checkpoint ask for, so that the user's own count in their place."""
    from diffusion_lab.interop.checkpoints import read_tensors

    own = {key: value for key, _, value in (option.partition("=") for option in options) if key in _OWN}
    own = {key: value.strip("'\"") for key, value in own.items()}
    if own.get("checkpoint") is None:
        raise MistakeError("name the file, as in checkpoint=cifar10_uncond_50M_500K.pt")
    path = Path(own["checkpoint"])
    code, flags = code_and_flags(path, own.get("code"), own.get("flags"))
    tensors = read_tensors(path)
    is_classifier = _LOGITS in tensors
    found = described(code, flags, is_classifier)
    facts = [
        f"facts.shape=[3,{found.image_size},{found.image_size}]",
        f"facts.size={found.image_size}",
        "facts.channels=3",
        "facts.num_levels=256",
        "facts.bounded=true",
        f"facts.num_classes={_num_classes(tensors, is_classifier) if found.conditional else 'null'}",
        f"legacy_heads={str(found.legacy_heads).lower()}",
    ]
    own = {"checkpoint": str(path), "code": code, "flags": flags}
    added = [*found.options, *facts, *(f"{key}={quoted(value)}" for key, value in own.items())]
    first = next((i for i, option in enumerate(options) if "=" in option and not option.startswith("-")), len(options))
    given = [option for option in options[first:] if option.partition("=")[0] not in _OWN]
    return [*options[:first], *added, *given]


def code_and_flags(path: Path, code: str | None, flags: str | None) -> tuple[str, str]:
    """Those given, or those of the published file of that name. MistakeError where nothing says them."""
    if path.stem in UPSAMPLERS:
        raise MistakeError(f"checkpoint={path}: upsamplers see a smaller image beside x_t; they are not imported")
    preset = PRESETS.get(path.stem)
    if flags is None and preset is not None:
        return preset
    if flags is None:
        raise MistakeError(
            f"checkpoint={path}: no published file is called {path.stem}; give its flags, as in "
            'flags="--image_size 64 --num_channels 128" code=improved_diffusion'
        )
    code = code or (GUIDED if only_guided(flags) else preset[0] if preset is not None else None)
    if code is None:
        raise MistakeError(
            "flags: the two repositories read them differently; add code=improved_diffusion or code=guided_diffusion"
        )
    return code, flags


def _num_classes(tensors: Mapping[str, Tensor], is_classifier: bool) -> int:
    """Rows of the table of labels, or logits; 1000 where there are none, which the weights will be found not to fit."""
    rows = tensors.get(_LOGITS if is_classifier else _LABELS)
    return 1000 if rows is None or rows.ndim == 0 else len(rows)
