"""Multiruns of train: planned, done, done again, with mistakes and failures, and killed."""

import json
import os
import random
import signal
import time
from contextlib import suppress
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
from PIL import Image

from diffusion_lab.commands import sweeping
from diffusion_lab.config import duration, picking, sweeps
from diffusion_lab.config.untrusted import load_config
from diffusion_lab.store import ModelDirectory
from diffusion_lab.store.status_file import FAILED, RUNNING, read_status
from diffusion_lab.sweeps.plan import MODEL, Job, JobError, Work

from .cluster import PACED, models, scored_cells, wait_until
from .conftest import STRIDED, TINY, files, scored

CELLS = ["sampler=ddpm,strided", "sampler.spacing.num_steps=2,3"]


def sweep_of(lab):
    (file,) = (lab.folder / "outputs" / "sweeps").glob("*/sweep.json")
    return json.loads(file.read_text())


def names(lab, kind):
    return {path.name for path in (lab.folder / "outputs" / kind).glob("*")}


def test_a_plan_says_how_long_it_takes(lab, monkeypatch):
    """Each different training and score once, by the measured time of a step; nothing where that is less than a minute."""
    monkeypatch.setattr(duration, "time_step_and_evaluation", lambda model, size, precision: (size / 64, 0.0))
    sweep = ["train", "-m", "seed=1,2", "sampler.spacing.num_steps=10,20", "hydra.sweeper.dry_run=true"]
    assert "about 43 minutes" in lab.done(*sweep), "2 trainings of 1300 steps of 64 images"
    assert "estimated" not in lab.done(*sweep, *TINY, "schedule.num_timesteps=24")


def test_what_is_picked_does_not_depend_on_the_device(lab, monkeypatch):
    """Planned for a GPU and run elsewhere, it trains the model of the plan."""
    (lab.folder / "own").mkdir()
    for i in range(100):
        Image.effect_noise((8, 8), 60 + i).save(lab.folder / "own" / f"{i}.png")
    monkeypatch.setattr(picking, "_MANY", 50)
    own = [
        "data=image_folder",
        "data.root=own",
        "data.image_size=8",
        "data.num_workers=0",
        "metrics=network_evaluations",
    ]
    small = [o for o in TINY if not o.startswith(("data.batch_size", "metrics"))]
    with monkeypatch.context() as patch:
        patch.setattr(sweeps, "_on_gpu", lambda trainer, gpus: True)
        lab.done("train", "-m", *own, *small, *STRIDED, "seed=1")
    assert "already trained" in lab.done("train", *own, *small, *STRIDED)
    (model,) = (ModelDirectory(path) for path in (lab.folder / "outputs" / "models").glob("[!.]*/"))
    assert load_config(model).data.batch_size == 32


def test_a_model_is_trained_once_and_every_cell_scored(lab):
    """The same again does nothing."""
    out = lab.done("train", "-m", *TINY, *CELLS)
    lines = out.splitlines()
    assert lines[:2] == [
        "1 model: 1 to train, 0 reused",
        "3 cells from 4 combinations, some of them equal: 3 to score, 0 scored already",
    ]
    assert sum(line.startswith("cell ") and "fd_pixels" in line and "bits/dim" in line for line in lines) == 3
    assert "(samples.png, metrics.json)" not in out  # the jobs' own output lies in their logs
    assert (lab.folder / lines[-1].split()[-1]).is_file()

    sweep = sweep_of(lab)
    assert sweep["axes"] == {"sampler": ["ddpm", "strided"], "sampler.spacing.num_steps": ["2", "3"]}
    assert {cell["model"] for cell in sweep["cells"]} == names(lab, "models")
    assert {cell["run"] for cell in sweep["cells"]} == names(lab, "runs")
    steps = [int(cell["choices"]["sampler.spacing.num_steps"] or 12) for cell in sweep["cells"]]
    assert sorted(steps) == sorted(run["values"]["nfe"] for run in scored(lab.folder))
    assert {run["protocol"]["samples"]["seed"] for run in scored(lab.folder)} == {1}, "the noise of the training's seed"

    before = {name: (lab.folder / name).read_bytes() for name in files(lab.folder) if "/sweeps/" not in name}
    out = lab.done("train", "-m", *TINY, *reversed(CELLS))
    assert out.splitlines()[0] == "1 model: 0 to train, 1 reused"
    assert ": 0 to score, 3 scored already" in out
    assert {name: (lab.folder / name).read_bytes() for name in files(lab.folder) if "/sweeps/" not in name} == before
    assert len(names(lab, "sweeps")) == 1


@pytest.mark.parametrize(
    ("axes", "num_models"),
    [
        ([*TINY, *STRIDED, "condition=none,clusters", "condition.clusters.num_clusters=3,5"], 3),
        (["trainer.max_steps=1", "network=diffusion/8x8,diffusion/small"], 2),  # a group that holds folders alone
    ],
)
def test_the_plan_can_be_looked_at(lab, axes, num_models):
    out = lab.done("train", "-m", *axes, "hydra.sweeper.dry_run=true")
    assert out.startswith(f"{num_models} models: {num_models} to train, 0 reused\n{num_models} cells")
    assert files(lab.folder) == []


FAILS = """\
from lightning import Callback


class Fails(Callback):
    def __init__(self, seed):
        self.seed = seed

    def on_train_start(self, *_):
        if self.seed == 2:
            raise RuntimeError("a cosmic ray")
"""


@pytest.mark.thorough
def test_a_failed_model_is_marked_and_the_others_go_on(lab):
    (lab.folder / "fails.py").write_text(FAILS)
    options = ["seed=1,2", "sampler.spacing.num_steps=2,3"]
    options += ["+callbacks.fails._target_=fails.Fails", "+callbacks.fails.seed=${seed}"]
    code, out, err = lab("train", "-m", *TINY, *options)
    assert code == 1
    assert "models: 1 done, 1 failed; cells: 2 done, 2 failed" in err
    assert err.count("a cosmic ray") == 1
    assert "Traceback" not in out + err
    states = {(cell["seed"], cell["state"]) for cell in scored_cells(lab.folder)}
    assert states == {("1", "done"), ("2", "failed")}
    logs = [path.read_text() for path in (lab.folder / "outputs" / "sweeps").glob("*/jobs/*/log.txt")]
    assert sum("Traceback" in log for log in logs) == 1

    code, out, err = lab("train", "-m", *TINY, *options)
    assert code == 1
    assert out.splitlines()[:2] == ["2 models: 1 to train, 1 reused", "4 cells: 2 to score, 2 scored already"]


@pytest.mark.thorough
def test_hydras_own_sweepers_still_work(lab):
    options = ["sampler.spacing.num_steps=2,3"]
    out = lab.done("train", "-m", *TINY, *options, "hydra/sweeper=basic")
    assert out.count("metrics.json)") == 2
    assert "already scored" in lab.done("evaluate", "-m", "sampler.spacing.num_steps=3,4", "model_dir=null")
    assert len(names(lab, "runs")) == 3


@pytest.mark.thorough
@pytest.mark.needs("hydra-optuna-sweeper")
@pytest.mark.skipif(find_spec("optuna") is None, reason="pip install 'diffusion-lab[optuna]'")
def test_a_search_is_told_the_metric_it_asks_for(tmp_path, zygote):
    tiny = [option for option in TINY if not option.startswith("network.")]  # the widths of the file
    search = ["hparams_search=diffusion_optuna", "hydra.sweeper.n_trials=2", "objective_metric=bits_per_dim"]
    searching = zygote.start(tmp_path, "train", "-m", *tiny, *STRIDED, *search)
    out, err = searching.communicate()
    assert searching.returncode == 0, err
    assert out.splitlines()[-1].startswith("best trial: ")
    outputs = tmp_path / "outputs"
    (result,) = (outputs / "sweeps").rglob("optimization_results.yaml")
    values = [json.loads(path.read_text())["values"] for path in (outputs / "runs").glob("*/metrics.json")]
    assert len(values) == 2
    assert f"best_value: {min(value['bits_per_dim'] for value in values)}" in result.read_text()


@pytest.mark.needs("hydra-optuna-sweeper")
@pytest.mark.skipif(find_spec("optuna") is None, reason="pip install 'diffusion-lab[optuna]'")
@pytest.mark.filterwarnings("ignore")  # of SQLAlchemy
def test_an_option_of_a_search_is_suggested_with_its_prefix(lab):
    _, _, err = lab("train", "-m", "hydra/sweeper=optuna", "n_trials=2", "optimizer.lr=interval(1e-4,1e-3)")
    assert err.rstrip().endswith("there is no option 'n_trials'; did you mean hydra.sweeper.n_trials?")


def test_a_metric_that_is_not_there_is_named(lab):
    code, _, err = lab("train", *TINY, *STRIDED, "objective_metric=fid")
    assert code == 1
    assert "objective_metric=fid" in err
    assert "bits_per_dim" in err
    lab.refused("train", *TINY, *STRIDED, "objective_metric=fid", "score=false", said="remove score=false")


# ---- kill -9 in the middle of a sweep: the table is that of an undisturbed sweep ----


OPTIONS = [
    *TINY,
    "seed=1,2",
    "trainer.max_steps=24",
    "network.dropout=0.2",
    "callbacks.checkpoint.every_n_steps=4",
    "callbacks.progress._target_=paced.Paced",
    "sampler.spacing.num_steps=2,3",
]


def at_work(folder):
    """Whether a training has a checkpoint and is not over."""
    running = [model for model in models(folder) if (said := read_status(model.path)) and said.state == RUNNING]
    return any(model.resume.is_file() for model in running)


@pytest.mark.thorough
def test_a_sweep_killed_at_random_moments_goes_on(tmp_path, zygote):
    """Between its first checkpoint and its end, which is some eight seconds later. KILLS: how often."""
    folders = whole, torn = tmp_path / "whole", tmp_path / "torn"
    for folder in folders:
        folder.mkdir()
        (folder / "paced.py").write_text(PACED)

    def done(folder):
        running = zygote.start(folder, "train", "-m", *OPTIONS)
        _, err = running.communicate()
        assert running.returncode == 0, err
        return scored_cells(folder)

    (torn / ".seconds_a_step").write_text("0.05")
    moments = random.Random(int(os.environ.get("SEED", "0")))
    for _ in range(int(os.environ.get("KILLS", "3"))):
        running = zygote.start(torn, "train", "-m", *OPTIONS)
        wait_until(lambda: at_work(torn) or list((torn / "outputs" / "runs").glob("*/metrics.json")))
        time.sleep(moments.uniform(0, 3))
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
    assert len(done(whole)) == 4
    assert done(torn) == scored_cells(whole)


def test_a_job_that_died_before_it_began_says_why(tmp_path):
    work = Work(MODEL, tmp_path / "model", tmp_path / "model" / "training.json", (), "seed=1")
    call = SimpleNamespace(job=Job("model", (work,)))
    sweeping._record_failures([call], [JobError("its process ended with exit code -9; its log is output.txt")])
    status = read_status(work.folder)
    assert (status.state, status.reason) == (FAILED, "its process ended with exit code -9; its log is output.txt")
