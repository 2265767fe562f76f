"""What a sweep has to do: train the models that are not there yet, then score the cells that are not scored yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from diffusion_lab.store import ModelDirectory, RunDirectory
from diffusion_lab.store.options import short_names

MODEL, CELL = "model", "cell"


@dataclass(frozen=True)
class PlannedCell:
    """One model scored in one way. choices, overrides: as in axes.Combination."""

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
