"""What a cluster does with our jobs, on a real Slurm: .ci/slurm starts one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_lab.store import ModelDirectory

from .cluster import SLURM, assert_same_training, jobs, log, models, only_model, rows, wait_until
from .conftest import ROUNDS_LITTLE, STRIDED, TINY, scored
from .test_families import COMMON, SMALL

ALONE = ["hydra/sweeper=basic", "score=false"]
ON_EVERY_STEP = ["trainer.log_every_n_steps=1"]

pytestmark = [pytest.mark.thorough, pytest.mark.needs("slurm-wlm, munge"), pytest.mark.usefixtures("cluster")]


def start(folder: Path, *options: str) -> subprocess.Popen:
    command = Path(sys.executable).parent / "diffusion-lab"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([command, "train", *options], cwd=folder, env=environment, start_new_session=True)


def test_a_sweep_of_two_families_and_the_same_again(process):
    command = ["train", *SLURM, "model=diffusion,vae", *SMALL["diffusion"], *COMMON]
    done = process(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    scores = scored(process.folder)
    assert sorted(score["protocol"]["model"]["family"] for score in scores) == ["diffusion", "vae"]
    again = process(*command)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "0 to train" in again.stdout
    assert "0 to score" in again.stdout


def test_two_tasks_train_what_one_does_and_score_it(process, lab):
    options = [
        *TINY,
        *ON_EVERY_STEP,
        *ROUNDS_LITTLE,
        "trainer.max_steps=4",
        "network.dropout=0.0",
    ]
    done = process("train", *SLURM, *options, "trainer=ddp", "sampler.spacing.num_steps=2,3")
    assert done.returncode == 0, done.stdout + done.stderr
    two = rows(only_model(process.folder))
    assert len(list((process.folder / "outputs" / "jobs").glob("*_outcome.json"))) == 2
    assert len(list((process.folder / "outputs" / "runs").glob("*/metrics.json"))) == 2
    lab.done("train", *options, *STRIDED, "outputs=one", "score=false")
    (path,) = (lab.folder / "one" / "models").iterdir()
    one = rows(ModelDirectory(path))
    for column in ("loss", "mse", "vlb", "grad_norm"):
        losses = [[float(row[f"train/{column}"]) for row in table] for table in (one, two)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4), column


def test_a_preempted_job_outlives_its_command(tmp_path, lab, process):
    options = [*TINY, *STRIDED, *ON_EVERY_STEP, *ALONE, "trainer.max_steps=300"]
    first = start(tmp_path, *SLURM, *options)
    try:
        wait_until(lambda: any(len(rows(model)) >= 5 for model in models(tmp_path)))
        (job,) = jobs(tmp_path)
        subprocess.run(["scancel", "--signal=USR2", job], check=True)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    directory = only_model(tmp_path)
    wait_until(lambda: "Requeued job" in log(tmp_path, job))
    assert not directory.finished

    again = process("train", *SLURM, *options)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"job {job} is already running" in again.stdout
    assert directory.finished
    assert f"resuming from {directory.resume.relative_to(tmp_path)}" in log(tmp_path, job)

    lab.done("train", *[option for option in options if "sweeper" not in option], "outputs=undisturbed")
    (path,) = (lab.folder / "undisturbed" / "models").iterdir()
    assert_same_training(directory, ModelDirectory(path))


def test_slurm_takes_the_script_of_a_dry_run(lab, tmp_path):
    site = [
        "hydra.launcher.partition=pair",
        "hydra.launcher.nodes=2",
        "hydra.launcher.mem=1GB",
        "hydra.launcher.setup=[ulimit -c 0]",
        "seed=1,2",
    ]
    out = lab.done("train", *SLURM, "hydra.launcher.dry_run=true", *TINY, *STRIDED, *site)
    (tmp_path / "script.sh").write_text(out[out.index("#!/bin/bash") :])
    asked = subprocess.run(["sbatch", "--test-only", "script.sh"], cwd=tmp_path, capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr
    assert "using 2 processors" in asked.stderr
    assert "in partition pair" in asked.stderr
