"""The plan of a sweep, which trains missing models and then scores missing cells, and the outcomes of its jobs.

status.json in the folder of a model or a cell holds the reason of a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from diffusion_lab.store import ModelDirectory, RunDirectory
from diffusion_lab.store.lock import is_held
from diffusion_lab.store.option_names import grouped, short_names
from diffusion_lab.store.status_file import (
    DONE,
    FAILED,
    FILE,
    INTERRUPTED,
    RUNNING,
    Status,
    read_status,
    written_status,
)

MODEL, CELL = "model", "cell"


class Operations(NamedTuple):
    """Floating-point operations of a training and of a score of it, a multiply-add counted as 2."""

    training: int
    score: int


@dataclass(frozen=True)
class PlannedCell:
    """A model scored in one way. choices, overrides: as in axes.Combination. operations: None if unknown."""

    choices: dict[str, str | None]
    overrides: tuple[str, ...]
    model: ModelDirectory
    run: RunDirectory
    operations: Operations | None = None


@dataclass(frozen=True)
class Work:
    """A model to train or a cell to score. folder: its folder, held while working. result: the file there that is written last."""

    what: str
    folder: Path
    result: Path
    overrides: tuple[str, ...]
    label: str
    found: int | None = field(default=None, compare=False)  # an earlier result to be replaced

    @property
    def verb(self) -> str:
        return {MODEL: "train", CELL: "score"}[self.what]

    @property
    def done(self) -> bool:
        return _stamp(self.result) not in (None, self.found)


@dataclass(frozen=True)
class Job:
    """One model and its missing cells, or a share of them, in this order. name: of the folder of its log."""

    name: str
    work: tuple[Work, ...]


# Runs jobs; returns for each, in order, why it is incomplete (None: complete, or its parts have their own reasons).
Launch = Callable[[Sequence[Job]], Sequence[str | None]]


@dataclass(frozen=True)
class Plan:
    """num_combinations: those of the command. cells: the distinct ones. to_train, to_score: the missing models and cells."""

    num_combinations: int
    cells: tuple[PlannedCell, ...]
    to_train: tuple[Work, ...]
    to_score: tuple[Work, ...]
    jobs: tuple[Job, ...]

    @property
    def work(self) -> tuple[Work, ...]:
        """Models, then cells."""
        return (*self.to_train, *self.to_score)

    @property
    def num_models(self) -> int:
        return len({cell.model for cell in self.cells})

    def summary(self) -> list[str]:
        """A summary of the plan in two lines."""
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
    """The plan for these cells; cells with the same run are merged.

    retrain, rescore: ignore existing results. score=False: only train. Every job of a model can train it; they hold its folder in
    turn, so the first one does. The first jobs of all models come before the second ones, which may have to wait.
    """
    different = [same[0] for same in grouped(cells, lambda cell: cell.run).values()]
    by_model = grouped(different, lambda cell: cell.model)
    values = {
        key: {choice for cell in different if (choice := cell.choices[key]) is not None}
        for key in (different[0].choices if different else ())
    }
    to_train = {
        model.path: Work(
            MODEL,
            model.path,
            model.training,
            (*same[0].overrides, "score=false"),
            _label(same, values),
            found=_stamp(model.training),
        )
        for model, same in by_model.items()
        if retrain or not model.finished
    }
    to_score = {
        cell.run.path: Work(
            CELL,
            cell.run.path,
            cell.run.metrics,
            # Models to train again have been trained by now.
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


def sweep_content(plan: Plan, **asked: Any) -> dict[str, Any]:
    """The content of sweep.json: the request, and the places of the cells.

    asked: name, command, axes, created; score: whether cells are scored or models only trained.
    """
    cells = [
        {"choices": c.choices, "overrides": list(c.overrides), "model": c.model.path.name, "run": c.run.path.name}
        for c in plan.cells
    ]
    return {**asked, "cells": cells}


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


def _stamp(file: Path) -> int | None:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return None


def do(job: Job, run: Callable[[Work], str | None], is_alone: bool = True) -> str | None:
    """Do the missing parts of a job in order; returns the reason of the first failure, or None. A failed cell stops no other.

    run: trains or scores, and returns the reason of a failure. is_alone: whether one process does it; several processes might not
    fail together, so they stop at the first failure.
    """
    first = None
    for work in job.work:
        reason = None if work.done else run(work)
        if reason is not None:
            reason = fail(work.folder, reason)
            first = first or reason
            if work.what == MODEL or not is_alone:
                break
    return first


def run_all(jobs: Sequence[Job], launch: Launch) -> dict[Path, str]:
    """Run jobs; returns folder -> reason of all failures. Work that a killed job had not begun is launched again."""
    forget_failures(work for job in jobs for work in job.work)
    failures: dict[Path, str] = {}
    while jobs:
        reasons = launch(jobs)
        rests = [_settle(job, reason, failures) for job, reason in zip(jobs, reasons, strict=True)]
        jobs = [job for job in rests if job.work]
    return failures


def forget_failures(all_work: Iterable[Work]) -> None:
    """Remove the reasons of earlier failures; interrupted work keeps its status and resumes."""
    for work in all_work:
        status = written_status(work.folder)
        if status is not None and status.state != INTERRUPTED and not is_held(work.folder):
            (work.folder / FILE).unlink(missing_ok=True)


def fail(folder: Path, reason: str) -> str:
    """Record why the work in `folder` failed, unless a reason is recorded already or another process works there.

    Returns the recorded reason.
    """
    if is_held(folder):
        return reason
    status = written_status(folder)
    if status is not None and status.state in (FAILED, INTERRUPTED):
        return status.reason or reason
    (status or Status.begin()).now(FAILED, reason=reason).write(folder)
    return reason


def _settle(job: Job, reason: str | None, failures: dict[Path, str]) -> Job:
    """Record the failures of a job that has ended; returns the remaining work for another job.

    The work of a killed job is left with the state `running`. Work without a status is left to another job, unless nothing failed:
    another job would then end in the same way.
    """
    missing = [work for work in job.work if not work.done]
    states = [status.state if (status := written_status(work.folder)) else None for work in missing]
    begun = [work for work, state in zip(missing, states, strict=True) if state in (RUNNING, FAILED)]
    goes_on = begun and begun[0].what != MODEL and INTERRUPTED not in states
    rest = tuple(work for work in missing if work not in begun) if goes_on else ()
    for work in missing:
        model = job.work[0] if job.work[0].folder in failures else None
        if model is not None and model.what == MODEL and work is not model:
            failures[work.folder] = fail(work.folder, f"its model failed: {failures[model.folder]}")
        elif work not in rest:
            failures[work.folder] = fail(work.folder, reason or _own_reason(work) or "it ended without a result")
    return replace(job, work=rest)


def _own_reason(work: Work) -> str | None:
    """The reason of a failure in the folder's status, or None."""
    status = read_status(work.folder)
    return None if status is None or status.state == DONE else status.reason
