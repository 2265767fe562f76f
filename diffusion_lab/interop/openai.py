"""A checkpoint of openai/improved-diffusion or openai/guided-diffusion, a state dict, with the flags that describe its network."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from diffusion_lab.interop.checkpoints import CheckpointError, tensors_in
from diffusion_lab.interop.imported import Imported
from diffusion_lab.interop.openai_flags import described, only_guided
from diffusion_lab.interop.openai_presets import GUIDED, PRESETS, UPSAMPLERS
from diffusion_lab.interop.openai_weights import to_our_network

TAKES = frozenset(("flags", "code"))  # options of the command
_LOGITS, _LABELS = "out.2.c_proj.bias", "label_emb.weight"  # as long as there are classes


def opened(file: Path, saved: object, given: Mapping[str, str]) -> Imported:
    """The model in `saved`, which was read from `file`. given: the user's options of `TAKES`.

    CheckpointError, in one sentence, where it is none.
    """
    code, flags = code_and_flags(file, given.get("code"), given.get("flags"))
    tensors = tensors_in(saved, file)
    is_classifier = _LOGITS in tensors
    found = described(code, flags, is_classifier)
    return Imported(
        options=found.options,
        shape=(3, found.image_size, found.image_size),
        num_classes=_num_classes(tensors, is_classifier) if found.conditional else None,
        tensors=tensors,
        weights=partial(_of_network, tensors, found.legacy_heads),
        file=file,
        origin={"code": code, "flags": flags},
    )


def _of_network(tensors: Mapping[str, Tensor], legacy_heads: bool, network: nn.Module) -> dict[str, Tensor]:
    return to_our_network(tensors, network, legacy_heads)


def code_and_flags(path: Path, code: str | None, flags: str | None) -> tuple[str, str]:
    """Those given, or those of the published file of that name. CheckpointError where nothing says them."""
    if path.stem in UPSAMPLERS:
        raise CheckpointError(
            f"checkpoint={path}: upsamplers cannot be imported, because they need a smaller image as a second input"
        )
    preset = PRESETS.get(path.stem)
    if flags is None and preset is not None:
        return preset
    if flags is None:
        raise CheckpointError(
            f"checkpoint={path}: no published file is called {path.stem}; give its flags, as in "
            'flags="--image_size 64 --num_channels 128" code=improved_diffusion'
        )
    code = code or (GUIDED if only_guided(flags) else preset[0] if preset is not None else None)
    if code is None:
        raise CheckpointError(
            "flags: the two repositories read them differently; add code=improved_diffusion or code=guided_diffusion"
        )
    return code, flags


def _num_classes(tensors: Mapping[str, Tensor], is_classifier: bool) -> int:
    """Rows of the table of labels, or logits; 1000 where there are none, which the weights will be found not to fit."""
    rows = tensors.get(_LOGITS if is_classifier else _LABELS)
    return 1000 if rows is None or rows.ndim == 0 else len(rows)
