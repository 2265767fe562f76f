"""Reading a folder that may come from somebody else: strict JSON, plain YAML, printable text, no links that lead away.

What is read here can be wrong in every way, and each way is one sentence. Imports nothing of this package.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

LARGEST_CONFIG = 2**18  # bytes; ours have a few thousand
LARGEST_NUMBER = 2**26  # of an option that a model or a score is made with, other than a seed
_LARGEST_JSON = 2**26
_DEEPEST = 32  # levels of nesting
_LONGEST_NAME = 200  # bytes; file systems take 255, and a run's name is longer than its model's


class RunError(RuntimeError):
    """Something under outputs/ is missing or broken; the message is one sentence that names it."""


def read_bytes(path: Path, most: int) -> bytes:
    """Raises RunError if there is no such file, or if it has more than `most` bytes."""
    if not path.is_file():  # nor a pipe, which may have no writer
        raise RunError(f"there is no {path}")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise RunError(f"{path} is larger than {most / 2**20:g} MiB")
    return content


def read_json(path: Path) -> dict[str, Any]:
    """Raises RunError if the file is missing, or is not a JSON object of finite numbers."""
    try:
        content = json.loads(read_bytes(path, _LARGEST_JSON), parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:  # also what is not UTF-8
        raise RunError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} does not hold a JSON object")
    return content


def read_printable_json(path: Path) -> dict[str, Any]:
    """As `read_json`, but text that could steer a terminal or end a line of a table has � in those places.

    Raises RunError for more than 32 levels of nesting, which no file of ours has.
    """
    return _printable(read_json(path), path, _DEEPEST)


def read_yaml(path: Path) -> dict[str, Any]:
    """A config of plain YAML. Raises RunError, naming it, for anything else, and for aliases: a few lines of them unfold to more
    than any memory holds."""
    content = read_bytes(path, LARGEST_CONFIG)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        if b"*" in content and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(content, loader)):
            raise ValueError("it has YAML aliases, which are not allowed")
        found = yaml.load(content, loader) or {}
    except Exception as error:  # PyYAML lets those of a value's own type through
        raise RunError(f"{path} is not a config: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise RunError(f"{path} is not a config: it holds no options")
    return found


def printable(text: str) -> str:
    """`text` without control characters, line breaks and marks that turn the direction of writing."""
    return text if text.isprintable() else "".join(sign if sign.isprintable() else "\ufffd" for sign in text)


def is_folder_name(name: object) -> bool:
    """Whether `name` can name a folder inside a given one, and nothing else."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and name.isprintable()
        and not set("/\\") & set(name)
        and len(name.encode()) <= _LONGEST_NAME
    )


def inside(folder: Path, path: Path) -> Path:
    """`path`, which is to be read. RunError if a link makes it lie outside `folder`."""
    try:
        there = path.resolve()
        stays = there.is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links that lead in a circle
        raise RunError(f"{path} is a link to a file that does not exist") from None
    if not stays:
        raise RunError(f"{path} is a link to a file outside its folder and is not followed; replace it by a copy")
    return path


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0:
        raise ValueError(f"{text} is not a finite number")
    return number


def _printable(node: Any, path: Path, levels: int) -> Any:
    if levels < 0:
        raise RunError(f"{path} is nested too deeply")
    match node:
        case str():
            return printable(node)
        case dict():
            return {printable(key): _printable(child, path, levels - 1) for key, child in node.items()}
        case list():
            return [_printable(child, path, levels - 1) for child in node]
    return node
