"""Jobs in processes of this machine; what a cluster says of a job that ended without giving a reason of its own.

A real cluster is asked in tests/commands/test_slurm*.py.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffusion_lab.sweeps import jobs, queues
from diffusion_lab.sweeps.jobs import Call, Outcome, run_jobs
from diffusion_lab.sweeps.queues import LocalQueue, SlurmQueue


class Seven(Call):
    """Says that it runs, waits until it may end, and returns 7."""

    makes, resources = ("seven",), {"accelerator": "cpu", "devices": 1}

    def __init__(self, folder):
        self.ran, self.may_end = folder / "ran", folder / "may_end"

    def __call__(self):
        from submitit import JobEnvironment

        with self.ran.open("a") as file:
            file.write("once ")
        while not self.may_end.exists():
            time.sleep(0.01)
        environment = JobEnvironment()
        Outcome(7.0).write(environment.paths.folder, environment.job_id, environment.global_rank)


def local(folder):
    return LocalQueue(folder / "jobs", parallel=1, gpus=(), cores=2)


@pytest.mark.needs("submitit")
def test_what_an_old_job_with_the_same_process_id_left_is_not_read(tmp_path, monkeypatch):
    """As in a container, whose ids begin anew with each start."""
    monkeypatch.setattr(jobs, "_POLL_SECONDS", 0.01)
    (tmp_path / "jobs").mkdir()
    for pid in range(os.getpid(), os.getpid() + 500):
        (tmp_path / "jobs" / f"{pid}_0_outcome.json").write_text('{"value": -1.0, "reason": null}')
    (tmp_path / "may_end").touch()
    assert run_jobs([Seven(tmp_path)], local(tmp_path), print) == [Outcome(7.0)]


@pytest.mark.needs("submitit")
def test_a_job_that_outlives_the_command_that_started_it_is_found_and_awaited(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "_POLL_SECONDS", 0.01)
    command = (
        "import sys; from pathlib import Path; from tests.sweeps.test_queues import *; "
        "folder = Path(sys.argv[1]); run_jobs([Seven(folder)], local(folder), print)"
    )
    sweep = subprocess.Popen([sys.executable, "-c", command, str(tmp_path)], cwd=Path(__file__).parents[2])
    while not (tmp_path / "ran").exists() and sweep.poll() is None:
        time.sleep(0.01)
    sweep.kill()
    sweep.wait()
    queue, said = local(tmp_path), []
    (name,) = queue.active_jobs()
    assert queue.room([Seven(tmp_path)]) == 0, "it takes its place among the jobs that run at a time"

    def say(sentence):
        said.append(sentence)
        (tmp_path / "may_end").touch()

    assert run_jobs([Seven(tmp_path)], queue, say) == [Outcome(7.0)]
    assert said[0].startswith(f"job {name} is already running")
    assert (tmp_path / "ran").read_text() == "once "


@pytest.mark.parametrize(
    ("shown", "reason"),
    [
        ("JobState=FAILED Reason=NonZeroExitCode Requeue=1 ExitCode=137:0", "Slurm reports FAILED after SIGKILL"),
        ("JobState=CANCELLED Reason=None Requeue=1 ExitCode=0:15", "Slurm reports CANCELLED after SIGTERM"),
        ("JobState=FAILED Reason=NonZeroExitCode Requeue=1 ExitCode=1:0", "Slurm reports FAILED"),
        ("JobState=OUT_OF_MEMORY Reason=OutOfMemory Requeue=1 ExitCode=0:125", "Slurm reports OUT_OF_MEMORY"),
        (None, "it left Slurm's queue without giving a reason"),
    ],
)
def test_the_reason_of_a_job_that_failed(tmp_path, monkeypatch, shown, reason):
    monkeypatch.setattr(queues, "ask", lambda *command: shown and f"JobId=1 {shown} RunTime=1 TimeLimit=04:00:00\n")
    assert SlurmQueue(tmp_path, 0, None).failure_reason("1") == reason


@pytest.mark.parametrize(("config", "length"), [("MaxArraySize            = 4\n", 4), (None, 1001)])
def test_an_array_is_of_jobs_alike_and_no_longer_than_allowed(tmp_path, monkeypatch, config, length):
    monkeypatch.setattr(queues, "ask", lambda *command: config if command == ("scontrol", "show", "config") else None)
    small, large = Seven(tmp_path), Seven(tmp_path)
    large.resources = {"mem": "64GB"}
    queue = SlurmQueue(tmp_path, 0, None)
    assert queue.room([small] * 2000) == length
    assert queue.room([small, small, large, small]) == 2
