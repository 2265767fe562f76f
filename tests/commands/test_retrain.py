"""retrain=true trains beside the old model, goes on where it was stopped, and puts the new one in its place at the end."""

import csv
import os
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from diffusion_lab.commands import scoring
from diffusion_lab.models.diffusion import DiffusionModel
from diffusion_lab.store import ModelDirectory

from .conftest import STRIDED, TINY

OPTIONS = [*TINY, *STRIDED, "trainer.max_steps=6", "callbacks.checkpoint.every_n_steps=1"]
UNSCORED = [*OPTIONS, "score=false"]


def models(folder):
    return [ModelDirectory(path) for path in sorted((folder / "outputs" / "models").iterdir())]


def weights(model):
    return {name: load_file(file) for name, file in model.weight_files().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name][key], b[name][key]) for name in a for key in a[name])


def steps(file):
    with file.open() as lines:
        return [int(row["step"]) for row in csv.DictReader(lines)]


@pytest.fixture
def stop_at(monkeypatch):
    """stop_at(step): the next training that comes to this step is stopped there."""
    step, stops = DiffusionModel.training_step, {}

    def stopped(self, batch, batch_idx):
        if self.batches_trained == stops.get("step"):
            stops.clear()
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    monkeypatch.setattr(DiffusionModel, "training_step", stopped)
    return lambda step: stops.update(step=step)


@pytest.mark.thorough
def test_the_old_model_serves_until_the_new_one(lab, stop_at):
    """The old model serves until the new one is there and a stopped training goes on."""
    assert lab("train", *UNSCORED)[0] == 0
    (model,) = models(lab.folder)
    before, old = model.result.read_bytes(), weights(model)
    (model.path / "mine.png").write_bytes(b"mine")
    stop_at(4)
    assert lab("train", *UNSCORED, "retrain=true")[0] != 0
    assert model.result.read_bytes() == before
    assert same(weights(model), old)
    lab.done("sample", "num_images=2", *STRIDED)
    assert "already trained" in lab.done("train", *UNSCORED)
    assert steps(model.metrics_csv) == [1, 2, 3, 4, 5, 6]

    out = lab.done("train", *UNSCORED, "retrain=true")
    assert f"resuming from {model.retraining.resume.relative_to(lab.folder)}" in " ".join(out.split())
    assert model.result.read_bytes() != before
    assert same(weights(model), old), "the same training ends in the same weights"
    assert steps(model.metrics_csv) == [1, 2, 3, 4, 5, 6]
    assert not model.retraining.path.exists()
    assert (model.path / "mine.png").read_bytes() == b"mine"

    before = model.result.read_bytes()
    assert "resuming from" not in lab.done("train", *UNSCORED, "retrain=true")
    assert model.result.read_bytes() != before


@pytest.mark.thorough
def test_a_command_that_is_stopped_while_it_scores(lab, monkeypatch):
    """A command that is stopped while it scores trains anew once."""
    assert lab("train", *OPTIONS)[0] == 0
    (model,) = models(lab.folder)
    with monkeypatch.context() as patch:

        def stop(*_):
            raise KeyboardInterrupt

        patch.setattr(scoring, "_scores", stop)
        assert lab("train", *OPTIONS, "retrain=true")[0] != 0
    before = model.result.read_bytes()
    assert "already trained again" in lab.done("train", *OPTIONS, "retrain=true")
    assert model.result.read_bytes() == before
    assert lab("train", *OPTIONS, "retrain=true")[0] == 0
    assert model.result.read_bytes() != before


@pytest.mark.thorough
def test_a_killed_training_anew_goes_on(tmp_path, zygote):
    """A killed training anew goes on and has the same bits.

    kill -9 in a real process; the finished model is whole meanwhile.
    """
    options = [*UNSCORED, "trainer.max_steps=24", "network.dropout=0.2"]

    def finish(*more):
        process = zygote.start(tmp_path, "train", *options, *more)
        out, err = process.communicate()
        assert process.returncode == 0, err
        return out

    finish()
    (model,) = models(tmp_path)
    before, old = model.result.read_bytes(), weights(model)
    process = zygote.start(tmp_path, "train", *options, "retrain=true")
    log = model.retraining.metrics_csv
    while process.poll() is None and not (log.is_file() and len(log.read_text().splitlines()) > 8):
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert model.result.read_bytes() == before
    assert "resuming from" in finish("retrain=true")
    assert model.result.read_bytes() != before
    assert same(weights(model), old)
    assert steps(model.metrics_csv) == list(range(1, 25))


@pytest.mark.thorough
def test_status_says_that_a_training_anew_has_failed(lab, stop_at):
    """Though the model from before is there."""
    options = [*UNSCORED, "seed=1"]
    lab.given("train", "-m", *options)
    stop_at(4)
    assert lab("train", *options, "retrain=true")[0] != 0
    out = lab.done("status", "watch=false")
    (line,) = [line for line in out.splitlines() if line.startswith("model ")]
    assert "done" not in line
    assert "training again: " in " ".join(out.split())
    lab.done("train", *options, "retrain=true")
    assert "models: 1 done" in lab("status", "watch=false")[1]
