"""Trainings and sweeps watched from outside, as tests do: what they ask of Slurm and of the files."""

from __future__ import annotations

import csv
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from diffusion_lab.store import ModelDirectory, SweepDirectory
from diffusion_lab.store.status_file import Status, read_status
from diffusion_lab.sweeps.slurm import submitted

SLURM = ["-m", "hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem=null"]
OF_THE_MACHINE = ("seconds", "memory")  # in the names of measures that no two runs share
# A training that takes its time as long as a file says how much, because a signal must find it at work.
PACED = """\
import time
from pathlib import Path

from lightning import Callback


class Paced(Callback):
    def on_train_batch_end(self, *_):
        if Path(".seconds_a_step").exists():
            time.sleep(float(Path(".seconds_a_step").read_text()))
"""

STOP = """\
import os, signal
from pathlib import Path
from lightning import Callback

class StopOnce(Callback):
    '''SIGTERM after a step, if the file `.stop` holds its number.'''

    def on_train_batch_end(self, trainer, *_):
        stop = Path(".stop")
        if stop.is_file() and trainer.global_step == int(stop.read_text()):
            stop.unlink()
            os.kill(os.getpid(), signal.SIGTERM)
"""


def slurm_answers() -> bool:
    try:
        return bool(subprocess.run(["sinfo", "--noheader"], capture_output=True, timeout=20, check=True).stdout)
    except (OSError, subprocess.SubprocessError):
        return False


def in_queue() -> dict[str, str]:
    """Job -> state."""
    shown = subprocess.check_output(["squeue", "--me", "--array", "--noheader", "--format=%i %T"], text=True)
    return dict(line.split() for line in shown.splitlines())


def wait_until(true: Callable[[], object], seconds: float = 120.0, pause: float = 0.05) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(pause)


def models(folder: Path) -> list[ModelDirectory]:
    return [ModelDirectory(path) for path in sorted((folder / "outputs" / "models").glob("[!.]*/"))]


def only_model(folder: Path) -> ModelDirectory:
    (model,) = models(folder)
    return model


def status(model: ModelDirectory) -> Status:
    found = read_status(model.path)
    assert found is not None, f"nothing is said in {model.path}"
    return found


def jobs(folder: Path) -> dict[str, str]:
    """Model -> name of the job that was last submitted for it, in the only sweep of `folder`."""
    (sweep,) = (folder / "outputs" / "sweeps").glob("[!.]*/")
    return submitted(SweepDirectory(sweep))


def log(folder: Path, job: str) -> str:
    """What a job printed; nothing if it never began."""
    (file,) = (folder / "outputs" / "sweeps").glob(f"*/slurm/{job}_0_log.out")
    return file.read_text()


def rows(model: ModelDirectory) -> list[dict[str, str]]:
    """What was logged, but the speed."""
    if not model.metrics_csv.is_file():
        return []
    with model.metrics_csv.open() as file:
        return [{k: v for k, v in row.items() if "second" not in k} for row in csv.DictReader(file)]


def scored_cells(folder: Path) -> list[dict[str, str]]:
    """The report's lines of cells, in full precision but for what the machine was busy with."""
    (file,) = (folder / "outputs" / "sweeps").glob("*/report/cells.csv")
    with file.open() as lines:
        return [
            {key: value for key, value in line.items() if not any(part in key for part in OF_THE_MACHINE)}
            for line in csv.DictReader(lines)
        ]


def assert_same_weights(one: ModelDirectory, other: ModelDirectory) -> None:
    """Bit for bit."""
    assert one.weight_names == other.weight_names
    for name in one.weight_names:
        a, b = (load_file(model.weights(name)) for model in (one, other))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), name


def assert_same_training(one: ModelDirectory, other: ModelDirectory) -> None:
    """The same model, step by step: no step lost, none repeated, the same bits in the end."""
    assert one.path.name == other.path.name
    assert rows(one) == rows(other)
    counted = [{key: model.read_training()[key] for key in ("steps", "images")} for model in (one, other)]
    assert counted[0] == counted[1]
    assert_same_weights(one, other)
