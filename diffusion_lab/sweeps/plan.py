"""The plan of a sweep, which trains missing models and then scores missing cells, and the execution of a job.

status.json in the folder of a model or a cell holds the reason of a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from diffusion_lab.store import ModelDirectory, RunDirectory, RunError
from diffusion_lab.store.lock import is_held
from diffusion_lab.store.option_names import grouped, short_names
from diffusion_lab.store.own_files import sha256_of
from diffusion_lab.store.status_file import DONE, FAILED, FILE, INTERRUPTED, Status, written_status

MODEL, CELL = "model", "cell"

Value = float | Sequence[float] | None  # what a command returns to a sweeper that searches


class JobError(RunError):
    """A job failed, or cannot be started; the message is the reason."""


class Operations(NamedTuple):
    """Floating-point operations of a training and of a score of it, a multiply-add counted as 2."""

    training: int
    score: int


@dataclass(frozen=True)
class PlannedCell:
    """A model scored in one way.

    choices, overrides: as in axes.Combination. model, run: folders of the model and of the score. operations: None if unknown.
    own: digests of the user's own files that the config of the finished model names, in the form in which a score records them.
    """

    choices: dict[str, str | None]
    overrides: tuple[str, ...]
    model: ModelDirectory
    run: RunDirectory
    operations: Operations | None = None
    own: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """A model to train or a cell to score.

    what: MODEL or CELL. folder: its folder, locked during the work. result: the file there that is written last. overrides: of its
    config. label: its name in lines of text. found: the digest of an earlier result to be replaced.
    """

    what: str
    folder: Path
    result: Path
    overrides: tuple[str, ...]
    label: str
    found: str | None = field(default=None, compare=False)

    @property
    def done(self) -> bool:
        return _digest(self.result) not in (None, self.found)


@dataclass(frozen=True)
class Job:
    """One model and its missing cells, in this order. name: of the model's folder."""

    name: str
    work: tuple[Work, ...]

    @property
    def purpose(self) -> str:
        """In words, for a plan: train, score, or both."""
        what = {work.what for work in self.work}
        return " and ".join(verb for kind, verb in ((MODEL, "train"), (CELL, "score")) if kind in what)


@dataclass(frozen=True)
class Plan:
    """The plan of a sweep.

    num_combinations: combinations of the command. cells: the distinct ones. jobs: one per model that lacks something.
    score: whether cells are scored, or models only trained.
    """

    num_combinations: int
    cells: tuple[PlannedCell, ...]
    jobs: tuple[Job, ...]
    score: bool = True

    @property
    def work(self) -> tuple[Work, ...]:
        """Models, then cells."""
        return tuple(work for what in (MODEL, CELL) for job in self.jobs for work in job.work if work.what == what)

    def summary(self) -> list[str]:
        """A summary of the plan in two lines."""
        models, missing = {cell.model.path for cell in self.cells}, {work.folder for work in self.work}
        train, score = len(models & missing), len(missing - models)
        scored = sum(cell.run.metrics.is_file() for cell in self.cells if cell.run.path not in missing)
        cells = _count(len(self.cells), "cell")
        if len(self.cells) != self.num_combinations:
            cells += f" from {self.num_combinations} combinations, some of them equal"
        return [
            f"{_count(len(models), 'model')}: {train} to train, {len(models) - train} reused",
            f"{cells}: {score} to score, {scored} scored already"
            if self.score
            else f"{cells}: not scored (score=false)",
        ]


def plan(
    cells: Iterable[PlannedCell],
    num_combinations: int,
    retrain: bool = False,
    rescore: bool = False,
    score: bool = True,
) -> Plan:
    """The plan for these cells; cells with the same run are merged.

    num_combinations: combinations of the command. retrain, rescore: ignore existing results. score=False: only train.
    """
    different = [same[0] for same in grouped(cells, lambda cell: cell.run).values()]
    values = {
        key: {choice for cell in different if (choice := cell.choices[key]) is not None}
        for key in (different[0].choices if different else ())
    }
    jobs = []
    for model, same in grouped(different, lambda cell: cell.model).items():
        work = []
        if retrain or not model.finished:
            overrides = (*same[0].overrides, "score=false")
            found = _digest(model.training)
            work.append(Work(MODEL, model.path, model.training, overrides, _label(same, values), found))
        for cell in same if score else ():
            found = _digest(cell.run.metrics)
            if retrain or rescore or found is None or not _is_valid(cell):
                # Models to train again will have other files by then, so their cells are scored again.
                overrides = (*cell.overrides, "retrain=false", f"rescore={str(rescore).lower()}")
                work.append(Work(CELL, cell.run.path, cell.run.metrics, overrides, _label([cell], values), found))
        if work:
            jobs.append(Job(model.path.name, tuple(work)))
    return Plan(num_combinations, tuple(different), tuple(jobs), score)


def _is_valid(cell: PlannedCell) -> bool:
    """Whether its score was computed from the current files of the model and of the user."""
    read = cell.run.read_metrics().get("protocol", {}).get("read", {})
    own = {kind: read[kind] for kind in read if isinstance(read[kind], dict)}
    of_model = {name: digest for name, digest in read.items() if name not in own}
    same = all(_digest(cell.model.path / name) == digest for name, digest in of_model.items())
    return bool(of_model) and same and own == cell.own


def sweep_content(plan: Plan, **asked: Any) -> dict[str, Any]:
    """The content of sweep.json: the command, and the folders of the cells.

    asked: name, command, axes, created; score: whether cells are scored or models only trained.
    """
    cells = [
        {"choices": c.choices, "overrides": list(c.overrides), "model": c.model.path.name, "run": c.run.path.name}
        for c in plan.cells
    ]
    return {**asked, "cells": cells}


def do(job: Job, run: Callable[[Work], Any], is_alone: bool = True) -> None:
    """Do the missing parts of a job in order, and raise the first JobError at the end. A failed cell stops no other.

    run: trains or scores; JobError if it fails. is_alone: whether one process does it; several processes might not fail together,
    so they stop at the first failure.
    """
    first = None
    for work in (work for work in job.work if not work.done):
        try:
            run(work)
        except JobError as error:
            fail(work.folder, str(error))
            first = first or error
            if work.what == MODEL or not is_alone:
                break
    if first is not None:
        raise first


def forget_failures(all_work: Iterable[Work]) -> None:
    """Remove the reasons of earlier failures; interrupted work keeps its status and resumes."""
    for work in all_work:
        status = written_status(work.folder)
        if status is not None and status.state != INTERRUPTED and not is_held(work.folder):
            (work.folder / FILE).unlink(missing_ok=True)


def fail(folder: Path, reason: str) -> None:
    """Record why the work in `folder` failed, unless it has recorded how it ended or another process works there."""
    status = written_status(folder)
    if not is_held(folder) and (status is None or status.state not in (FAILED, INTERRUPTED, DONE)):
        (status or Status.begin()).now(FAILED, reason=reason).write(folder)


def _label(cells: Sequence[PlannedCell], values: dict[str, set[str]]) -> str:
    """The choices that distinguish these cells from all others; axes whose values all occur here are omitted.

    The model's name if nothing distinguishes them.
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


def _digest(file: Path) -> str | None:
    try:
        return sha256_of(file)
    except OSError:
        return None
