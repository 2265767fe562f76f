"""Jobs of this machine on devices of their own: real processes that say which they see."""

import json
import os
from pathlib import Path

import pytest

from diffusion_lab.sweeps import jobs
from diffusion_lab.sweeps.jobs import JobError, run_jobs
from diffusion_lab.sweeps.queues import LocalQueue
from diffusion_lab.training.devices import visible_gpus
from tests.machine import UUIDS, pretend

from .reporting import Report

pytestmark = pytest.mark.needs("submitit")
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(jobs, "_POLL_SECONDS", 0.02)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # where the jobs find the class of their call
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def run(folder, calls, gpus=(), num_cores=2, parallel=None):
    """What each call saw, by its name; and what was said."""
    said = []
    outcomes = run_jobs(calls, LocalQueue(folder / "jobs", parallel, gpus, num_cores), said.append)
    assert all(outcome.reason is None for outcome in outcomes)
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}, said


def test_one_job_a_gpu_of_those_that_are_visible(tmp_path, monkeypatch):
    pretend(monkeypatch, 8, "4,6,7")
    calls = [Report(tmp_path, name, together=3) for name in "abc"] + [Report(tmp_path, "d")]
    saw, said = run(tmp_path, calls, visible_gpus(), num_cores=8)
    assert [saw[name]["gpus"] for name in "abc"] == ["4", "6", "7"]
    assert all(saw[name]["beside"] == ["a", "b", "c"] for name in "abc")
    assert saw["d"]["gpus"] in {"4", "6", "7"}, "what ends makes room for the next"
    assert {saw[name]["threads"] for name in "abcd"} == {"2"}, "the cores are shared evenly"
    for number, line in zip("467", said[0].split(", "), strict=True):
        assert f"(GPU {number})" in line


def test_jobs_of_four_gpus_run_two_at_a_time_on_eight_and_one_that_takes_all_alone(tmp_path, monkeypatch):
    pretend(monkeypatch, 8, ",".join(UUIDS))
    calls = [Report(tmp_path, name, devices=4, together=2) for name in "ab"]
    calls += [Report(tmp_path, "c", devices="auto"), Report(tmp_path, "d", accelerator="cpu")]
    saw, said = run(tmp_path, calls, visible_gpus())
    assert saw["a"]["gpus"].split(",") == UUIDS[:4]
    assert saw["b"]["gpus"].split(",") == UUIDS[4:]
    assert saw["a"]["beside"] == saw["b"]["beside"] == ["a", "b"]
    assert saw["c"]["gpus"].split(",") == UUIDS
    assert saw["c"]["beside"] in (["c"], ["c", "d"])
    assert saw["d"]["gpus"] == "", "the CPU is what was asked for"
    assert any("(CPU, 1 thread)" in line for line in said)


def test_on_a_cpu_jobs_share_the_cores(tmp_path):
    calls = [Report(tmp_path, name, together=2) for name in "ab"]
    saw, said = run(tmp_path, calls, num_cores=6, parallel=2)
    assert {(saw[name]["gpus"], saw[name]["threads"]) for name in "ab"} == {("", "3")}
    assert said[0].count("(CPU, 3 threads)") == 2


@pytest.mark.parametrize(
    ("gpus", "cores", "parallel", "devices", "at_a_time"),
    [
        ("01234567", 64, None, [1] * 20, 8),
        ("01234567", 64, None, [4] * 20, 2),
        ("01234567", 64, None, [4, 1, 2, 8, 1], 3),  # 8 waits, and what is behind it waits too
        ("01234567", 64, None, [None] * 20, 8),  # nothing said: one each
        ("01234567", 64, 2, [1] * 20, 2),
        ("0", 64, 3, [1] * 20, 3),  # more than there are GPUs, because the user says so
        ("", 4, None, [1] * 20, 4),
        ("", 4, None, [2] * 20, 2),
        ("", 4, None, ["auto"] * 20, 1),
    ],
)
def test_as_many_at_a_time_as_the_devices_allow(tmp_path, gpus, cores, parallel, devices, at_a_time):
    queue = LocalQueue(tmp_path, parallel, tuple(gpus), cores)
    assert queue.room([Report(tmp_path, str(number), size) for number, size in enumerate(devices)]) == at_a_time


def test_the_users_number_of_threads_is_obeyed(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    queue = LocalQueue(tmp_path, None, (), 4)
    assert queue.room([Report(tmp_path, str(number)) for number in range(9)]) == 2


@pytest.mark.parametrize(
    ("devices", "accelerator", "said"),
    [
        (9, "auto", "trainer.devices=9: the number of GPUs visible here is 8"),
        ([4, 5], "auto", "trainer.devices=[4, 5]: jobs take turns on the devices, so give a number of devices"),
        (1, "tpu", "trainer.accelerator=tpu: choose auto, gpu or cpu"),
    ],
)
def test_what_there_is_not_is_refused_before_anything_runs(tmp_path, devices, accelerator, said):
    queue = LocalQueue(tmp_path / "jobs", None, tuple("01234567"), 8)
    with pytest.raises(JobError) as error:
        run_jobs([*[Report(tmp_path, "a")] * 9, Report(tmp_path, "b", devices, accelerator)], queue, print)
    assert str(error.value).startswith(said)
    assert os.listdir(tmp_path) == []
