"""What lies in outputs/. The only file that knows; imports no torch.

    outputs/models/<data>-<model>-<fingerprint>/   one trained model   (ModelDirectory)
    outputs/runs/<id>/                             one scored cell     (RunDirectory)
    outputs/sweeps/<name>/                         many of them        (SweepDirectory)
    outputs/cache/                                 reference statistics; samples/: samples of scores

The fingerprint is `fingerprints.fingerprint`'s: the same command finds its model again.
Nothing here makes a folder until something is written into it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_lab.files import write_whole

FINGERPRINT_LENGTH = 12  # hex digits in a folder's name


class RunError(RuntimeError):
    """Something under outputs/ is missing or broken; the message is one sentence that names it."""


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Readable, strict JSON (ValueError for NaN), whole or not at all; makes the folder."""
    write_whole(path, (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Raises RunError if the file is missing or is not a JSON object."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise RunError(f"there is no {path}") from None
    except ValueError as error:  # also what is not UTF-8
        raise RunError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} does not hold a JSON object")
    return content


@dataclass(frozen=True)
class Directory:
    """One folder under outputs/ for something that a tracker may be told of."""

    path: Path

    @property
    def logs(self) -> Path:
        """Folder of TensorBoard's and W&B's own files."""
        return self.path / "logs"

    @property
    def tracked_as(self) -> Path:
        """The id of its run at W&B."""
        return self.path / "wandb_id"


class ModelDirectory(Directory):
    """One trained model. `training` is written last: where it lies, training has finished."""

    @property
    def config(self) -> Path:
        """The resolved config it was trained with."""
        return self.path / "config.yaml"

    @property
    def choices(self) -> Path:
        """Which option of each group that config was composed from."""
        return self.path / "choices.json"

    @property
    def resume(self) -> Path:
        """What training goes on from."""
        return self.path / "resume.ckpt"

    @property
    def training(self) -> Path:
        """Steps, seconds and images of the finished training."""
        return self.path / "training.json"

    @property
    def accuracy(self) -> Path:
        """Of a classifier of noisy images, by t: what it has instead of a score."""
        return self.path / "accuracy.json"

    @property
    def metrics_csv(self) -> Path:
        """Losses and rates while training."""
        return self.path / "metrics.csv"

    @property
    def samples(self) -> Path:
        """Folder of the grids drawn while training."""
        return self.path / "samples"

    def weights(self, name: str) -> Path:
        """The weights called `name`: "raw", "ema_0.999", ..."""
        return self.path / f"{name}.safetensors"

    @property
    def weight_names(self) -> list[str]:
        """Names of the weights that lie here, sorted."""
        return sorted(file.name.removesuffix(".safetensors") for file in self.path.glob("*.safetensors"))

    def weight_files(self) -> dict[str, Path]:
        """File of each of the weights. RunError if the raw ones, which every model has, are missing."""
        if "raw" not in self.weight_names:
            raise RunError(f"{self.path} holds no weights: raw.safetensors is missing")
        return {name: self.weights(name) for name in self.weight_names}

    @property
    def finished(self) -> bool:
        return self.training.is_file()

    def finish(self, steps: int, seconds: float, images: int, **more: Any) -> None:
        """Mark the training as finished; everything else must have been written."""
        write_json(self.training, {"steps": steps, "seconds": seconds, "images": images, **more})

    def clear(self) -> None:
        """Forget the training, the marker first, so that what is left is never taken for a finished model."""
        self.training.unlink(missing_ok=True)
        self.metrics_csv.unlink(missing_ok=True)
        self.tracked_as.unlink(missing_ok=True)
        self.accuracy.unlink(missing_ok=True)
        for pattern in ("*.ckpt", "*.safetensors", f"{self.samples.name}/*.png"):
            for file in self.path.glob(pattern):
                file.unlink()

    def read_training(self) -> dict[str, Any]:
        """What `finish` wrote; RunError if training has not finished."""
        if not self.finished:
            raise RunError(f"{self.path} holds no finished model: {self.training.name} is missing")
        return read_json(self.training)


class RunDirectory(Directory):
    """One scored cell."""

    @property
    def metrics(self) -> Path:
        """Values, protocol and curves."""
        return self.path / "metrics.json"

    @property
    def samples_png(self) -> Path:
        return self.path / "samples.png"

    @property
    def interpolation_png(self) -> Path:
        """Ways from one sample to another through the latents."""
        return self.path / "interpolation.png"

    @property
    def reconstructions_png(self) -> Path:
        """Test images, each followed by what the model makes of its latent."""
        return self.path / "reconstructions.png"

    @property
    def config(self) -> Path:
        """The resolved config it was sampled and scored with."""
        return self.path / "config.yaml"

    def write_metrics(self, content: Mapping[str, Any]) -> None:
        write_json(self.metrics, content)

    def read_metrics(self) -> dict[str, Any]:
        return read_json(self.metrics)


class SweepDirectory(Directory):
    """Many cells: what was asked, and the report on them. The cells themselves lie in outputs/runs."""

    @property
    def sweep(self) -> Path:
        """The axes, and the model and run directory of each cell; written before anything starts."""
        return self.path / "sweep.json"

    @property
    def report(self) -> Path:
        """Folder of report.html, the tables and the figures."""
        return self.path / "report"

    @property
    def outputs(self) -> Path:
        """The outputs/ that this sweep, its models and its runs lie in."""
        return self.path.parent.parent

    def write_sweep(self, content: Mapping[str, Any]) -> None:
        write_json(self.sweep, content)

    def read_sweep(self) -> dict[str, Any]:
        return read_json(self.sweep)


# ---- places ---------------------------------------------------------------------------------------------------------


def model_directory(outputs: Path, data: str, model: str, fingerprint: str) -> ModelDirectory:
    """Where the model with this fingerprint lies or will lie."""
    return ModelDirectory(outputs / "models" / f"{data}-{model}-{fingerprint[:FINGERPRINT_LENGTH]}")


def run_directory(outputs: Path, run_id: str) -> RunDirectory:
    return RunDirectory(outputs / "runs" / run_id)


def sweep_directory(outputs: Path, name: str) -> SweepDirectory:
    return SweepDirectory(outputs / "sweeps" / name)


def newest_sweep(outputs: Path) -> SweepDirectory:
    """The sweep that was started last. RunError if there is none."""
    sweeps = [SweepDirectory(path.parent) for path in (outputs / "sweeps").glob("*/sweep.json")]
    if not sweeps:
        raise RunError(f"there is no sweep in {outputs / 'sweeps'}; `diffusion-lab train -m …` makes one")
    return max(sweeps, key=lambda sweep: sweep.sweep.stat().st_mtime_ns)


def cache_directory(outputs: Path) -> Path:
    return outputs / "cache"


def newest_model(outputs: Path) -> ModelDirectory:
    """The model whose training finished last. RunError if none has."""
    models = [ModelDirectory(path) for path in sorted((outputs / "models").glob("*")) if path.is_dir()]
    finished = [model for model in models if model.finished]
    if not finished:
        unfinished = f" ({len(models)} unfinished)" if models else ""
        raise RunError(
            f"there is no trained model in {outputs / 'models'}{unfinished}; `diffusion-lab train` makes one"
        )
    return max(finished, key=lambda model: model.training.stat().st_mtime_ns)
