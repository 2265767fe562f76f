"""Strict JSON, written whole; JSON and plain YAML, read from folders that may be untrusted.

Every error in such a file is reported in one sentence. Links that lead out of a folder are not followed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, RootModel, ValidationError

from diffusion_lab.store.files import write_whole

LARGEST_CONFIG = 2**18  # bytes; ours have a few thousand
_LARGEST_JSON = 2**26
_MOST_NUMBERS = 2**24  # of an image


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
    if isinstance(node, dict):
        return {printable(key): _printable(child) for key, child in node.items()}
    if isinstance(node, list):
        return [_printable(child) for child in node]
    return printable(node) if isinstance(node, str) else node


# ---- entries of records that are used in computations or as names of folders; others are not checked


def inner_folder(name: str) -> str:
    """`name`. ValueError if it is not the name of a folder inside a given one."""
    if not is_folder_name(name):
        raise ValueError("it is not the name of a folder")
    return name


def _small(shape: list[int]) -> list[int]:
    if math.prod(shape) > _MOST_NUMBERS:
        raise ValueError(f"it has more than {_MOST_NUMBERS:,} numbers")
    return shape


def _shares(shares: list[float]) -> list[float]:
    if abs(sum(shares) - 1) > 1e-6:
        raise ValueError("they do not sum to 1")
    return shares


Whole = Annotated[int, Field(ge=0, lt=2**63)]
Amount = Annotated[float, Field(ge=0, le=2**63)]
_Scale = Annotated[float, Field(gt=0, le=2**63)]
_Side = Annotated[int, Field(gt=0, le=_MOST_NUMBERS)]
Shape = Annotated[list[_Side], Field(min_length=1, max_length=4), AfterValidator(_small)]  # (C, *spatial), or (D,)
# A number of classes counts as a shape of one side.
_Size = Annotated[Shape, BeforeValidator(lambda size: size if isinstance(size, list) else [size])]
FolderName = Annotated[str, AfterValidator(inner_folder)]
_Choice = Annotated[
    str, Field(pattern=r"^\w[\w-]*(/\w[\w-]*)*$")
]  # a name, or a path of names below the group's folder


class _Condition(BaseModel):
    names: list[str] = []
    shift: list[float] = []
    scale: list[_Scale] = []
    shares: Annotated[list[Amount], AfterValidator(_shares)] = [1.0]


class TrainingRecord(BaseModel):
    """training.json. None: not recorded, as for an imported checkpoint."""

    steps: Whole | None
    seconds: Amount | None
    images: Whole | None
    flops: Amount = 0.0
    conditions: dict[str, _Condition] = {}
    code: dict[str, Any] = {}
    files: dict[str, Any] = {}
    options: dict[str, Any] = {}
    versions: dict[str, Any] = {}


class ChoicesRecord(RootModel[dict[_Choice, _Choice | None]]):
    """choices.json: group -> option."""


class _Units(BaseModel):
    shift: list[float]
    scale: list[_Scale]
    names: list[str] | None


class _Facts(BaseModel):
    shape: Shape = [1]
    num_levels: Annotated[int, Field(ge=2, le=2**16)] | None = None
    num_classes: _Side | None = None
    units: _Units | None = None
    conditions: list[_Size] = []


class FactsRecord(BaseModel):
    """The facts of the data in a config."""

    facts: _Facts


class _Cell(BaseModel):
    overrides: list[str] = []
    choices: dict[str, str | None]
    model: FolderName
    run: FolderName


class SweepRecord(BaseModel):
    """sweep.json."""

    axes: dict[str, list[str]]
    command: list[str] = []
    score: bool = True
    decide: dict[str, Any] | None = None
    cells: list[_Cell]


def wrong_in(content: Any, kind: type[BaseModel]) -> str | None:
    """A phrase on the first invalid entry; None if all are valid."""
    try:
        kind.model_validate(content, strict=True)
    except ValidationError as error:
        return first_error(error)
    return None


def first_error(error: ValidationError, *above: str) -> str:
    """A phrase on the first of pydantic's errors. above: the names of the entries around the checked one."""
    first = error.errors(include_url=False)[0]
    place, said = ".".join(map(str, (*above, *first["loc"]))), first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"{place} is missing"
    return printable(f"{place}={first['input']!r:.50}: {said}" if place else said)


def read_record(file: Path, kind: type[BaseModel]) -> dict[str, Any]:
    """The content of a file that may be untrusted. RunError if it is not of this kind."""
    content = read_json(inside(file.parent, file))
    if wrong := wrong_in(content, kind):
        raise RunError(f"{file} is not valid: {wrong}")
    return content
