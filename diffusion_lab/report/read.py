"""Reading cells from run folders: their choices, whether they were scored, and their numbers.

A damaged or foreign folder is named in `skipped` and left out; no single folder makes reading fail.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, model_validator

from diffusion_lab.report.choices import read_choices
from diffusion_lab.report.table import Cell, Gathered
from diffusion_lab.store import ModelDirectory, RunDirectory, RunError, SweepDirectory, named_model, run_directory
from diffusion_lab.store.measures import read_measures, samples_key
from diffusion_lab.store.option_names import grouped
from diffusion_lab.store.provenance import of_earlier_version
from diffusion_lab.store.records import Shape, inner_folder, inside, wrong_in
from diffusion_lab.store.status_file import DONE, FAILED, read_status
from diffusion_lab.sweeps.decide import read_standings

MISSING = "missing"
MODEL_DIR = "model_dir"  # the axis of models that differ in no option
_LARGEST = 1e100  # of a value, whose square must be finite
_MOST_VALUES = 1000
_OF_EARLIER = (" even in log SNR", "; this sampler has no bound of its own")  # in the kind of a bound that 0.1 wrote


def read_sweep(sweep: SweepDirectory) -> Gathered:
    """All cells of a sweep, scored or not. RunError if sweep.json, or a score by which it decides, is missing or damaged."""
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
        str(content.get("name", sweep.path.name)),
        content["axes"],
        cells,
        content.get("command", []),
        str(content.get("created", "")),
        decision=read_standings(sweep),
    )


def read_runs(folders: Iterable[Path], name: str) -> Gathered:
    """Cells of run folders; the axes are the options in which their configs differ."""
    skipped, runs = [], []
    for run in map(RunDirectory, dict.fromkeys(folders)):
        try:
            runs.append((run, read_score(run)))
        except RunError as error:
            skipped.append(str(error))
    axes, choices, unread = read_choices([(run.config, metrics.get("choices", {})) for run, metrics in runs])
    cells = []
    for (run, metrics), chosen in zip(runs, choices, strict=True):
        model = named_model(run.outputs, str(metrics["protocol"].get("model_directory", run.path.name)))
        cells.append(_scored(chosen, run, model, metrics))
    apart = _told_apart_by_folder(cells)
    if apart:
        axes = {**axes, MODEL_DIR: apart}
    return Gathered(name, axes, cells, skipped=[*skipped, *unread])


def _told_apart_by_folder(cells: Iterable[Cell]) -> list[str]:
    """Distinguish models that differ in no option, such as those of two versions of the code, by an axis of folder names."""
    drawn = (cell for cell in cells if cell.given is None)
    alike = grouped(drawn, lambda cell: (samples_key(cell.protocol), *sorted(cell.choices.items())))
    several = [some for some in alike.values() if len({cell.model.path for cell in some}) > 1]
    for cell in (cell for some in several for cell in some):
        cell.choices[MODEL_DIR] = cell.model.path.name
    return sorted({cell.model.path.name for some in several for cell in some})


def _cell(choices: dict[str, str | None], run: RunDirectory, model: ModelDirectory) -> Cell:
    if run.metrics.is_file():
        try:
            return _scored(choices, run, model, read_score(run))
        except RunError as error:
            return Cell(choices, run, model, FAILED, str(error))
    for folder, work in ((run.path, "scoring"), (model.path, "training")):
        status = read_status(folder)
        if status is not None and status.state != DONE:
            how_far = f" at step {status.step} of {status.steps}" if status.step is not None and status.steps else ""
            return Cell(choices, run, model, status.state, f"{work}{how_far}: {status.reason or status.state}")
    return Cell(choices, run, model, MISSING, "trained, not scored yet" if model.finished else "not started yet")


def _scored(
    choices: dict[str, str | None], run: RunDirectory, model: ModelDirectory, metrics: Mapping[str, Any]
) -> Cell:
    parts = {name: metrics.get(name, {}) for name in ("protocol", "curves", "measures", "sources")}
    values = {name: float(value) for name, value in metrics["values"].items()}
    training, read = _training_of(model), metrics["protocol"].get("read", {})
    trained_by = {} if of_earlier_version(training) else training["code"]
    code = {"scored_by": metrics.get("code", {}), "trained_by": trained_by}
    own = {"trained_with": _own_files(training, model), "scored_with": _own_files(read, model)}
    return Cell(choices, run, model, DONE, values=values, code=code, own=own, **parts)


def _own_files(record: Mapping[str, Any], model: ModelDirectory) -> dict[str, str]:
    """The user's files in a record by path, and those that options of the model name by option."""
    options = record.get("options", {})
    return {**record.get("files", {}), **{f"{name} of {model.path.name}": file for name, file in options.items()}}


def _training_of(model: ModelDirectory) -> dict[str, Any]:
    """The record of a training; empty if the model was removed, or is damaged."""
    try:
        return model.read_training()
    except (OSError, RunError):
        return {}


def read_score(run: RunDirectory) -> dict[str, Any]:
    """The content of metrics.json with its measures. RunError, naming the file, if it is not a valid score."""
    inside(run.path.parent, run.path)
    content = run.read_metrics()
    try:
        if wrong := wrong_in(content, _Score):
            raise ValueError(wrong)
        bound = content["protocol"].get("bound") or {"kind": ""}
        for words in _OF_EARLIER:
            bound["kind"] = bound["kind"].replace(words, "")
        return {**content, "measures": read_measures(content)}
    except ValueError as error:
        raise RunError(f"{run.metrics} is not a valid score: {error}") from None


Part = dict[str, Any]
_Value = Annotated[float, Field(ge=-_LARGEST, le=_LARGEST)]
_Word = Annotated[str, Field(pattern=r"^\w+$")]  # of a column and of a figure
_Choice = Annotated[str, Field(pattern=r"^[\w /.-]{1,200}$")]


class _Given(BaseModel):
    name: str = ""
    digest: str = ""


class _Samples(BaseModel):
    given: _Given = _Given()


class _Data(BaseModel):
    name: str
    shape: Shape = [1]


class _Bound(BaseModel):
    kind: str


class _Model(BaseModel):
    family: str


class _Read(BaseModel):
    files: dict[str, str] = {}
    options: dict[str, str] = {}


class _Protocol(BaseModel):
    data: _Data = _Data(name="")
    samples: _Samples = _Samples()
    bound: _Bound = _Bound(kind="")
    model: _Model = _Model(family="")
    read: _Read = _Read()
    reference: Part = {}
    features: Part = {}
    floor: Part = {}
    cost: Part = {}
    absent: dict[str, str] = {}
    remarks: list[str] = []
    weights: str | None = None
    model_directory: Annotated[str, AfterValidator(lambda name: name and inner_folder(name))] = (
        ""  # "": of given images
    )


class _Score(BaseModel):
    """The fields of metrics.json that the report needs."""

    values: dict[_Word, _Value] = Field(min_length=1, max_length=_MOST_VALUES)
    choices: dict[str, _Choice | None] = {}
    protocol: _Protocol
    code: dict[str, str] = {}
    curves: dict[str, dict[str, list[_Value]]] = {}
    sources: dict[str, dict[str, Annotated[list[_Value], Field(min_length=2, max_length=_MOST_VALUES)]]] = {}

    @model_validator(mode="after")
    def _fits(self) -> _Score:
        for name, curve in self.curves.items():
            if len({len(column) for column in curve.values()}) > 1:
                raise ValueError(f"curves.{name} has lists of several lengths")
        bound = self.curves.get("bits_per_dim")
        if bound and not {"t", "bits_per_dim"} <= bound.keys():
            raise ValueError("curves.bits_per_dim has no t or no bits_per_dim")
        return self
