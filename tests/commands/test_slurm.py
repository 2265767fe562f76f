"""What a cluster does with our jobs, on a real Slurm: .ci/slurm starts one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffusion_lab.runs import ModelDirectory
from diffusion_lab.status import read_status

from .conftest import STRIDED, TINY

ALONE = ["hydra/sweeper=basic", "score=false"]
ON_EVERY_STEP = ["trainer.log_every_n_steps=1"]

pytestmark = [pytest.mark.needs("slurm-wlm, munge"), pytest.mark.usefixtures("cluster")]


def start(folder: Path, *options: str) -> subprocess.Popen:
    command = Path(sys.executable).parent / "diffusion-lab"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([command, "train", *options], cwd=folder, env=environment, start_new_session=True)


def test_a_sweep_goes_through_sbatch_and_a_failing_cell_fails_alone(process):
    done = process("train", *SLURM, *TINY, *STRIDED, "trainer.precision=32-true,nonsense")
    assert done.returncode == 1
    assert "1 of 2 cells failed" in done.stderr
    assert "nonsense" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(list((process.folder / "outputs" / "runs").glob("*/metrics.json"))) == 1
    states = sorted(read_status(path).state for path in (process.folder / "outputs" / "models").iterdir())
    assert states == ["done", "failed"]


def test_two_tasks_train_what_one_does(process, lab):
    options = [*TINY, *STRIDED, *ON_EVERY_STEP, "trainer.max_steps=4", "network.dropout=0.0", "score=false"]
    done = process("train", *SLURM, *options, "trainer=ddp", "hydra/sweeper=basic")
    assert done.returncode == 0, done.stdout + done.stderr
    two = rows(only_model(process.folder))
    assert len(list((process.folder / "outputs" / "jobs").glob("*_outcome.json"))) == 2
    code, _, err = lab("train", *options, "outputs=one")
    assert code == 0, err
    (path,) = (lab.folder / "one" / "models").iterdir()
    one = rows(ModelDirectory(path))
    for column in ("loss", "mse", "vlb", "grad_norm"):
        losses = [[float(row[f"train/{column}"]) for row in table] for table in (one, two)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4), column


def test_a_preempted_job_is_requeued_and_ends_as_if_nothing_had_been_and_the_command_may_die(tmp_path, lab, process):
    options = [*TINY, *STRIDED, *ON_EVERY_STEP, *ALONE, "trainer.max_steps=300"]
    first = start(tmp_path, *SLURM, *options)
    try:
        models = tmp_path / "outputs" / "models"
        wait_until(lambda: any(len(path.read_text().splitlines()) > 5 for path in models.glob("*/metrics.csv")))
        (job,) = subprocess.check_output(["squeue", "--noheader", "--format=%i"], text=True).split()
        subprocess.run(["scancel", "--signal=USR2", job], check=True)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    directory = only_model(tmp_path)
    log = tmp_path / "outputs" / "jobs" / f"{job}_0_log.out"
    wait_until(lambda: "Requeued job" in log.read_text())
    assert not directory.finished

    again = process("train", *SLURM, *options)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"job {job} runs already" in again.stdout
    assert directory.finished
    assert f"going on from {directory.resume.relative_to(tmp_path)}" in log.read_text()

    code, _, err = lab("train", *[option for option in options if "sweeper" not in option], "outputs=undisturbed")
    assert code == 0, err
    (path,) = (lab.folder / "undisturbed" / "models").iterdir()
    undisturbed = ModelDirectory(path)
    assert path.name == directory.path.name
    assert [row["train/loss"] for row in rows(directory)] == [row["train/loss"] for row in rows(undisturbed)]
    for name in undisturbed.weight_names:
        expected, got = load_file(undisturbed.weights(name)), load_file(directory.weights(name))
        assert all(torch.equal(expected[key], got[key]) for key in expected), name
