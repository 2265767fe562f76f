"""Real sweeps in processes of their own that want the same models at the same time, and one of them killed."""

import csv
import json
import os
import signal
import time

import pytest

from diffusion_lab.status import RUNNING, written_status

from .conftest import TINY

STEPS = 100
OPTIONS = [*TINY, f"trainer.max_steps={STEPS}", "callbacks.checkpoint.every_n_steps=5", "sampler.spacing.num_steps=2"]


@pytest.fixture
def sweep(tmp_path, zygote):
    """sweep("option=value", …) -> a running `diffusion-lab train -m` in a folder of its own, whose outputs all share."""
    started = []

    def start(*options):
        folder = tmp_path / f"sweep_{len(started)}"
        folder.mkdir()
        shared = f"outputs={tmp_path / 'outputs'}"
        started.append(zygote.start(folder, "train", "-m", *OPTIONS, *options, shared))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.communicate()


def models(folder):
    return sorted((folder / "outputs" / "models").glob("digits-*"))


def wait_for(condition, what, seconds=200):
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"never seen: {what}")


def at_work(folder, pid=None):
    """The process that trains a model of which a checkpoint lies there, so that killing it loses less than all."""
    for model in models(folder):
        status = written_status(model)
        if status and status.state == RUNNING and pid in (None, status.pid) and (model / "resume.ckpt").is_file():
            return status.pid
    return None


def logs(folder, pattern):
    return [path.read_text() for path in (folder / "outputs" / "sweeps").glob(f"*/jobs/{pattern}/log.txt")]


@pytest.mark.thorough
def test_two_sweeps_train_each_model_once_and_one_takes_over_when_the_other_is_killed(tmp_path, sweep):
    first, second = sweep("seed=1,2"), sweep("seed=2,1")
    wait_for(lambda: at_work(tmp_path, first.pid) and at_work(tmp_path, second.pid), "both sweeps at work")
    first.send_signal(signal.SIGKILL)
    first.communicate()
    _, err = second.communicate()
    assert second.returncode == 0, err

    assert len(models(tmp_path)) == 2
    for model in models(tmp_path):
        assert json.loads((model / "training.json").read_text())["steps"] == STEPS
        with (model / "metrics.csv").open() as file:
            assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(1, STEPS + 1))
    trained = "".join(logs(tmp_path, "train-*"))
    assert trained.count("training images") == 3  # two models, and the one that was killed once more
    assert trained.count("resuming from") == 1
    assert len(list((tmp_path / "outputs" / "runs").glob("*/metrics.json"))) == 2

    third = sweep("seed=1,2")
    out, err = third.communicate()
    assert third.returncode == 0, err
    assert "2 models: 0 to train, 2 reused" in out


@pytest.mark.thorough
def test_a_killed_worker_costs_the_sweep_nothing_else(tmp_path, sweep):
    running = sweep("seed=1,2,3", "hydra/launcher=local", "hydra.launcher.parallel=2")
    os.kill(wait_for(lambda: at_work(tmp_path), "a worker at work"), signal.SIGKILL)
    running.communicate()
    again = sweep("seed=1,2,3")
    _, err = again.communicate()
    assert again.returncode == 0, err
    assert len(models(tmp_path)) == 3
    assert all((model / "training.json").is_file() for model in models(tmp_path))
