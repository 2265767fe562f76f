"""How far a sweep is, read from the folders of its models and cells: the same for jobs of this machine and of a cluster's."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from diffusion_lab.runs import ModelDirectory, SweepDirectory, run_directory
from diffusion_lab.status import DONE, FAILED, INTERRUPTED, RUNNING, Status, read_status
from diffusion_lab.sweeps.plan import Job, PlannedCell, plan

QUEUED = "queued"
_STYLES = {RUNNING: "cyan", FAILED: "red", INTERRUPTED: "yellow", QUEUED: "dim", DONE: "green"}  # in this order


@dataclass(frozen=True)
class Standing:
    """One model or cell. state: running, failed, interrupted, queued or done. status: what it says of itself, if anything."""

    what: str
    label: str
    folder: Path
    state: str
    status: Status | None


def standings(sweep: SweepDirectory) -> list[Standing]:
    """The models, then the cells; what is going on first, what is done last. RunError if the sweep cannot be read."""
    cells = [
        PlannedCell(
            cell["choices"],
            tuple(cell["overrides"]),
            ModelDirectory(sweep.outputs / "models" / cell["model"]),
            run_directory(sweep.outputs, cell["run"]),
        )
        for cell in sweep.read_sweep()["cells"]
    ]
    all_of_it = plan(cells, len(cells), retrain=True)
    found = [_standing("model", job) for job in all_of_it.to_train] + [
        _standing("cell", job) for job in all_of_it.to_score
    ]
    return sorted(found, key=lambda standing: list(_STYLES).index(standing.state))


def is_over(found: Sequence[Standing]) -> bool:
    """Whether nothing runs and nothing waits."""
    return all(standing.state in (DONE, FAILED) for standing in found)


def seconds_left(status: Status, earlier: Status | None) -> float | None:
    """By the pace since `earlier`, a status of the same process, or since it began; None where no steps are counted yet."""
    if status.step is None or status.steps is None:
        return None
    if earlier is not None and earlier.pid == status.pid and earlier.step is not None and earlier.step < status.step:
        pace = (status.updated - earlier.updated) / (status.step - earlier.step)
    elif status.step > 0:
        pace = (status.updated - status.started) / status.step
    else:
        return None
    return max(0.0, (status.steps - status.step) * pace - (time.time() - status.updated))


def table(found: Sequence[Standing], earlier: Mapping[Path, Status]) -> Table:
    """A line for each, and how many are where. earlier: a status of the same folders from before, for the pace."""
    shown = Table(
        box=None, pad_edge=False, header_style="dim", title=_summary(found), title_justify="left", title_style=""
    )
    for column in ("", "choices", "state", "step", "left"):
        shown.add_column(column, justify="right" if column in ("step", "left") else "left", no_wrap=column != "choices")
    shown.add_column("why", overflow="fold")
    for standing in found:
        status = standing.status
        running = status is not None and standing.state == RUNNING
        left = seconds_left(status, earlier.get(standing.folder)) if running else None
        shown.add_row(
            standing.what,
            Text(standing.label or standing.folder.name),
            Text(standing.state, _STYLES[standing.state]),
            f"{status.step or 0}/{status.steps}" if running and status.steps else "",
            "" if left is None else _duration(left),
            Text((status.reason or "") if status is not None and standing.state in (FAILED, INTERRUPTED) else ""),
        )
    return shown


def _standing(what: str, job: Job) -> Standing:
    status = read_status(job.folder)
    if status is not None and status.state == RUNNING:
        state = RUNNING
    elif job.result.is_file():
        state = DONE
    else:
        state = QUEUED if status is None else status.state
    return Standing(what, job.label, job.folder, state, status)


def _summary(found: Sequence[Standing]) -> str:
    """models: 2 done, 1 running; cells: 4 queued"""
    parts = []
    for what in ("model", "cell"):
        count = Counter(standing.state for standing in found if standing.what == what)
        parts.append(f"{what}s: " + ", ".join(f"{count[state]} {state}" for state in reversed(_STYLES) if count[state]))
    return "; ".join(parts)


def _duration(seconds: float) -> str:
    """90 -> 1:30; 7200 -> 2:00:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
