"""From the checkpoint of somebody else to the options that make the same model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.config.overrides import quoted, unquoted

_CHECKPOINT, _PREDICTION = "checkpoint", "prediction"


def with_described_parts(options: list[str]) -> list[str]:
    """`options`, after those that the checkpoint asks for, so that the user's own count in their place."""
    from diffusion_lab.interop.opening import OPTIONS, opened

    taken = (_CHECKPOINT, *OPTIONS)  # quoted anew: flags hold commas and spaces
    given = {key: unquoted(value) for key, _, value in (option.partition("=") for option in options)}
    own = {key: value for key, value in given.items() if key in taken}
    if own.get(_CHECKPOINT) is None:
        raise MistakeError("set the file or the folder, such as checkpoint=cifar10_uncond_50M_500K.pt")
    chosen = {_PREDICTION: given[_PREDICTION]} if _PREDICTION in given else {}
    found = opened(Path(own[_CHECKPOINT]), {key: own[key] for key in own.keys() & set(OPTIONS)} | chosen)
    channels, height, width = found.shape
    facts = [
        f"facts.shape=[{channels},{height},{width}]",
        f"facts.size={height if height == width else f'[{height},{width}]'}",
        f"facts.channels={channels}",
        "facts.num_levels=256",
        "facts.bounded=true",
        f"facts.num_classes={'null' if found.num_classes is None else found.num_classes}",
    ]
    added = [*found.options, *facts, *(f"{key}={quoted(value)}" for key, value in own.items())]
    first = next((i for i, option in enumerate(options) if "=" in option and not option.startswith("-")), len(options))
    kept = [option for option in options[first:] if option.partition("=")[0] not in taken]
    return [*options[:first], *added, *kept]


def given_options(cfg: Mapping[str, Any], choices: Mapping[str, str | None]) -> dict[str, str]:
    """The same options as text, from the config that was composed with them. choices: the option of each group."""
    from diffusion_lab.interop.opening import OPTIONS

    given = {key: str(cfg[key]) for key in OPTIONS if cfg[key] is not None}
    prediction = choices.get(_PREDICTION)
    return given if prediction is None else given | {_PREDICTION: prediction}
