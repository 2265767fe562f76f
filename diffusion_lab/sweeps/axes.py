"""A sweep's cells: every combination of the axes' values, each with a config of its own.

Axes need not suit every cell: an option that the config of a combination does not have is dropped from it, and
combinations that are equal without it are one cell. An option that suits no cell is a mistake.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Generic, TypeVar

from diffusion_lab.store.options import canonical_json

Config = TypeVar("Config")

_NAME_LENGTH = 48  # of the readable part of a sweep's name
_COMMAND_OPTIONS = frozenset(("outputs", "retrain", "rescore", "score", "tags"))  # not of the cells


class MissingOptionError(Exception):
    """A combination's config has no option `key`; the cause says it in the words of who composes."""

    def __init__(self, key: str) -> None:
        super().__init__(f"there is no option {key!r}")
        self.key = key


@dataclass(frozen=True)
class Axis:
    """One option of the command. overrides: what chooses each of its values, in order; a fixed option has one value."""

    key: str
    overrides: Mapping[str, str]
    swept: bool = True


@dataclass(frozen=True)
class Combination(Generic[Config]):
    """choices: the value of every swept axis, None where the config has no such option. overrides: what is left of the command."""

    choices: dict[str, str | None]
    overrides: tuple[str, ...]
    config: Config


def combinations(
    axes: Sequence[Axis], compose: Callable[[Sequence[str]], Config]
) -> tuple[list[Combination[Config]], int]:
    """All different combinations, the last axis changing fastest, and how many there were before equal ones were one.

    `compose` makes the config of a list of overrides, or raises MissingOptionError. Raises the cause of that error where no
    combination has an option that the command names.
    """
    found: dict[tuple[str, ...], Combination[Config]] = {}
    missing: dict[str, MissingOptionError] = {}
    known: set[str] = set()
    count = 0
    for values in product(*(axis.overrides for axis in axes)):
        count += 1
        chosen = {axis.key: value for axis, value in zip(axes, values, strict=True)}
        overrides = {axis.key: axis.overrides[chosen[axis.key]] for axis in axes}
        while tuple(overrides.values()) not in found:
            try:
                config = compose(tuple(overrides.values()))
            except MissingOptionError as error:
                missing[error.key] = error
                del overrides[error.key]
            else:
                choices = {axis.key: chosen[axis.key] if axis.key in overrides else None for axis in axes if axis.swept}
                left = tuple(overrides.values())
                found[left] = Combination(choices, left, config)
        known |= set(overrides)
    for axis in axes:
        if axis.key not in known:
            raise missing[axis.key].__cause__ or missing[axis.key]
    return list(found.values()), count


def sweep_name(axes: Iterable[Axis]) -> str:
    """The swept options and a hash of the whole command, whose order does not count: the same command finds its sweep again."""
    content = {
        axis.key: sorted(axis.overrides.values()) for axis in axes if axis.key.partition(".")[0] not in _COMMAND_OPTIONS
    }
    digest = hashlib.sha256(canonical_json(content).encode()).hexdigest()[:8]
    swept = "-".join(sorted(re.findall(r"\w+$", axis.key.partition("@")[0])[-1] for axis in axes if axis.swept))
    return "-".join(filter(None, (swept[:_NAME_LENGTH].rstrip("-"), digest)))
