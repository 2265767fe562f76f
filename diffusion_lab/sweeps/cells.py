"""Cells of a sweep, read from run folders: what each chose, whether it was scored, and what came out.

A folder that is broken or is none of ours is named in `skipped` and left out; nothing here raises for one bad folder.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffusion_lab.runs import ModelDirectory, RunDirectory, RunError, SweepDirectory, read_json
from diffusion_lab.status import DONE, FAILED, read_status
from diffusion_lab.sweeps.choices import read_choices

MISSING = "missing"


@dataclass(frozen=True, eq=False)
class Cell:
    """choices: every axis, None where this cell has no such option. state: done, missing (with the reason), or what its
    status file says. values, protocol, curves: of metrics.json; empty unless done."""

    choices: dict[str, str | None]
    run: RunDirectory
    model: ModelDirectory
    state: str
    reason: str = ""
    values: dict[str, float] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return self.state == DONE


@dataclass(frozen=True)
class Gathered:
    """What a report is about. command: the options as they were given, empty where the runs were picked by hand."""

    name: str
    axes: dict[str, list[str]]
    cells: list[Cell]
    command: list[str] = field(default_factory=list)
    created: str = ""
    skipped: list[str] = field(default_factory=list)

    @property
    def done(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.done]


def read_sweep(sweep: SweepDirectory) -> Gathered:
    """All cells of a sweep, scored or not. RunError if sweep.json itself is missing or broken."""
    content = sweep.read_sweep()
    try:
        axes = {str(axis): [str(value) for value in values] for axis, values in content["axes"].items()}
        cells = [
            _cell(
                {axis: _text(entry["choices"].get(axis)) for axis in axes},
                RunDirectory(sweep.outputs / "runs" / entry["run"]),
                ModelDirectory(sweep.outputs / "models" / entry["model"]),
            )
            for entry in content["cells"]
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise RunError(f"{sweep.sweep} is not what a sweep writes: {type(error).__name__} {error}") from None
    return Gathered(
        name=str(content.get("name", sweep.path.name)),
        axes=axes,
        cells=cells,
        command=[str(option) for option in content.get("command", [])],
        created=str(content.get("created", "")),
    )


def read_runs(folders: Iterable[Path], name: str) -> Gathered:
    """Any run folders; the axes are the options in which their configs differ."""
    skipped, runs = [], []
    for folder in dict.fromkeys(folders):
        run = RunDirectory(folder)
        try:
            metrics = _metrics(run)
        except RunError as error:
            skipped.append(str(error))
            continue
        runs.append((run, metrics))
    axes, choices, unread = read_choices([run.config for run, _ in runs])
    cells = []
    for (run, metrics), chosen in zip(runs, choices, strict=True):
        model = run.path.parent.parent / "models" / str(metrics[1].get("model_directory", ""))
        cells.append(Cell(chosen, run, ModelDirectory(model), DONE, "", *metrics))
    return Gathered(name, axes, cells, skipped=[*skipped, *unread])


def _cell(choices: dict[str, str | None], run: RunDirectory, model: ModelDirectory) -> Cell:
    if run.metrics.is_file():
        try:
            return Cell(choices, run, model, DONE, "", *_metrics(run))
        except RunError as error:
            return Cell(choices, run, model, FAILED, str(error))
    for folder, work in ((run.path, "scoring"), (model.path, "training")):
        status = read_status(folder)
        if status is not None and status.state != DONE:
            how_far = f" at step {status.step} of {status.steps}" if status.step is not None and status.steps else ""
            return Cell(choices, run, model, status.state, f"{work}{how_far}: {status.reason or status.state}")
    return Cell(choices, run, model, MISSING, "trained, not scored yet" if model.finished else "not started yet")


def _metrics(run: RunDirectory) -> tuple[dict[str, float], dict[str, Any], dict[str, Any]]:
    """values, protocol, curves. RunError that names the file if it is not one of ours."""
    content = read_json(run.metrics)
    values, protocol, curves = (content.get(part, {}) for part in ("values", "protocol", "curves"))
    if not (isinstance(values, dict) and isinstance(protocol, dict) and isinstance(curves, dict)):
        raise RunError(f"{run.metrics} does not hold values, protocol and curves")
    if not values or not protocol:
        raise RunError(f"{run.metrics} holds no values or no protocol")
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise RunError(f"{run.metrics} holds {name} = {value!r}, which is no number")
    return {name: float(value) for name, value in values.items()}, protocol, curves


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
