"""Progress of a sweep: one line for each model and cell when it ends, and the table of `status`.

It is read from folders and from a cluster's queue, and therefore works for jobs of any process or machine.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
from diffusion_lab.terminal import MOST_LINES, and_more

_POLL_SECONDS = 0.5
QUEUED, REQUEUED = "queued", "requeued"
_WAITS, _ENDS = ("PENDING", "REQUEUED", "REQUEUE_HOLD"), "COMPLETING"  # Slurm's states
_STYLES = {  # in order of display
    RUNNING: "cyan", FAILED: "red", INTERRUPTED: "yellow", REQUEUED: "yellow", QUEUED: "dim", DONE: "green",
}  # fmt: skip


@contextmanager
def watching(all_work: Sequence[Work], console: Console) -> Iterator[Watch]:
    """Report progress on models and cells while the block runs."""
    watch = Watch(all_work, console)
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(_POLL_SECONDS):
            watch.update()

    thread = threading.Thread(target=poll, daemon=True, name="watch")
    thread.start()
    try:
        yield watch
    finally:
        stop.set()
        thread.join()
        watch.update(last=True)


class Watch:
    """Watches folders, and prints the outcome of each once."""

    def __init__(self, all_work: Sequence[Work], console: Console) -> None:
        self._waiting, self._num_of = list(all_work), Counter(work.what for work in all_work)
        self._reported: Counter[str] = Counter()
        self._console = console

    def update(self, last: bool = False) -> None:
        """Report everything that has ended since the last update.

        A killed job counts as ended only once this is recorded, because it may be retried; an interrupted one may be
        requeued.
        """
        ends = (FAILED, INTERRUPTED) if last else (FAILED,)
        for work in list(self._waiting):
            status = written_status(work.folder)
            if work.done:
                self._report(work, result_line(work))
            elif status is not None and status.state in ends:
                self._report(work, f"{status.state}: {status.reason}")

    def _report(self, work: Work, how: str) -> None:
        self._waiting.remove(work)
        self._reported[work.what] += 1
        number, of = self._reported[work.what], self._num_of[work.what]
        place = f"{work.what} {number:>{len(str(of))}} of {of}"
        self._console.print(Text(f"{place}  {work.label}  → {how}"), soft_wrap=True)


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
    """One model or cell. state: a key of _STYLES. status: its status file, if any. reason: why it is not done."""

    what: str
    label: str
    folder: Path
    state: str
    status: Status | None
    reason: str = ""


def job_progress(sweep: SweepDirectory, in_queue: Mapping[str, str] = MappingProxyType({})) -> list[JobProgress]:
    """Models and cells, running first, finished last. RunError if the sweep cannot be read.

    in_queue: name of a model or a cell -> the state of its job in a cluster.
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
    all_of_it = plan(cells, len(cells), retrain=True, score=content.get("score", True))
    stopped: dict[str, JobProgress] = {}
    models = {cell["run"]: cell["model"] for cell in content["cells"]}
    found = []
    for work in all_of_it.work:
        name = work.folder.name
        found.append(_progress_of(work, in_queue.get(name), stopped.get(models.get(name, ""))))
        if found[-1].state in (FAILED, INTERRUPTED):
            stopped[name] = found[-1]
    return sorted(found, key=lambda standing: list(_STYLES).index(standing.state))


def other_trainings(outputs: Path, found: Sequence[JobProgress], finished: bool) -> list[JobProgress]:
    """Trainings other than `found` and scores that are computed now, running first. finished: include finished trainings."""
    listed = {standing.folder for standing in found}
    folders = [(MODEL, model.path) for model in models_in(outputs)] + [(CELL, run.path) for run in runs_in(outputs)]
    others = [
        JobProgress(what, "", path, status.state, status, status.reason or "")
        for what, path in folders
        if path not in listed
        and (status := read_status(path)) is not None
        and (status.state == RUNNING or (finished and what == MODEL))
    ]
    return sorted(others, key=lambda standing: list(_STYLES).index(standing.state))


def is_over(found: Sequence[JobProgress]) -> bool:
    """Whether no job is running or pending."""
    return all(standing.state in (DONE, FAILED) for standing in found)


def seconds_left(status: Status, earlier: Status | None) -> float | None:
    """Seconds left at the pace since `earlier`, a status of the same process, or since the start; None without a step count."""
    if status.step is None or status.steps is None:
        return None
    if earlier is not None and earlier.pid == status.pid and earlier.step is not None and earlier.step < status.step:
        pace = (status.updated - earlier.updated) / (status.step - earlier.step)
    elif status.step > 0:
        pace = (status.updated - status.started) / status.step
    else:
        return None
    return max(0.0, (status.steps - status.step) * pace - (time.time() - status.updated))


def table(found: Sequence[JobProgress], earlier: Mapping[Path, Status]) -> Table:
    """Up to MOST_LINES lines, one per model or cell, below totals by state.

    earlier: a previous status of the same folders, for the pace.
    """
    shown = Table(
        box=None, pad_edge=False, header_style="dim", title=summary(found), title_justify="left", title_style=""
    )
    for column in ("", "choices", "state", "step", "left"):
        shown.add_column(column, justify="right" if column in ("step", "left") else "left", no_wrap=column != "choices")
    shown.add_column("why", overflow="fold")
    for standing in found[:MOST_LINES]:
        status = standing.status if standing.state == RUNNING else None
        left = None if status is None else seconds_left(status, earlier.get(standing.folder))
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


def _progress_of(work: Work, in_queue: str | None, model: JobProgress | None) -> JobProgress:
    """The progress of one job. in_queue: its state in a cluster. model: the cell's model, if it failed or was interrupted."""
    status = read_status(work.folder)
    state = QUEUED if status is None else status.state
    reason = (status.reason or "") if status is not None else ""
    if state == RUNNING or (state == DONE and work.result.is_file()):
        pass
    elif in_queue in _WAITS:
        state = REQUEUED if state in (INTERRUPTED, FAILED) else QUEUED
    elif state in (FAILED, INTERRUPTED) and work.what == MODEL and work.result.is_file():
        reason = f"training again: {reason}; the earlier model is still there"
    elif work.result.is_file():
        state, reason = DONE, ""
    elif in_queue is not None:
        state = REQUEUED if state == INTERRUPTED and in_queue != _ENDS else state
    elif state == QUEUED and model is not None and model.state == FAILED:
        state, reason = FAILED, f"its model failed: {model.reason}"
    elif state == QUEUED and model is not None:
        state, reason = INTERRUPTED, "its model was interrupted"
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
