"""What the files of a folder hold, as far as their readers rely on it: None, or what is wrong with a file that is not ours."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from diffusion_lab.store.foreign import is_folder_name, printable
from diffusion_lab.store.moments import Moment, read_moment

_NUMBER = r"\d+(\.\d+)?(e[+-]?\d+)?"  # as Python writes it
_WEIGHTS = re.compile(rf"raw|ema_{_NUMBER}|at_{_NUMBER}([smh]|steps|images)?")
_SNAPSHOT = "at_"
_KEPT_AVERAGE = "power_"
_CHOICE = re.compile(r"\w[\w-]*(/\w[\w-]*)*")  # a name, or a path of names below the group's folder
_TRAINING: dict[str, Any] = {
    "steps": int,
    "seconds": int | float,
    "images": int,
    "fingerprint": str,
    "flops": int | float,
    "branched_from": str,
    "branched_at": int,
    "serves": str,
}
_ALWAYS = ("steps", "seconds", "images")  # None: nobody recorded it, as of an imported checkpoint
_LARGEST = 2**63
_MOST_NUMBERS = 2**24  # of an image
_MOST_LEVELS = 2**16


def is_weights(name: str) -> bool:
    """Whether weights of a model are called so."""
    return _WEIGHTS.fullmatch(name) is not None


def snapshot_name(moment: float | str | Moment) -> str:
    """0.2 -> "at_0.2", "2m" -> "at_2m": the weights that would have been scored, had training ended then.

    ValueError for what is no moment.
    """
    return f"{_SNAPSHOT}{moment if isinstance(moment, Moment) else read_moment(moment)}"


def is_snapshot(name: str) -> bool:
    """Whether weights of an earlier moment of training are called so."""
    return name.startswith(_SNAPSHOT) and is_weights(name)


def kept_average_name(share: float) -> str:
    """0.125 -> "power_0.125": two averages as they were when so much of the budget was used, to build others from."""
    return f"{_KEPT_AVERAGE}{float(share)!r}"


def is_kept_average(name: str) -> bool:
    """Whether a file of such averages is called so."""
    return re.fullmatch(rf"{_KEPT_AVERAGE}\d\.\d+", name) is not None


def wrong_in_training(content: Mapping[str, Any]) -> str | None:
    """Of training.json."""
    for name, kind in _TRAINING.items():
        value = content.get(name)
        valid = isinstance(value, kind) and type(value) is not bool and (kind is str or 0 <= value < _LARGEST)
        valid = valid or (value is None and name in _ALWAYS and name in content)
        if not valid and (name in content or name in _ALWAYS):
            return f"{name} is {value!r}"
    code = content.get("code", {"names": [], "digest": ""})
    if not (isinstance(code, dict) and _is_texts(code.get("names")) and isinstance(code.get("digest"), str)):
        return "code is not a list of names with a digest"
    shares = content.get("cluster_shares", [1.0])
    probable = isinstance(shares, list) and all(type(share) is float and 0 <= share <= 1 for share in shares)
    if not (probable and abs(sum(shares) - 1) < 1e-6):
        return "cluster_shares are not probabilities that sum to 1"
    if not _is_texts(content.get("class_names", [])):
        return "class_names are not a list of names"
    return None


def wrong_in_choices(content: Mapping[str, Any]) -> str | None:
    """Of choices.json: group -> the name of an option, or None."""
    for group, option in content.items():
        named = option is None or (isinstance(option, str) and _CHOICE.fullmatch(option))
        if not (named and _CHOICE.fullmatch(group)):
            return f"{printable(group)}={printable(str(option))} is not the choice of an option"
    return None


def wrong_in_facts(content: Mapping[str, Any]) -> str | None:
    """What is wrong in the facts of a config about its data set, or None. Facts may be missing."""
    shape = content.get("shape", [1])
    sides = isinstance(shape, list) and len(shape) in (1, 3) and all(type(side) is int and side > 0 for side in shape)
    if not sides or math.prod(shape) > _MOST_NUMBERS:
        return f"facts.shape={shape}: data must be images (C, H, W) or points (D,), of at most {_MOST_NUMBERS:,} numbers each"
    for name, least, most in (("num_levels", 2, _MOST_LEVELS), ("num_classes", 1, _MOST_NUMBERS)):
        value = content.get(name)
        if value is not None and not (type(value) is int and least <= value <= most):
            return f"facts.{name}={value} is not a number from {least} to {most:,}"
    return None


def wrong_in_sweep(content: Mapping[str, Any]) -> str | None:
    """Of sweep.json."""
    axes, cells = content.get("axes"), content.get("cells")
    if not isinstance(axes, dict) or not all(map(_is_texts, axes.values())):
        return "axes are not lists of values"
    if not _is_texts(content.get("command", [])):
        return "command is not a list of options"
    if not isinstance(content.get("score", True), bool):
        return "score is neither true nor false"
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
        if any(value not in (None, *axes[axis]) for axis, value in choices.items()):
            return f"the choices of cell {number} are not among the values of the axes"
        for part in ("model", "run"):
            if not is_folder_name(cell.get(part)):
                return f"{part} of cell {number} is {cell.get(part)!r}, which is not the name of a folder"
    return None


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
