"""What a sweep has to do: train the models that are not there yet, then score the cells that are not scored yet.

A cell is a combination of the axes' values. Axes need not suit every cell: an option that the config of a combination does not have
is dropped from it, and combinations that are equal without it are one cell. An option that suits no cell is a mistake.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Generic, TypeVar

from diffusion_lab.store import ModelDirectory, RunDirectory
from diffusion_lab.store.fingerprints import canonical_json
from diffusion_lab.store.options import short_names

MODEL, CELL = "model", "cell"


@dataclass(frozen=True)
class PlannedCell:
    """One model scored in one way. choices, overrides: as in Combination."""

    choices: dict[str, str | None]
    overrides: tuple[str, ...]
    model: ModelDirectory
    run: RunDirectory


@dataclass(frozen=True)
class Work:
    """A model to train or a cell to score. folder: which it holds; result: the file there that is written last."""

    what: str
    folder: Path
    result: Path
    overrides: tuple[str, ...]
    label: str
    found: int | None = field(default=None, compare=False)  # the result of an earlier command, which is to be replaced

    @property
    def verb(self) -> str:
        return {MODEL: "train", CELL: "score"}[self.what]

    @property
    def done(self) -> bool:
        return _stamp(self.result) not in (None, self.found)


@dataclass(frozen=True)
class Job:
    """One model and a share of its cells, in this order, as far as they are missing. name: of the folder of its log."""

    name: str
    work: tuple[Work, ...]


@dataclass(frozen=True)
class Plan:
    """num_combinations: how many the command spells out; cells: the different ones; to_train, to_score: what is missing."""

    num_combinations: int
    cells: tuple[PlannedCell, ...]
    to_train: tuple[Work, ...]
    to_score: tuple[Work, ...]
    jobs: tuple[Job, ...]

    @property
    def work(self) -> tuple[Work, ...]:
        """The models before the cells."""
        return (*self.to_train, *self.to_score)

    @property
    def num_models(self) -> int:
        return len({cell.model for cell in self.cells})

    def summary(self) -> list[str]:
        """What will be done, in two lines."""
        cells = _count(len(self.cells), "cell")
        if len(self.cells) != self.num_combinations:
            cells += f" from {self.num_combinations} combinations, some of them equal"
        train, score = len(self.to_train), {work.folder for work in self.to_score}
        scored = sum(cell.run.metrics.is_file() for cell in self.cells if cell.run.path not in score)
        return [
            f"{_count(self.num_models, 'model')}: {train} to train, {self.num_models - train} reused",
            f"{cells}: {len(score)} to score, {scored} scored already",
        ]


def plan(
    cells: Iterable[PlannedCell],
    num_combinations: int,
    retrain: bool = False,
    rescore: bool = False,
    score: bool = True,
    jobs_per_model: int = 1,
) -> Plan:
    """Cells that are one run are one cell. retrain, rescore: as if nothing were there; score false: train only.

    Every job of a model trains it; they hold its folder in turn, so the first one does it. The first jobs of all models come
    before the second ones, which may have to wait.
    """
    by_run: dict[RunDirectory, PlannedCell] = {}
    for cell in cells:
        by_run.setdefault(cell.run, cell)
    different = list(by_run.values())
    by_model: dict[ModelDirectory, list[PlannedCell]] = {}
    for cell in different:
        by_model.setdefault(cell.model, []).append(cell)
    values = {
        key: {choice for cell in different if (choice := cell.choices[key]) is not None}
        for key in (different[0].choices if different else ())
    }
    to_train = {
        model.path: Work(
            MODEL,
            model.path,
            model.result,
            (*same[0].overrides, "score=false"),
            _label(same, values),
            # One that is trained again already is not to be replaced.
            found=None if model.retrained else _stamp(model.result),
        )
        for model, same in by_model.items()
        if retrain or not model.finished
    }
    to_score = {
        cell.run.path: Work(
            CELL,
            cell.run.path,
            cell.run.metrics,
            # What was to be trained again has been by now.
            (*cell.overrides, "retrain=false", f"rescore={str(cell.run.metrics.is_file()).lower()}"),
            _label([cell], values),
            found=_stamp(cell.run.metrics),
        )
        for cell in different
        if score and (retrain or rescore or not cell.run.metrics.is_file())
    }
    jobs = []
    for number, (model, same) in product(range(jobs_per_model), by_model.items()):
        trained = [to_train[model.path]] if model.path in to_train else []
        # The share of a cell does not depend on what is missing, so the same command finds the job that has it.
        share = [to_score[cell.run.path] for cell in same[number::jobs_per_model] if cell.run.path in to_score]
        if share or (trained and number == 0):
            name = f"{model.path.name}-{number + 1}" if number else model.path.name
            jobs.append(Job(name, (*trained, *share)))
    return Plan(num_combinations, tuple(different), (*to_train.values(),), (*to_score.values(),), tuple(jobs))


def sweep_content(
    name: str,
    command: Sequence[str],
    axes: dict[str, list[str]],
    created: str,
    evaluation_seed: int | None,
    plan: Plan,
    score: bool,
) -> dict[str, Any]:
    """sweep.json: what was asked, and where each cell lies.

    evaluation_seed: of the noise that all cells share, if they do. score: whether cells are scored, or models trained only.
    """
    return {
        "name": name,
        "command": list(command),
        "axes": axes,
        "created": created,
        "evaluation_seed": evaluation_seed,
        "score": score,
        "cells": [
            {
                "choices": cell.choices,
                "overrides": list(cell.overrides),
                "model": cell.model.path.name,
                "run": cell.run.path.name,
            }
            for cell in plan.cells
        ],
    }


def _label(cells: Sequence[PlannedCell], values: dict[str, set[str]]) -> str:
    """The choices that set these cells apart from all others: an axis of which they have every value says nothing.

    Where nothing sets them apart, the model's name.
    """
    names = short_names(values)
    words = []
    for key, every in values.items():
        own = list(dict.fromkeys(choice for cell in cells if (choice := cell.choices[key]) is not None))
        if own and (len(own) < len(every) or len(cells) == 1):
            words.append(f"{names[key]}={','.join(own)}")
    return " ".join(words) or cells[0].model.path.name


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _stamp(file: Path) -> int | None:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return None


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
