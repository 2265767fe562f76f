"""One trained model: outputs/models/<data>-<model>-<fingerprint>/."""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from diffusion_lab.store import written
from diffusion_lab.store.contents import is_kept_average, is_snapshot, is_weights, wrong_in_choices, wrong_in_training
from diffusion_lab.store.directory import Directory, validated, write_json
from diffusion_lab.store.files import check_links, clear, move, remove_staged
from diffusion_lab.store.foreign import RunError, inside, read_json, read_printable_json
from diffusion_lab.store.status import FILE as STATUS

_CONFIG, _CHOICES, _TRAINING, _CSV = "config.yaml", "choices.json", "training.json", "metrics.csv"
_RETRAINING = "retraining"
_BRANCH = re.compile(r"branch_(\d+)\.ckpt")


def previous_of(checkpoint: Path) -> Path:
    """resume.ckpt -> resume.previous.ckpt."""
    return checkpoint.with_name(f"{checkpoint.stem}.previous{checkpoint.suffix}")


def grid_file(folder: Path, step: int) -> Path:
    """The grid of a step in the folder of grids."""
    return folder / f"step_{step:07d}.png"


class ModelDirectory(Directory):
    """One trained model. `training` is written last: where it lies, training has finished.

    A model is trained again in its folder `retraining`, beside the old one. As soon as that training has finished, each file
    there counts in place of the one here; `put_in_place` moves them, one by one. So at whatever moment a process was killed,
    a reader finds the old model whole or the new one.
    """

    @property
    def retraining(self) -> ModelDirectory:
        """Where this model is trained again."""
        return _Retraining(self.path / _RETRAINING)

    @property
    def config(self) -> Path:
        """The resolved config it was trained with."""
        return self._newest(_CONFIG)

    @property
    def choices(self) -> Path:
        """Which option of each group that config was composed from."""
        return self._newest(_CHOICES)

    @property
    def resume(self) -> Path:
        """The checkpoint that training resumes from."""
        return self.path / "resume.ckpt"

    @property
    def previous_resume(self) -> Path:
        """The checkpoint before `resume`."""
        return previous_of(self.resume)

    def branch(self, step: int) -> Path:
        """The checkpoint of this step, from which a training of another length continues."""
        return self.path / f"branch_{step}.ckpt"

    @property
    def branches(self) -> dict[int, Path]:
        """Step -> file, of the branches in this very folder; the first step first."""
        found = [(named, file) for file in self.path.glob("branch_*.ckpt") if (named := _BRANCH.fullmatch(file.name))]
        return dict(sorted((int(named[1]), file) for named, file in found))

    @property
    def training(self) -> Path:
        """Steps, seconds and images of the finished training."""
        return self._newest(_TRAINING)

    @property
    def result(self) -> Path:
        """Where `training` lies in the end: it changes when a new training has been put in place."""
        return self.path / _TRAINING

    @property
    def accuracy(self) -> Path:
        """Of a classifier of noisy images, by t: what it has instead of a score."""
        return self.path / "accuracy.json"

    @property
    def metrics_csv(self) -> Path:
        """Losses and rates while training."""
        return self._newest(_CSV)

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
    def kept_averages(self) -> list[Path]:
        """Files of averages that others are built from, in this very folder, sorted."""
        return sorted(file for file in self.path.glob("*.safetensors") if is_kept_average(file.stem))

    @property
    def grids(self) -> list[Path]:
        """The grids that were drawn while training in this very folder."""
        return list(self.samples.glob("step_*.png"))

    @property
    def finished(self) -> bool:
        return self.training.is_file()

    @property
    def begun(self) -> bool:
        """Whether a training has left anything that another may go on from."""
        return self.config.is_file() or self.resume.is_file() or bool(self.weight_names)

    def finish(self, steps: int | None, seconds: float | None, images: int | None, **more: Any) -> None:
        """Mark the training as finished; everything else must have been written. None: nobody recorded it."""
        write_json(self.training, {"steps": steps, "seconds": seconds, "images": images, **more})

    def put_in_place(self) -> None:
        """Move a new training that has finished to the place of the old one. It may be called again after it was killed.

        Only the process that holds the folder may call it. Our files of the old training are removed; the user's stay.
        """
        new = self.retraining
        remove_staged(new.path)
        if not self._is_replaced:
            return
        first, last = new.path / _CHOICES, new.path / _TRAINING
        if first.exists():  # nothing has been moved yet: what the new training lacks must go before
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
        """Whether a new training is in place, and its command has more to do."""
        return self.retraining._mark.is_file()

    @property
    def is_retraining(self) -> bool:
        """Whether a new training has begun and has not finished; it may be running or not."""
        return (self.retraining.path / _CONFIG).is_file() and not self._is_replaced

    def end_retraining(self) -> None:
        """The command with retrain=true is done; the next one begins another training."""
        folder = self.retraining.path
        check_links(folder)
        inside = (path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink())
        folders = sorted((folder, *inside), reverse=True)
        for each in folders:  # of files that have been moved; no other training begins while the mark is there
            (each / written.FILE).unlink(missing_ok=True)
        self.retraining._mark.unlink(missing_ok=True)
        for empty in folders:
            with suppress(OSError):  # it is not: another command has begun another training
                empty.rmdir()

    @property
    def _mark(self) -> Path:
        return self.path / "in_place"

    @property
    def _is_replaced(self) -> bool:
        """Whether files of the new training count."""
        return (self.path / _RETRAINING / _TRAINING).is_file()

    def _newest(self, name: str) -> Path:
        new = self.path / _RETRAINING / name
        return new if self._is_replaced and new.exists() else self.path / name

    def read_training(self) -> dict[str, Any]:
        """What `finish` wrote; RunError if training has not finished."""
        if not self.finished:
            raise RunError(f"{self.path} holds no finished model: {self.training.name} is missing")
        path = inside(self.path, self.training)
        return validated(path, read_printable_json(path), wrong_in_training, "a training")

    @property
    def serves(self) -> str | None:
        """Of a head that has been trained on another model: the digest of the weights that it serves."""
        with suppress(RunError):
            return self.read_training().get("serves")
        return None

    def read_choices(self) -> dict[str, str | None]:
        """Which option of each group it was trained with. RunError if the file holds anything but names."""
        return validated(inside(self.path, self.choices), read_json(self.choices), wrong_in_choices, "a training")


class _Retraining(ModelDirectory):
    """The folder inside a model's folder in which it is trained again."""

    @property
    def home(self) -> Path:
        return self.path.parent
