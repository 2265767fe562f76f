"""Requests of jobs, and what is read of them; a real Slurm is asked in tests/commands/test_slurm.py."""

import pickle

import pytest

from diffusion_lab.store import sweep_directory, write_json
from diffusion_lab.sweeps import slurm
from diffusion_lab.sweeps.slurm import arrays, jobs_of, results


def test_equal_requests_are_an_array():
    assert [*map(list, arrays([{"time": 1 + (name in "cf")} for name in "abcdefg"]))] == [[0, 1, 3, 4, 6], [2, 5]]


@pytest.fixture
def queue(monkeypatch):
    """queue(answer, …): what squeue says, one answer at a time, the last one for ever; None: nothing."""

    def says(*answers):
        left = [*answers]
        monkeypatch.setattr(slurm, "_POLL_SECONDS", 0.001)
        monkeypatch.setattr(slurm, "ask", lambda *command: left.pop(0) if len(left) > 1 else left[0])

    return says


def test_a_job_is_in_the_queue_gone_or_unknown(tmp_path, queue):
    sweep = sweep_directory(tmp_path, "mine")
    assert jobs_of(sweep) == {}
    write_json(sweep.submitted, {"m1": "7_0", "m2": "7_1"})
    queue("7_0 PENDING\n9 RUNNING\n")
    assert {model: job.state for model, job in jobs_of(sweep).items()} == {"m1": "PENDING", "m2": None}
    queue(None)
    assert {job.state for job in jobs_of(sweep).values()} == {""}


@pytest.mark.needs("submitit")
def test_values_and_reasons_of_jobs_that_have_ended(tmp_path, queue):
    queue("7_0 RUNNING\n", None, "")
    traceback = "Traceback (most recent call last):\n  …\ndiffusion_lab.sweeps.plan.JobError: no such luck: 3\n"
    for job, result in (("7_0", ("success", 1.5)), ("7_1", ("error", traceback))):
        (tmp_path / f"{job}_0_result.pkl").write_bytes(pickle.dumps(result))
    value, failed, lost = results(["7_0", "7_1", "7_2"], tmp_path)
    assert value == 1.5
    assert str(failed) == "no such luck: 3"
    assert str(lost) == f"job 7_2 left Slurm's queue without a result; its log is {tmp_path}/7_2_0_log.out"
