"""Strict JSON, written whole; JSON and plain YAML, read from folders that may come from somebody else.

Every error in such a file is reported in one sentence. Links that lead out of a folder are not followed.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from diffusion_lab.store.files import write_whole

LARGEST_CONFIG = 2**18  # bytes; ours have a few thousand
LARGEST_NUMBER = 2**26  # for options of a model or a score, except seeds
_LARGEST_JSON = 2**26


class RunError(RuntimeError):
    """Something under outputs/ is missing or damaged; the message is one sentence that names it."""


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a file. RunError if it does not exist, or has more than `most` bytes."""
    if not path.is_file():  # also excludes pipes, which may have no writer
        raise RunError(f"there is no {path}")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise RunError(f"{path} is larger than {most / 2**20:g} MiB")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write readable, strict JSON (ValueError for NaN), whole or not at all; makes the folder."""
    write_whole(path, (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0:
        raise ValueError(f"{text} is not a finite number")
    return number


def read_json(
    path: Path,
    most: int = _LARGEST_JSON,
    constant: Callable[[str], float | None] = _finite,
) -> dict[str, Any]:
    """A JSON object of finite numbers; characters that could control a terminal or end a table's line are replaced by �.

    RunError if the file is missing, is anything else, or is nested too deeply.
    constant: the value for NaN and infinity as Python writes them.
    """
    try:
        content = json.loads(read_bytes(path, most), parse_constant=constant, parse_float=_finite)
        shown = _printable(content)
    except (ValueError, RecursionError) as error:  # also for invalid UTF-8
        raise RunError(f"{path} is not JSON: {error}") from None
    if not isinstance(shown, dict):
        raise RunError(f"{path} does not hold a JSON object")
    return shown


def read_yaml(path: Path) -> dict[str, Any]:
    """A config of plain YAML. RunError, naming the file, for anything else, and for aliases: a few lines of them expand to more
    than any memory."""
    content = read_bytes(path, LARGEST_CONFIG)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        if b"*" in content and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(content, loader)):
            raise ValueError("it has YAML aliases, which are not allowed")
        found = yaml.load(content, loader) or {}
    except Exception as error:  # PyYAML passes on errors of a value's type
        raise RunError(f"{path} is not a config: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise RunError(f"{path} is not a config: it holds no options")
    return found


def printable(text: str) -> str:
    """`text` without control characters, line breaks and marks of writing direction."""
    return text if text.isprintable() else "".join(sign if sign.isprintable() else "\ufffd" for sign in text)


def is_folder_name(name: object) -> bool:
    """Whether `name` can only be the name of a folder inside a given one."""
    return isinstance(name, str) and name.isprintable() and name not in ("", "..") and Path(name).name == name


def inside(folder: Path, path: Path) -> Path:
    """`path`, to be read. RunError if a link makes it lie outside `folder`."""
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):  # Path.resolve refuses circular links
        raise RunError(f"{path} is a link to a file outside its folder and is not followed; replace it by a copy")
    return path


def _printable(node: Any) -> Any:
    match node:
        case str():
            return printable(node)
        case dict():
            return {printable(key): _printable(child) for key, child in node.items()}
        case list():
            return [_printable(child) for child in node]
    return node


# ---- types of the entries of records

Kind = tuple[Callable[[Any], bool], str]  # a predicate and its description
# By entry: a.b is b in the object a, a.* each entry of a; b? may be missing, with everything in it.
Kinds = Mapping[str, Kind]
_CHOICE = re.compile(r"\w[\w-]*(/\w[\w-]*)*")  # a name, or a path of names below the group's folder
_MOST_NUMBERS = 2**24  # of an image


def is_number(value: Any, below: float = 2**63) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= below


def is_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(text, str) for text in value)


def _are_choices(value: Any) -> bool:
    names = [*value, *(option for option in value.values() if option is not None)]
    return all(isinstance(name, str) and _CHOICE.fullmatch(name) for name in names)


def _is_shape(value: Any, lengths: Collection[int] = (1, 2, 3, 4)) -> bool:
    sides = isinstance(value, list) and len(value) in lengths and all(type(side) is int and side > 0 for side in value)
    return sides and math.prod(value) <= _MOST_NUMBERS


def _are_units(value: Any) -> bool:
    """Whether shift and scale are lists with one number per channel, with optional names."""
    if not (isinstance(value, dict) and value.keys() == {"shift", "scale", "names"} and _is_condition(value)):
        return False
    names = value["names"]
    return names is None or (is_texts(names) and len(names) == len(value["shift"]))


def _are_conditions(value: Any) -> bool:
    return isinstance(value, list) and all(
        _is_shape(size if isinstance(size, list) else [size], range(1, 5)) for size in value
    )


def _are_shares(value: Any) -> bool:
    numbers = isinstance(value, list) and all(is_number(share) and share >= 0 for share in value)
    return numbers and abs(sum(value) - 1) < 1e-6


def _is_condition(value: Any) -> bool:
    """Whether a condition's record is valid: shift and scale, if present, have equal length, and scales are positive."""
    if not isinstance(value, dict):
        return False
    shift, scale = value.get("shift", []), value.get("scale", [])
    numbers = all(isinstance(part, list) and all(map(is_number, part)) for part in (shift, scale))
    return numbers and len(shift) == len(scale) and all(number > 0 for number in scale)


def or_none(kind: Kind) -> Kind:
    return lambda value: value is None or kind[0](value), kind[1]


def whole_number(least: int, most: int) -> Kind:
    return lambda value: type(value) is int and least <= value <= most, f"a number from {least} to {most:,}"


TEXT: Kind = (lambda value: isinstance(value, str), "a string")
TEXTS: Kind = (is_texts, "a list of strings")
OBJECT: Kind = (lambda value: isinstance(value, dict), "an object")
LIST: Kind = (lambda value: isinstance(value, list), "a list")
SWITCH: Kind = (lambda value: isinstance(value, bool), "true or false")
FOLDER: Kind = (is_folder_name, "the name of a folder")
COUNT: Kind = (lambda value: is_number(value) and value >= 0, "a number")
WHOLE: Kind = (lambda value: is_number(value) and value >= 0 and isinstance(value, int), "a whole number")
TRAINING: Kinds = {
    # None: not recorded, as for an imported checkpoint
    "steps": or_none(WHOLE),
    "seconds": or_none(COUNT),
    "images": or_none(WHOLE),
    "flops?": COUNT,
    "fingerprint?": TEXT,
    "conditions?": OBJECT,
    "conditions?.*": (_is_condition, "an object whose shift and scale are as many numbers, each scale above 0"),
    "conditions?.*.names?": TEXTS,
    "code?": OBJECT,
    "files?": OBJECT,
    "versions?.diffusion_lab": TEXT,
    "conditions?.*.shares?": (_are_shares, "a list of shares that sum to 1"),
}
CHOICES: Kinds = {"": (_are_choices, "an object of groups and options by their names")}
FACTS: Kinds = {
    "facts.shape?": (
        _is_shape,
        f"that of data (C, *spatial) or points (D,), of at most {_MOST_NUMBERS:,} numbers each",
    ),
    "facts.num_levels?": or_none(whole_number(2, 2**16)),
    "facts.num_classes?": or_none(whole_number(1, _MOST_NUMBERS)),
    "facts.units?": or_none((_are_units, "shift, scale and names of channels")),
    "facts.conditions?": (
        _are_conditions,
        f"a list of numbers of classes, and of shapes of at most {_MOST_NUMBERS:,} numbers",
    ),
}
SWEEP: Kinds = {
    "axes": OBJECT,
    "axes.*": TEXTS,
    "command?": TEXTS,
    "cells": LIST,
    "score?": SWITCH,
    "cells.*.overrides?": TEXTS,
    "cells.*.choices": OBJECT,
    "cells.*.choices.*": or_none(TEXT),
    "cells.*.model": FOLDER,
    "cells.*.run": FOLDER,
}


def wrong_in(content: Any, kinds: Kinds) -> str | None:
    """The first invalid entry, in half a sentence; None if all are valid."""
    for place, (fits, what) in kinds.items():
        for name, values in _entries(content, place.split(".") if place else []):
            if not values:
                return f"{name} is missing"
            if not fits(values[0]):
                return f"{name}={_shown(values[0])} is not {what}" if name else f"it is not {what}"
    return None


def read_record(folder: Path, file: Path, kinds: Kinds, writer: str) -> dict[str, Any]:
    """The content of a file in `folder`. RunError if it is not as `writer` writes it, because it may be a stranger's."""
    content = read_json(inside(folder, file))
    if wrong := wrong_in(content, kinds):
        raise RunError(f"{file} is not what {writer} writes: {wrong}")
    return content


def _entries(node: Any, keys: list[str], name: str = "") -> Iterator[tuple[str, list[Any]]]:
    """(dotted name, [value]) of each entry; (name, []) for a missing one."""
    if not keys:
        yield name, [node]
        return
    children = node if isinstance(node, dict) else dict(enumerate(node)) if isinstance(node, list) else None
    key, optional = keys[0].removesuffix("?"), keys[0].endswith("?")
    if children is None or (key != "*" and key not in children):
        if children is None or not optional:
            yield f"{name}.{key}".strip("."), []
        return
    for one in children if key == "*" else [key]:
        yield from _entries(children[one], keys[1:], f"{name}.{one}".strip("."))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:50]}…"
