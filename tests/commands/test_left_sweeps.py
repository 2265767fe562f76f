"""Sweeps that are left, looked at, stopped and taken up again: on a real Slurm, and on this machine."""

import subprocess

import pytest

from diffusion_lab.store.status_file import INTERRUPTED

from .cluster import PACED, jobs, models, rows, scored_cells, status, wait_until
from .conftest import TINY

OPTIONS = [*TINY, "network.dropout=0.2", "callbacks.progress._target_=paced.Paced", "sampler.spacing.num_steps=2"]

pytestmark = pytest.mark.thorough


@pytest.fixture
def command(tmp_path, zygote):
    """command("train", …) -> a running process in the test's folder, whose trainings are slow until the file is gone."""
    (tmp_path / "paced.py").write_text(PACED)
    (tmp_path / ".seconds_a_step").write_text("0.5")

    def start(name, *options):
        where = tmp_path if name == "train" else tmp_path / name
        where.mkdir(exist_ok=True)
        return zygote.start(where, name, *options, COLUMNS="200")

    return start


@pytest.fixture
def asked(command):
    """asked("status") -> what a command prints about the sweep in the test's folder."""

    def ask(name, *options):
        running = command(name, "outputs=../outputs", *options)
        out, err = running.communicate()
        assert running.returncode == 0, err
        return out

    return ask


def in_queue(folder):
    """The jobs that Slurm has from this folder."""
    shown = subprocess.check_output(["squeue", "--me", "--array", "--noheader", "--format=%i"], text=True)
    return [job for job in jobs(folder) if job in shown.split()]


def ended(folder):
    """How many jobs have ended."""
    return len(list((folder / "outputs" / "jobs").glob("*_outcome.json")))


@pytest.mark.needs("submitit")
def test_the_printed_command_ends_what_still_trains(tmp_path, command, asked):
    """One model is scored while a slower one trains; a job of Slurm that is stopped is in test_slurm."""
    running = command("train", "-m", "hydra/launcher=local", *OPTIONS, "trainer.max_steps=2,1000")
    wait_until(lambda: ended(tmp_path) == 1)
    assert len(list((tmp_path / "outputs" / "runs").glob("*/metrics.json"))) == 1
    (slow,) = (model for model in models(tmp_path) if not model.finished)
    wait_until(lambda: rows(slow))

    (line,) = [line for line in asked("status").splitlines() if line.startswith("to stop its jobs")]
    subprocess.run(line.partition(": ")[2].split(), check=True)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 1, out
    assert "1 of 2 cells failed" in err
    assert status(slow).state == INTERRUPTED
    assert status(slow).reason.startswith("SIGTERM at step")
    said = asked("status")
    assert "1 done, 1 interrupted; cells: 1 done" in said
    assert "to stop" not in said


@pytest.mark.needs("slurm-wlm, munge")
@pytest.mark.usefixtures("cluster")
def test_a_sweep_may_be_left_and_taken_up_again(tmp_path, command, asked):
    sweep = ["train", "-m", "hydra/launcher=slurm", *OPTIONS, "trainer.max_steps=12", "seed=1,2"]
    (tmp_path / ".seconds_a_step").write_text("5")  # neither training ends before its state was seen
    left = command(*sweep, "hydra.sweeper.wait=false")
    out, err = left.communicate()
    assert left.returncode == 0, err
    assert "submitted: diffusion-lab status" in out
    assert "report" not in out.splitlines()[-2]
    assert len(in_queue(tmp_path)) == 2
    assert "models: 2 queued; cells: 2 queued" in asked("status")

    wait_until(lambda: len(models(tmp_path)) == 2 and all(rows(model) for model in models(tmp_path)))
    subprocess.run(["scontrol", "requeue", jobs(tmp_path)[0]], check=True)
    wait_until(lambda: "models: 1 requeued, 1 running; cells: 2 queued" in asked("status"))
    (tmp_path / ".seconds_a_step").unlink()

    again = command(*sweep)
    out, err = again.communicate()
    assert again.returncode == 0, err
    assert "is already running" in out
    assert len(jobs(tmp_path)) == 2, "nothing is submitted again"
    assert [cell["state"] for cell in scored_cells(tmp_path)] == ["done", "done"]
