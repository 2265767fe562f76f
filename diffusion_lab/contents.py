"""What the files of a folder hold, as far as their readers rely on it: None, or what is wrong with a file that is not ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from diffusion_lab.foreign import is_folder_name, printable

_WEIGHTS = re.compile(r"raw|ema_[\w.+-]+")
_CHOICE = re.compile(r"\w[\w-]*(/\w[\w-]*)*")  # a name, or a path of names below the group's folder
_TRAINING = {"steps": int, "seconds": int | float, "images": int, "fingerprint": str, "flops": int | float}
_ALWAYS = ("steps", "seconds", "images")
_LARGEST = 2**63


def is_weights(name: str) -> bool:
    """Whether weights of a model are called so."""
    return _WEIGHTS.fullmatch(name) is not None


def wrong_in_training(content: Mapping[str, Any]) -> str | None:
    """Of training.json."""
    for name, kind in _TRAINING.items():
        value = content.get(name)
        right = isinstance(value, kind) and type(value) is not bool and (kind is str or 0 <= value < _LARGEST)
        if not right and (name in content or name in _ALWAYS):
            return f"{name} is {value!r}"
    return None


def wrong_in_choices(content: Mapping[str, Any]) -> str | None:
    """Of choices.json: group -> the name of an option, or None."""
    for group, option in content.items():
        named = option is None or (isinstance(option, str) and _CHOICE.fullmatch(option))
        if not (named and _CHOICE.fullmatch(group)):
            return f"{printable(group)}={printable(str(option))} is not the choice of an option"
    return None


def wrong_in_sweep(content: Mapping[str, Any]) -> str | None:
    """Of sweep.json."""
    axes, cells = content.get("axes"), content.get("cells")
    if not isinstance(axes, dict) or not all(map(_is_texts, axes.values())):
        return "axes are not lists of values"
    if not _is_texts(content.get("command", [])):
        return "command is not a list of options"
    if not isinstance(cells, list):
        return "cells are not a list"
    for number, cell in enumerate(cells):
        if not isinstance(cell, dict) or not _is_texts(cell.get("overrides", [])):
            return f"cell {number} is not a cell"
        choices = cell.get("choices")
        if not isinstance(choices, dict) or not _is_texts([value for value in choices.values() if value is not None]):
            return f"the choices of cell {number} are not values"
        if choices.keys() != axes.keys():
            return f"the choices of cell {number} are not those of the axes"
        for part in ("model", "run"):
            if not is_folder_name(cell.get(part)):
                return f"{part} of cell {number} is {cell.get(part)!r}, which is not the name of a folder"
    return None


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
