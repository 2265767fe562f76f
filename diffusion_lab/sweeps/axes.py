"""The cells of a sweep: every combination of the axes' values, each with its own config.

An axis need not apply to every cell: an option that a combination's config lacks is dropped from it, and
combinations that are equal without the option are one cell. An option that applies to no cell is a mistake.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Generic, TypeVar

from diffusion_lab.store.option_names import canonical_json

Config = TypeVar("Config")

_NAME_LENGTH = 48  # of the readable part of a sweep's name
# Not options of cells.
_COMMAND_OPTIONS = frozenset(("outputs", "retrain", "rescore", "score", "tags", "sweep.decide.wait"))


class MissingOptionError(Exception):
    """A combination's config has no option `key`; the cause is the error of the function that composed it."""

    def __init__(self, key: str) -> None:
        super().__init__(f"there is no option {key!r}")
        self.key = key


@dataclass(frozen=True)
class Axis:
    """One option of the command. overrides: by value, in order; a fixed option has one value."""

    key: str
    overrides: Mapping[str, str]
    swept: bool = True


@dataclass(frozen=True)
class Combination(Generic[Config]):
    """A combination of values. choices: the value of every swept axis, None if the config lacks the option.

    overrides: those that apply to the config.
    """

    choices: dict[str, str | None]
    overrides: tuple[str, ...]
    config: Config


def combinations(
    axes: Sequence[Axis], compose: Callable[[Sequence[str]], Config]
) -> tuple[list[Combination[Config]], int]:
    """All distinct combinations, the last axis varying fastest, and the number of combinations before merging equal ones.

    `compose` turns a list of overrides into a config, or raises MissingOptionError. If no combination has an option
    of the command, the cause of that error is raised.
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
    """The swept options and a hash of the whole command, independent of its order, so the same command finds its sweep again."""
    content = {axis.key: sorted(axis.overrides.values()) for axis in axes if axis.key not in _COMMAND_OPTIONS}
    digest = hashlib.sha256(canonical_json(content).encode()).hexdigest()[:8]
    swept = "-".join(sorted(re.findall(r"\w+$", axis.key.partition("@")[0])[-1] for axis in axes if axis.swept))
    return "-".join(filter(None, (swept[:_NAME_LENGTH].rstrip("-"), digest)))
