"""The folders under outputs/ and the files in them: one trained model, one scored cell, one sweep."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_lab.store import written
from diffusion_lab.store.files import check_links, clear, move, remove_staged
from diffusion_lab.store.records import (
    CHOICES,
    SWEEP,
    TRAINING,
    RunError,
    inside,
    read_json,
    read_record,
    write_json,
)
from diffusion_lab.store.status_file import FILE as STATUS
from diffusion_lab.store.weight_names import is_kept_average, is_snapshot, is_weights
from diffusion_lab.store.written import ours_below

_CONFIG, _CHOICES, _TRAINING, _RETRAINING = "config.yaml", "choices.json", "training.json", "retraining"


@dataclass(frozen=True)
class _In:
    """The path of a file or folder in a directory, as an attribute."""

    name: str

    def __get__(self, directory: Directory, kind: object = None) -> Path:
        return directory.path / self.name


@dataclass(frozen=True)
class _Newest:
    """The path of a model's file: in the new training if that one is valid, else in the model itself."""

    name: str

    def __get__(self, directory: ModelDirectory, kind: object = None) -> Path:
        return directory.newest(self.name)


@dataclass(frozen=True)
class Directory:
    """A folder under outputs/ that a tracker may log."""

    path: Path
    logs = _In("logs")  # TensorBoard's and W&B's own files
    tracked_as = _In("wandb_id")  # the id of its run at W&B

    @property
    def home(self) -> Path:
        """The folder with the lease and the status file; its name identifies the work."""
        return self.path

    @property
    def outputs(self) -> Path:
        """The outputs/ folder that contains it."""
        return self.path.parent.parent

    @property
    def files(self) -> list[Path]:
        """Our unchanged files here, the last written first; without links, and without files of loggers in `logs`."""
        return ours_below(self.path)


def previous_of(checkpoint: Path) -> Path:
    """resume.ckpt -> resume.previous.ckpt."""
    return checkpoint.with_name(f"{checkpoint.stem}.previous{checkpoint.suffix}")


def grid_file(folder: Path, step: int) -> Path:
    """The grid of a step, in the folder of grids."""
    return folder / f"step_{step:07d}.png"


class ModelDirectory(Directory):
    """One trained model. `training` is written last: if it exists, training has finished.

    A model is trained again in its folder `retraining`, beside the old one. Once that training has finished, each of its files
    replaces the one here for readers; `put_in_place` then moves them one by one. So at any moment, even if a process was killed,
    a reader finds either the old model or the new one, complete.
    """

    config = _Newest(_CONFIG)  # resolved, as used in training
    choices = _Newest(_CHOICES)  # the option of each group that config was composed from
    training = _Newest(_TRAINING)  # steps, seconds and images of the finished training
    metrics_csv = _Newest("metrics.csv")  # losses and rates while training
    resume = _In("resume.ckpt")  # the checkpoint for resuming
    previous_resume = _In("resume.previous.ckpt")
    accuracy = _In("accuracy.json")  # of a noisy classifier by t, in place of a score
    samples = _In("samples")  # grids drawn during training
    result = _In(_TRAINING)  # where `training` finally lies; changes when a new training has been put in place
    _mark = _In("in_place")

    @property
    def home(self) -> Path:
        return self.path.parent if self.path.name == _RETRAINING else self.path

    @property
    def retraining(self) -> ModelDirectory:
        """The folder in which this model is trained again."""
        return ModelDirectory(self.path / _RETRAINING)

    def weights(self, name: str) -> Path:
        """The weights called `name`: "raw", "ema_0.999", "at_0.2", ..."""
        return self.newest(f"{name}.safetensors")

    @property
    def weight_names(self) -> list[str]:
        """Names of the saved weights, sorted."""
        folders = [self.path, *([self.retraining.path] if self._is_replaced else [])]
        files = [file for path in folders for file in path.glob("*.safetensors") if file.is_file()]
        return sorted({file.stem for file in files if is_weights(file.stem)})

    def weight_files(self, moments: Collection[str] = ()) -> dict[str, Path]:
        """Files of the weights; of earlier moments only those in `moments`. RunError without raw weights, which every model has."""
        names = [name for name in self.weight_names if name in moments or not is_snapshot(name)]
        if "raw" not in names:
            raise RunError(f"{self.path} holds no weights: raw.safetensors is missing")
        return {name: inside(self.path, self.weights(name)) for name in names}

    @property
    def snapshots(self) -> list[Path]:
        """Weights of earlier moments in this folder."""
        return [file for file in self.path.glob("*.safetensors") if is_snapshot(file.stem)]

    @property
    def kept_averages(self) -> list[Path]:
        """Files of averages in this folder, from which others are built, sorted."""
        return sorted(file for file in self.path.glob("*.safetensors") if is_kept_average(file.stem))

    @property
    def grids(self) -> list[Path]:
        """Grids drawn during training in this folder."""
        return list(self.samples.glob("step_*.png"))

    @property
    def finished(self) -> bool:
        return self.training.is_file()

    @property
    def is_generative(self) -> bool:
        """Whether it is trained and draws samples: no classifier."""
        return self.finished and not self.accuracy.is_file()

    def make_newest(self) -> None:
        """Let commands that name no model take this one, as if its training had just finished."""
        with suppress(OSError):  # a folder of others, which may only be read
            os.utime(self.training, follow_symlinks=False)

    @property
    def begun(self) -> bool:
        """Whether there is something from which training can continue."""
        return self.config.is_file() or self.resume.is_file() or bool(self.weight_names)

    def finish(self, steps: int | None, seconds: float | None, images: int | None, **more: Any) -> None:
        """Mark training as finished, after everything else has been written. None: the training was not recorded."""
        write_json(self.training, {"steps": steps, "seconds": seconds, "images": images, **more})

    def put_in_place(self) -> None:
        """Move a new, finished training to the place of the old one. It can be called again after being killed.

        Only the process that holds the folder may call it. Our files of the old training are removed; the user's are kept.
        """
        new = self.retraining
        remove_staged(new.path)
        if not self._is_replaced:
            return
        first, last = new.path / _CHOICES, new.path / _TRAINING
        if first.exists():  # nothing moved yet: remove first what the new training lacks
            for folder in (self.path, self.samples):
                old = [folder / name for name in written.names(folder) if name != STATUS]
                for file in old:
                    if not (new.path / file.relative_to(self.path)).exists():
                        clear(file)
        check_links(new._mark)
        new._mark.touch()
        files = [path for path in sorted(new.path.rglob("*")) if not path.is_dir() or path.is_symlink()]
        kept = (first, last, new._mark)
        for file in [*({first} & {*files}), *(f for f in files if f not in kept and f.name != written.FILE), last]:
            move(file, self.path / file.relative_to(new.path), replace=new.logs in file.parents)

    @property
    def retrained(self) -> bool:
        """Whether a new training is in place, and its command is not yet done."""
        return self.retraining._mark.is_file()

    @property
    def is_retraining(self) -> bool:
        """Whether a new training has begun and not finished, running or not."""
        return (self.retraining.path / _CONFIG).is_file() and not self._is_replaced

    def end_retraining(self) -> None:
        """Record that the command with retrain=true is done, so that the next one begins another training."""
        folder = self.retraining.path
        check_links(folder)
        inside = (path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink())
        folders = sorted((folder, *inside), reverse=True)
        for each in folders:  # empty folders of moved files; no other training begins while the mark exists
            (each / written.FILE).unlink(missing_ok=True)
        self.retraining._mark.unlink(missing_ok=True)
        for empty in folders:
            with suppress(OSError):  # not empty: another command has begun another training
                empty.rmdir()

    @property
    def _is_replaced(self) -> bool:
        """Whether the files of the new training are valid."""
        return (self.path / _RETRAINING / _TRAINING).is_file()

    def newest(self, name: str) -> Path:
        """The valid file of this name."""
        new = self.path / _RETRAINING / name
        return new if self._is_replaced and new.exists() else self.path / name

    def read_training(self) -> dict[str, Any]:
        """The content written by `finish`; RunError if training has not finished."""
        if not self.finished:
            raise RunError(f"{self.path} holds no finished model: {self.training.name} is missing")
        return read_record(self.path, self.training, TRAINING, "a training")

    def read_choices(self) -> dict[str, str | None]:
        """The option of each group in training. RunError if the file holds anything but names."""
        return read_record(self.path, self.choices, CHOICES, "a training")


class RunDirectory(Directory):
    """One scored cell."""

    config = _In(_CONFIG)  # resolved, as used in scoring
    metrics = _In("metrics.json")  # values, protocol and curves
    samples_png = _In("samples.png")
    interpolation_png = _In("interpolation.png")  # paths from one sample to another through the latents
    reconstructions_png = _In("reconstructions.png")  # test images, each followed by its reconstruction
    conditions_png = _In("conditions.png")  # fields, each followed by its test image and samples for it
    nearest_png = _In("nearest.png")  # samples above the nearest training images

    def write_metrics(self, content: Mapping[str, Any]) -> None:
        write_json(self.metrics, content)

    def read_metrics(self) -> dict[str, Any]:
        return read_json(inside(self.path, self.metrics))


class SweepDirectory(Directory):
    """A sweep: its command, and the report on its cells, which lie in outputs/runs."""

    sweep = _In("sweep.json")  # the axes, and each cell's model and run directory; written before anything starts
    code = _In("code")  # copies of code and configs that its jobs run from
    jobs = _In("jobs")  # the jobs' logs, one folder each
    report = _In("report")  # report.html, the tables and the figures

    def write_sweep(self, content: Mapping[str, Any]) -> None:
        write_json(self.sweep, content)

    def read_sweep(self) -> dict[str, Any]:
        """The content written by `write_sweep`. RunError if it is not valid."""
        content = read_record(self.path, self.sweep, SWEEP, "a sweep")
        axes = {axis: {None, *values} for axis, values in content["axes"].items()}
        for number, cell in enumerate(content["cells"]):
            chosen = cell["choices"]
            if chosen.keys() != axes.keys() or any(chosen[axis] not in axes[axis] for axis in axes):
                wrong = f"cells.{number}.choices are not values of the axes"
                raise RunError(f"{self.sweep} is not what a sweep writes: {wrong}")
        return content


def job_log(folder: Path) -> Path:
    """The log of a job, in its folder in `SweepDirectory.jobs`."""
    return folder / "log.txt"
