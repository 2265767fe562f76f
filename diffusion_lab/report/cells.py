"""Cells of a sweep, read from run folders: what each chose, whether it was scored, and what came out.

A folder that is broken or is none of ours is named in `skipped` and left out; nothing here raises for one bad folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffusion_lab.report.choices import read_choices
from diffusion_lab.store import ModelDirectory, RunDirectory, RunError, SweepDirectory, named_model, run_directory
from diffusion_lab.store.measures import (
    REAL_IMAGES,
    SAMPLES,
    TEST_IMAGES,
    VALIDATION_IMAGES,
    Measure,
    read_measures,
    samples_key,
)
from diffusion_lab.store.records import inside, is_folder_name
from diffusion_lab.store.status_file import DONE, FAILED, read_status

MISSING = "missing"
MODEL_DIR = "model_dir"  # the axis of models that nothing else tells apart
_LARGEST = 1e100  # of a value: its square is a number too
_MOST_VALUES = 1000
_MOST_SHAPE = 3  # (C, H, W)
# Parts of a protocol that the report looks into.
_PARTS = ("data", "samples", "reference", "features", "bound", "floor", "cost", "model", "absent")


@dataclass(frozen=True, eq=False)
class Cell:
    """choices: every axis, None where this cell has no such option. state: done, missing (with the reason), or what its
    status file says. values, protocol, curves, measures, sources: of metrics.json; empty unless done."""

    choices: dict[str, str | None]
    run: RunDirectory
    model: ModelDirectory
    state: str
    reason: str = ""
    values: dict[str, float] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    measures: list[Measure] = field(default_factory=list)
    sources: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return self.state == DONE

    @property
    def given(self) -> dict[str, Any] | None:
        """The entry of its protocol on given samples; None where a model drew them."""
        return self.protocol.get("samples", {}).get("given")


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
    cells = [
        _cell(
            {axis: entry["choices"].get(axis) for axis in content["axes"]},
            run_directory(sweep.outputs, entry["run"]),
            named_model(sweep.outputs, entry["model"]),
        )
        for entry in content["cells"]
    ]
    return Gathered(
        name=str(content.get("name", sweep.path.name)),
        axes=content["axes"],
        cells=cells,
        command=content.get("command", []),
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
        model = named_model(run.outputs, str(metrics[1].get("model_directory", run.path.name)))
        cells.append(Cell(chosen, run, model, DONE, "", *metrics))
    apart = _told_apart_by_folder(cells)
    if apart:
        axes = {**axes, MODEL_DIR: apart}
    return Gathered(name, axes, cells, skipped=[*skipped, *unread])


def _told_apart_by_folder(cells: Iterable[Cell]) -> list[str]:
    """Models that no option tells apart, such as those of two versions of the code, get the names of their folders as an axis."""
    alike: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in (cell for cell in cells if cell.given is None):
        alike.setdefault((samples_key(cell.protocol), *sorted(cell.choices.items())), []).append(cell)
    named = []
    for some in alike.values():
        if len({cell.model.path for cell in some}) > 1:
            for cell in some:
                cell.choices[MODEL_DIR] = cell.model.path.name
                named.append(cell.model.path.name)
    return sorted(set(named))


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


def _metrics(
    run: RunDirectory,
) -> tuple[dict[str, float], dict[str, Any], dict[str, Any], list[Measure], dict[str, dict[str, list[float]]]]:
    """values, protocol, curves, measures, sources. RunError that names the file if it is not one of ours."""
    inside(run.path.parent, run.path)
    content = run.read_metrics()
    values, protocol, curves = (content.get(part, {}) for part in ("values", "protocol", "curves"))
    if not (isinstance(values, dict) and isinstance(protocol, dict) and isinstance(curves, dict)):
        raise RunError(f"{run.metrics} does not hold values, protocol and curves")
    if not values or not protocol:
        raise RunError(f"{run.metrics} holds no values or no protocol")
    if len(values) > _MOST_VALUES:
        raise RunError(f"{run.metrics} holds more than {_MOST_VALUES:,} values")
    for name, value in values.items():
        if not re.fullmatch(r"\w+", name):  # names become those of columns and of figures
            raise RunError(f"{run.metrics}: {name!r} is not the name of a value")
        if not _is_number(value):
            raise RunError(f"{run.metrics} holds {name} = {value!r}, which is not a number")
    sources = content.get("sources", {})
    wrong = _wrong_in_protocol(protocol) or _wrong_in_curves(curves) or _wrong_in_sources(sources)
    if wrong:
        raise RunError(f"{run.metrics} is not a valid score: {wrong}")
    try:
        measures = read_measures(content)
    except ValueError as error:
        raise RunError(f"{run.metrics} is not a valid score: {error}") from None
    return {name: float(value) for name, value in values.items()}, protocol, curves, measures, sources


def _wrong_in_protocol(protocol: Mapping[str, Any]) -> str | None:
    for part in _PARTS:
        if not isinstance(protocol.get(part, {}), dict):
            return f"protocol.{part} is not an object"
    shape = protocol.get("data", {}).get("shape", [])
    sides = isinstance(shape, list) and all(type(side) is int and 0 < side < _LARGEST for side in shape)
    if not sides or len(shape) > _MOST_SHAPE:
        return f"protocol.data.shape is {shape!r}"
    for part, name in (("data", "name"), ("bound", "kind"), ("model", "family")):
        if part in protocol and not isinstance(protocol[part].get(name), str):
            return f"protocol.{part}.{name} is not a string"
    if not isinstance(protocol.get("weights"), str | None):
        return "protocol.weights is not a string"
    if not all(isinstance(reason, str) for reason in protocol.get("absent", {}).values()):
        return "protocol.absent has values that are not strings"
    given = protocol.get("samples", {}).get("given", {})
    if not isinstance(given, dict) or not all(isinstance(given.get(name, ""), str) for name in ("name", "digest")):
        return "protocol.samples.given does not say which samples"
    remarks = protocol.get("remarks", [])
    if not isinstance(remarks, list) or not all(isinstance(remark, str) for remark in remarks):
        return "protocol.remarks is not a list of strings"
    model = protocol.get("model_directory", "")
    if model != "" and not is_folder_name(model):
        return f"protocol.model_directory is {model!r}, which is not the name of a folder"
    return None


def _wrong_in_curves(curves: Mapping[str, Any]) -> str | None:
    for name, curve in curves.items():
        columns = curve.values() if isinstance(curve, dict) else [None]
        if not all(isinstance(column, list) and all(map(_is_number, column)) for column in columns):
            return f"curves.{name} is not made of lists of numbers"
        if len({len(column) for column in columns}) > 1:
            return f"curves.{name} has lists of several lengths"
    curve = curves.get("bits_per_dim")
    if curve and not {"t", "bits_per_dim"} <= curve.keys():
        return "curves.bits_per_dim has no t or no bits_per_dim"
    return None


def _wrong_in_sources(sources: Any) -> str | None:
    if not isinstance(sources, dict) or len(sources) > _MOST_VALUES:
        return "sources is not an object"
    for name, found in sources.items():
        if not isinstance(found, dict) or not found.keys() <= {SAMPLES, REAL_IMAGES, TEST_IMAGES, VALIDATION_IMAGES}:
            return f"sources.{name} does not say what makes it uncertain"
        if not all(isinstance(b, list) and len(b) <= _MOST_VALUES and all(map(_is_number, b)) for b in found.values()):
            return f"sources.{name} is not made of lists of numbers"
    return None


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and abs(value) <= _LARGEST
