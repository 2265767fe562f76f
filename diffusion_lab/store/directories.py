"""The folders under outputs/ and the files in them: one trained model, one scored cell, one sweep."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from diffusion_lab.store.records import (
    ChoicesRecord,
    RunError,
    SweepRecord,
    TrainingRecord,
    inside,
    read_json,
    read_record,
    write_json,
)
from diffusion_lab.store.status_file import FILE as STATUS
from diffusion_lab.store.weight_names import is_kept_average, is_snapshot, is_weights

_CONFIG, AGAIN, _TRASH = "config.yaml", ".again-", "trash"


@dataclass(frozen=True)
class _In:
    """The path of a file or folder in a directory, as an attribute."""

    name: str

    def __get__(self, directory: Directory, kind: object = None) -> Path:
        return directory.path / self.name


@dataclass(frozen=True)
class Directory:
    """A folder under outputs/ that a tracker may log."""

    path: Path
    logs = _In("logs")  # TensorBoard's and W&B's own files
    tracked_as = _In("wandb_id")  # the id of its run at W&B

    @property
    def home(self) -> Path:
        """The folder that is locked during work here; its name identifies the work."""
        return self.path

    @property
    def outputs(self) -> Path:
        """The outputs/ folder that contains it."""
        return self.path.parent.parent


def previous_of(checkpoint: Path) -> Path:
    """resume.ckpt -> resume.previous.ckpt."""
    return checkpoint.with_name(f"{checkpoint.stem}.previous{checkpoint.suffix}")


def grid_file(folder: Path, step: int) -> Path:
    """The grid of a step, in the folder of grids."""
    return folder / f"step_{step:07d}.png"


class ModelDirectory(Directory):
    """One trained model. `training` is written last: if it exists, training has finished.

    A model is trained again in the folder `beside` it, which takes its place when that training has finished (`swap`).
    """

    config = _In(_CONFIG)  # resolved, as used in training
    choices = _In("choices.json")  # the option of each group that config was composed from
    training = _In("training.json")  # steps, seconds and images of the finished training
    metrics_csv = _In("metrics.csv")  # losses and rates while training
    resume = _In("resume.ckpt")  # the checkpoint for resuming
    accuracy = _In("accuracy.json")  # of a noisy classifier by t, in place of a score
    samples = _In("samples")  # grids drawn during training

    @property
    def home(self) -> Path:
        """The folder that commands read, locked during training: this one, or the one beside which a model is trained again."""
        return self.path.with_name(self.path.name.removeprefix(AGAIN))

    @property
    def beside(self) -> ModelDirectory:
        """The folder in which this model is trained again."""
        return ModelDirectory(self.path.with_name(f"{AGAIN}{self.path.name}"))

    def swap(self) -> None:
        """Replace the old training by the new, finished one; the old one goes to the trash.

        Only the process that holds the folder may call it; the next process completes a swap that was killed.
        """
        if not self.beside.finished:
            return
        if self.path.exists():
            with suppress(FileNotFoundError):
                os.replace(self.path / STATUS, self.beside.path / STATUS)  # how this training ended
            to_trash(self.outputs, self.path)
        self.beside.path.rename(self.path)

    def weights(self, name: str) -> Path:
        """The weights called `name`: "raw", "ema_0.999", "at_0.2", ..."""
        return self.path / f"{name}.safetensors"

    @property
    def weight_names(self) -> list[str]:
        """Names of the saved weights, sorted."""
        return sorted(f.stem for f in self.path.glob("*.safetensors") if f.is_file() and is_weights(f.stem))

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
        """Whether the model has been trained and draws samples; False for a classifier."""
        return self.finished and not self.accuracy.is_file()

    def make_newest(self) -> None:
        """Make this the default model of commands that name none, as after its training."""
        with suppress(OSError):  # the folder may be read-only
            os.utime(self.training, follow_symlinks=False)

    def finish(self, steps: int | None, seconds: float | None, images: int | None, **more: Any) -> None:
        """Mark training as finished, after everything else has been written. None: not recorded."""
        write_json(self.training, {"steps": steps, "seconds": seconds, "images": images, **more})

    def read_training(self) -> dict[str, Any]:
        """The content written by `finish`; RunError if training has not finished."""
        if not self.finished:
            raise RunError(f"{self.path} holds no finished model: {self.training.name} is missing")
        return read_record(self.training, TrainingRecord)

    def read_choices(self) -> dict[str, str | None]:
        """The option of each group in training. RunError if the file holds anything but names."""
        return read_record(self.choices, ChoicesRecord)


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
    jobs = _In("jobs")  # the jobs' logs, one folder each
    code = _In("code")  # copies of code that jobs of a cluster run from
    slurm = _In("slurm")  # submitit's scripts, calls and logs
    submitted = _In("slurm/jobs.json")  # model -> the job that was last submitted for it
    report = _In("report")  # report.html, the tables and the figures

    def write_sweep(self, content: Mapping[str, Any]) -> None:
        write_json(self.sweep, content)

    def read_sweep(self) -> dict[str, Any]:
        """The content written by `write_sweep`. RunError if it is not valid."""
        return read_record(self.sweep, SweepRecord)


def to_trash(outputs: Path, path: Path) -> Path:
    """Move a file or a folder of outputs/ to outputs/trash, below the same folders and under a free name; returns its new path."""
    place = trash(outputs) / path.relative_to(outputs)
    place.parent.mkdir(parents=True, exist_ok=True)
    names = (place if not number else place.with_name(f"{place.name}.{number}") for number in count())
    free = next(name for name in names if not os.path.lexists(name))
    os.rename(path, free)
    return free


def trash(outputs: Path) -> Path:
    """The folder of files that may be deleted."""
    return outputs / _TRASH


def job_log(folder: Path) -> Path:
    """The log of a job, in its folder in `SweepDirectory.jobs`."""
    return folder / "log.txt"
