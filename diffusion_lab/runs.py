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
import os
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_lab.contents import is_snapshot, is_weights, wrong_in_choices, wrong_in_sweep, wrong_in_training
from diffusion_lab.files import check_guards, remove_staged, write_whole
from diffusion_lab.foreign import RunError, inside, read_json, read_printable_json

__all__ = ["FINGERPRINT_LENGTH", "Directory", "RunError", "newest_model", "newest_sweep", "read_json", "write_json"]
__all__ += ["ModelDirectory", "RunDirectory", "SweepDirectory", "model_directory", "run_directory", "sweep_directory"]
__all__ += ["cache_directory"]

FINGERPRINT_LENGTH = 12  # hex digits in a folder's name


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Readable, strict JSON (ValueError for NaN), whole or not at all; makes the folder."""
    write_whole(path, (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


@dataclass(frozen=True)
class Directory:
    """One folder under outputs/ for something that a tracker may be told of."""

    path: Path

    @property
    def home(self) -> Path:
        """The folder that is held and that says how far the work is; its name is that of the work."""
        return self.path

    @property
    def logs(self) -> Path:
        """Folder of TensorBoard's and W&B's own files."""
        return self.path / "logs"

    @property
    def tracked_as(self) -> Path:
        """The id of its run at W&B."""
        return self.path / "wandb_id"


class ModelDirectory(Directory):
    """One trained model. `training` is written last: where it lies, training has finished.

    A model is trained anew in its folder `retraining`, beside the old one. As soon as that training has finished, each file
    there counts in place of the one here; `put_in_place` moves them, one by one. So at whatever moment a process was killed,
    a reader finds the old model whole or the new one.
    """

    @property
    def retraining(self) -> ModelDirectory:
        """Where this model is trained anew."""
        return _Retraining(self.path / "retraining")

    @property
    def config(self) -> Path:
        """The resolved config it was trained with."""
        return self._newest("config.yaml")

    @property
    def choices(self) -> Path:
        """Which option of each group that config was composed from."""
        return self._newest("choices.json")

    @property
    def resume(self) -> Path:
        """What training goes on from."""
        return self.path / "resume.ckpt"

    @property
    def training(self) -> Path:
        """Steps, seconds and images of the finished training."""
        return self._newest("training.json")

    @property
    def result(self) -> Path:
        """Where `training` lies in the end: it changes when a training anew has been put in place."""
        return self.path / "training.json"

    @property
    def accuracy(self) -> Path:
        """Of a classifier of noisy images, by t: what it has instead of a score."""
        return self.path / "accuracy.json"

    @property
    def metrics_csv(self) -> Path:
        """Losses and rates while training."""
        return self._newest("metrics.csv")

    @property
    def samples(self) -> Path:
        """Folder of the grids drawn while training."""
        return self.path / "samples"

    def weights(self, name: str) -> Path:
        """The weights called `name`: "raw", "ema_0.999", "at_0.2", ..."""
        return self._newest(f"{name}.safetensors")

    @property
    def weight_names(self) -> list[str]:
        """Names of the weights that lie here, sorted."""
        folders = [self.path, *([self.retraining.path] if self._is_replaced else [])]
        files = [file for path in folders for file in path.glob("*.safetensors") if file.is_file()]
        return sorted({file.stem for file in files if is_weights(file.stem)})

    def weight_files(self, moments: Collection[str] = ()) -> dict[str, Path]:
        """File of each of the weights, of earlier moments only `moments`. RunError without the raw ones, which every model has."""
        names = [name for name in self.weight_names if name in moments or not is_snapshot(name)]
        if "raw" not in names:
            raise RunError(f"{self.path} holds no weights: raw.safetensors is missing")
        return {name: inside(self.path, self.weights(name)) for name in names}

    @property
    def snapshots(self) -> list[Path]:
        """The weights of earlier moments of the training in this very folder."""
        return [file for file in self.path.glob("*.safetensors") if is_snapshot(file.stem)]

    @property
    def finished(self) -> bool:
        return self.training.is_file()

    def finish(self, steps: int, seconds: float, images: int, **more: Any) -> None:
        """Mark the training as finished; everything else must have been written."""
        write_json(self.training, {"steps": steps, "seconds": seconds, "images": images, **more})

    def put_in_place(self) -> None:
        """Move a training anew that has finished to where the old one lies. It may be called again after it was killed.

        Only for who holds the folder. Only our own files of the old training are removed.
        """
        new = self.retraining
        remove_staged(new.path)
        if not self._is_replaced:
            return
        first, last = new.path / "choices.json", new.path / "training.json"
        if first.exists():  # nothing has been moved yet: what the new training lacks must go before
            old = ("resume.ckpt", "resume.previous.ckpt", "metrics.csv", "wandb_id", "accuracy.json")
            for file in [*(self.path / name for name in old), *self.snapshots, *self.samples.glob("step_*.png")]:
                file.unlink(missing_ok=True)
        new._mark.touch()
        files = [path for path in sorted(new.path.rglob("*")) if not path.is_dir() or path.is_symlink()]
        for file in [*({first} & {*files}), *(f for f in files if f not in (first, last, new._mark)), last]:
            target = self.path / file.relative_to(new.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            check_guards(target)
            os.replace(file, target)

    @property
    def retrained(self) -> bool:
        """Whether a training anew is in place, and the command that asked for it has more to do."""
        return self.retraining._mark.is_file()

    @property
    def is_retraining(self) -> bool:
        """Whether a training anew has begun and has not finished; somebody may be at it or not."""
        return (self.retraining.path / "config.yaml").is_file() and not self._is_replaced

    def end_retraining(self) -> None:
        """The command that asked for a training anew has done all it had to; the next one that asks begins another."""
        folder = self.retraining.path
        self.retraining._mark.unlink(missing_ok=True)
        for empty in sorted((path for path in [folder, *folder.rglob("*")] if path.is_dir()), reverse=True):
            with suppress(OSError):  # it is not: another command has begun another training
                empty.rmdir()

    @property
    def _mark(self) -> Path:
        return self.path / "in_place"

    @property
    def _is_replaced(self) -> bool:
        """Whether files of the training anew count."""
        return (self.path / "retraining" / "training.json").is_file()

    def _newest(self, name: str) -> Path:
        new = self.path / "retraining" / name
        return new if self._is_replaced and new.exists() else self.path / name

    def read_training(self) -> dict[str, Any]:
        """What `finish` wrote; RunError if training has not finished."""
        if not self.finished:
            raise RunError(f"{self.path} holds no finished model: {self.training.name} is missing")
        path = inside(self.path, self.training)
        return _right(path, read_printable_json(path), wrong_in_training, "a training")

    def read_choices(self) -> dict[str, str | None]:
        """Which option of each group it was trained with. RunError if the file holds anything but names."""
        return _right(inside(self.path, self.choices), read_json(self.choices), wrong_in_choices, "a training")


class _Retraining(ModelDirectory):
    """The folder in a model's own in which it is trained anew."""

    @property
    def home(self) -> Path:
        return self.path.parent


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
        return read_printable_json(inside(self.path, self.metrics))


class SweepDirectory(Directory):
    """Many cells: what was asked, and the report on them. The cells themselves lie in outputs/runs."""

    @property
    def sweep(self) -> Path:
        """The axes, and the model and run directory of each cell; written before anything starts."""
        return self.path / "sweep.json"

    @property
    def code(self) -> Path:
        """Folder of the copies of the code and the configs that its jobs run from."""
        return self.path / "code"

    @property
    def jobs(self) -> Path:
        """Folder of the jobs' logs, one folder each."""
        return self.path / "jobs"

    @property
    def cancelled(self) -> Path:
        """A mark: nothing more of this sweep is to be submitted."""
        return self.path / "cancelled"

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
        """What `write_sweep` wrote. RunError if it is not what a sweep writes."""
        return _right(inside(self.path, self.sweep), read_printable_json(self.sweep), wrong_in_sweep, "a sweep")


def _right(
    path: Path, content: dict[str, Any], wrong_in: Callable[[Mapping[str, Any]], str | None], writer: str
) -> dict[str, Any]:
    """The content of `path`. RunError if it is not what `writer` puts there: the folder may be somebody else's."""
    wrong = wrong_in(content)
    if wrong:
        raise RunError(f"{path} is not what {writer} writes: {wrong}")
    return content


# ---- places ---------------------------------------------------------------------------------------------------------


def model_directory(outputs: Path, data: str, model: str, fingerprint: str) -> ModelDirectory:
    """Where the model with this fingerprint lies or will lie."""
    return ModelDirectory(outputs / "models" / f"{data}-{model}-{fingerprint[:FINGERPRINT_LENGTH]}")


def run_directory(outputs: Path, run_id: str) -> RunDirectory:
    return RunDirectory(outputs / "runs" / run_id)


def sweep_directory(outputs: Path, name: str) -> SweepDirectory:
    return SweepDirectory(outputs / "sweeps" / name)


def named_sweep(outputs: Path, named: str | None) -> SweepDirectory:
    """The sweep in the folder `named`, or of that name under outputs/sweeps; None: the newest. RunError if there is none."""
    if named is None:
        return newest_sweep(outputs)
    for sweep in (SweepDirectory(Path(named)), sweep_directory(outputs, named)):
        if sweep.sweep.is_file():
            return sweep
    known = sorted(path.parent.name for path in sweep.path.parent.glob("*/sweep.json"))
    there = f"there are {', '.join(known)}" if known else f"there is none in {sweep.path.parent}"
    raise RunError(f"sweep={named}: there is no such sweep; {there}")


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
        others = f" ({len(models)} unfinished)" if models else ""
        raise RunError(f"there is no trained model in {outputs / 'models'}{others}; `diffusion-lab train` makes one")
    return max(finished, key=lambda model: model.training.stat().st_mtime_ns)
