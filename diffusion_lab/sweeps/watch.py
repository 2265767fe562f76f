"""Progress of a sweep: one line for each model and cell when it ends, and the table of `status`.

It is read from folders and from a cluster's queue, and therefore works for jobs of any process or machine.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType

from rich.console import Console
from rich.table import Table
from rich.text import Text

from diffusion_lab.store import RunError, SweepDirectory, named_model, read_json, run_directory
from diffusion_lab.store.measures import SECONDS, read_measures
from diffusion_lab.store.places import models_in, runs_in
from diffusion_lab.store.status_file import DONE, FAILED, INTERRUPTED, RUNNING, Status, read_status, written_status
from diffusion_lab.sweeps.plan import CELL, MODEL, PlannedCell, Work, plan
from diffusion_lab.sweeps.slurm import Queued
from diffusion_lab.terminal import MOST_LINES, and_more

_POLL_SECONDS = 0.5
QUEUED, REQUEUED = "queued", "requeued"
_WAITS, _ENDS = ("PENDING", "REQUEUED", "REQUEUE_HOLD"), "COMPLETING"  # Slurm's states
_STYLES = {  # in order of display
    RUNNING: "cyan", FAILED: "red", INTERRUPTED: "yellow", REQUEUED: "yellow", QUEUED: "dim", DONE: "green",
}  # fmt: skip


@contextmanager
def watching(all_work: Sequence[Work], console: Console) -> Iterator[Callable[[], None]]:
    """Print a line for each model and cell when it ends, while the block runs; yields a function that does so at once.

    Interrupted work, which may go on, is reported at the end.
    """
    waiting, num_of, stop = [*all_work], Counter(work.what for work in all_work), threading.Event()

    def report(ends: Sequence[str] = (FAILED,)) -> None:
        for work in [*waiting]:
            status = written_status(work.folder)
            ended = f"{status.state}: {status.reason}" if status is not None and status.state in ends else None
            if how := result_line(work) if work.done else ended:
                waiting.remove(work)
                of = num_of[work.what]
                number = of - sum(other.what == work.what for other in waiting)
                place = f"{work.what} {number:>{len(str(of))}} of {of}"
                console.print(Text(f"{place}  {work.label}  → {how}"), soft_wrap=True)

    def poll() -> None:
        while not stop.wait(_POLL_SECONDS):
            report()

    thread = threading.Thread(target=poll, daemon=True, name="watch")
    thread.start()
    try:
        yield report
    finally:
        stop.set()
        thread.join()
        report((FAILED, INTERRUPTED))


def result_line(work: Work) -> str:
    """A result in one line: for a model its training, for a cell its main measures."""
    try:
        result = read_json(work.result)
    except RunError as error:
        return str(error)
    values = result.get("values")
    if values is None:
        return f"trained, {result['steps']} steps in {result['seconds']:.0f} s"
    main = [m for m in read_measures(result) if m.name in values and (m.headline or m.name == SECONDS)]
    return "  ".join(f"{m.label} {values[m.name]:.{m.decimals}f}" for m in main)


@dataclass(frozen=True)
class JobProgress:
    """The progress of one model or cell.

    what: MODEL or CELL. label: its name in lines of text. folder: its folder. state: a key of _STYLES. status: its status file, if
    any. reason: why it is not done.
    """

    what: str
    label: str
    folder: Path
    state: str
    status: Status | None
    reason: str = ""


def job_progress(sweep: SweepDirectory, jobs: Mapping[str, Queued] = MappingProxyType({})) -> list[JobProgress]:
    """Models and cells, running first, finished last. RunError if the sweep cannot be read.

    jobs: of a cluster, by model.
    """
    content = sweep.read_sweep()
    cells = [
        PlannedCell(
            cell["choices"],
            tuple(cell["overrides"]),
            named_model(sweep.outputs, cell["model"]),
            run_directory(sweep.outputs, cell["run"]),
        )
        for cell in content["cells"]
    ]
    found = []
    for job in plan(cells, len(cells), retrain=True, score=content.get("score", True)).jobs:
        model = _progress_of(job.work[0], jobs.get(job.name), None)
        found += [model, *(_progress_of(work, jobs.get(job.name), model) for work in job.work[1:])]
    return _in_order(found)


def other_trainings(outputs: Path, found: Sequence[JobProgress], finished: bool) -> list[JobProgress]:
    """Trainings other than `found`, and scores that are being computed, running first. finished: include finished trainings."""
    listed = {standing.folder for standing in found}
    folders = [(MODEL, model.path) for model in models_in(outputs)] + [(CELL, run.path) for run in runs_in(outputs)]
    others = [
        JobProgress(what, "", path, status.state, status, status.reason or "")
        for what, path in folders
        if path not in listed
        and (status := read_status(path)) is not None
        and (status.state == RUNNING or (finished and what == MODEL))
    ]
    return _in_order(others)


def _in_order(found: Sequence[JobProgress]) -> list[JobProgress]:
    """Running first, finished last; of one state models before cells."""
    return sorted(found, key=lambda standing: (list(_STYLES).index(standing.state), standing.what == CELL))


def is_over(found: Sequence[JobProgress]) -> bool:
    """Whether no job is running or pending."""
    return all(standing.state in (DONE, FAILED) for standing in found)


def seconds_left(status: Status) -> float | None:
    """Seconds left at the pace of this process so far; None without a step count."""
    if status.step is None or status.steps is None or status.first is None or status.step <= status.first:
        return None
    pace = (status.updated - status.started) / (status.step - status.first)
    return max(0.0, (status.steps - status.step) * pace - (time.time() - status.updated))


def table(found: Sequence[JobProgress]) -> Table:
    """Up to MOST_LINES lines, one per model or cell, below totals by state."""
    shown = Table(
        box=None, pad_edge=False, header_style="dim", title=summary(found), title_justify="left", title_style=""
    )
    for column in ("", "choices", "state", "step", "left"):
        shown.add_column(column, justify="right" if column in ("step", "left") else "left", no_wrap=column != "choices")
    shown.add_column("why", overflow="fold")
    for standing in found[:MOST_LINES]:
        status = standing.status if standing.state == RUNNING else None
        left = None if status is None else seconds_left(status)
        shown.add_row(
            standing.what,
            Text(standing.label or standing.folder.name),
            Text(standing.state, _STYLES[standing.state]),
            f"{status.step or 0}/{status.steps}" if status is not None and status.steps else "",
            "" if left is None else str(timedelta(seconds=round(left))),
            Text(standing.reason),
        )
    for line in and_more(len(found)):
        shown.add_row("", line)
    return shown


def _progress_of(work: Work, job: Queued | None, model: JobProgress | None) -> JobProgress:
    """The progress of a model, or of a cell of `model`. job: the cluster's."""
    status, has_result = read_status(work.folder), work.result.is_file()
    state = (DONE if has_result else QUEUED) if status is None else status.state
    reason = (status.reason or "") if status is not None else ""
    if state == DONE and not has_result:  # the folder was removed
        state = QUEUED
    in_queue = None if job is None else job.state
    if in_queue in _WAITS and (status is None or state in (INTERRUPTED, FAILED)):
        state = QUEUED if status is None else REQUEUED
    elif state == INTERRUPTED and in_queue and in_queue != _ENDS:
        state = REQUEUED
    elif state == QUEUED and not in_queue and model is not None and model.state in (FAILED, INTERRUPTED):
        state, reason = (
            model.state,
            f"its model {'failed' if model.state == FAILED else 'was interrupted'}: {model.reason}",
        )
    elif job is not None and in_queue is None and state in (QUEUED, FAILED):
        state, reason = FAILED, f"{reason or f'job {job.name} has left the queue'}; its log is {job.log}"
    return JobProgress(work.what, work.label, work.folder, state, status, reason)


def summary(found: Sequence[JobProgress]) -> str:
    """Totals by state, such as: models: 2 done, 1 running; cells: 4 queued"""
    parts = []
    for what in ("model", "cell"):
        count = Counter(standing.state for standing in found if standing.what == what)
        if count:
            parts.append(
                f"{what}s: " + ", ".join(f"{count[state]} {state}" for state in reversed(_STYLES) if count[state])
            )
    return "; ".join(parts)
