"""Jobs of this machine on devices of their own: real processes that say which they see."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffusion_lab.sweeps import local
from diffusion_lab.sweeps.local import Machine, run_jobs
from diffusion_lab.sweeps.plan import JobError
from diffusion_lab.training.devices import visible_gpus
from tests.machine import UUIDS, pretend

ROOT = Path(__file__).parent.parent.parent
SECONDS = 60  # to wait for others


def report(folder, name, together):
    """The devices that a job has, and who runs beside it: it runs until `together` of them have run at the same time."""
    (folder / "running").mkdir(exist_ok=True)
    mine = folder / "running" / name
    mine.touch()
    deadline, beside = time.monotonic() + SECONDS, []
    while len(beside) < together and time.monotonic() < deadline:
        beside = sorted(path.name for path in mine.parent.iterdir())
        time.sleep(0.01)
    here = {"gpus": os.environ["CUDA_VISIBLE_DEVICES"], "threads": os.environ.get("OMP_NUM_THREADS"), "beside": beside}
    (folder / f"{name}.json").write_text(json.dumps(here))
    while len(list(folder.glob("*.json"))) < together and time.monotonic() < deadline:
        time.sleep(0.01)  # the others are to see this one too
    mine.unlink()


def end(how):
    if how == "fail":
        raise JobError("no such luck")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    return 7.0


def wait(folder):
    (folder / "pid").write_text(str(os.getpid()))
    time.sleep(SECONDS)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(local, "_POLL_SECONDS", 0.02)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # where the jobs find these functions
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def run_all(folder, calls, machine, requests=None):
    """The results of calls, each with one device unless requested otherwise."""
    requests = requests or [("auto", 1)] * len(calls)
    logs = [folder / "jobs" / str(index) / "output.txt" for index in range(len(calls))]
    return run_jobs(calls, [machine.request(*request) for request in requests], logs, machine, print)


def saw(folder, jobs, machine):
    """What each job saw, by its name. jobs: name -> (accelerator, devices, together)."""
    calls = [functools.partial(report, folder, name, together) for name, (_, _, together) in jobs.items()]
    assert run_all(folder, calls, machine, [job[:2] for job in jobs.values()]) == [None] * len(jobs)
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


@pytest.mark.needs("submitit")
def test_one_job_a_gpu_of_those_that_are_visible(tmp_path, monkeypatch):
    pretend(monkeypatch, 8, "4,6,7")
    jobs = dict.fromkeys("abc", ("auto", 1, 3)) | {"d": ("auto", 1, 1)}
    found = saw(tmp_path, jobs, Machine(visible_gpus(), 8))
    assert [found[name]["gpus"] for name in "abc"] == ["4", "6", "7"]
    assert all(found[name]["beside"] == ["a", "b", "c"] for name in "abc")
    assert found["d"]["gpus"] in {"4", "6", "7"}, "what ends makes room for the next"
    assert {found[name]["threads"] for name in "abcd"} == {"2"}, "the cores are shared evenly"


@pytest.mark.needs("submitit")
def test_jobs_of_several_gpus_beside_each_other(tmp_path, monkeypatch):
    pretend(monkeypatch, 8, ",".join(UUIDS))
    jobs = dict.fromkeys("ab", ("auto", 4, 2)) | {"c": ("auto", "auto", 1), "d": ("cpu", 1, 1)}
    found = saw(tmp_path, jobs, Machine(visible_gpus(), 2))
    assert [found[name]["gpus"].split(",") for name in "abc"] == [UUIDS[:4], UUIDS[4:], UUIDS]
    assert found["a"]["beside"] == found["b"]["beside"] == ["a", "b"]
    assert found["d"]["gpus"] == "", "the CPU is what was asked for"


@pytest.mark.needs("submitit")
def test_each_result_or_reason_in_the_order_of_the_calls(tmp_path):
    calls = [functools.partial(end, how) for how in ("killed", "well", "fail")]
    killed, well, failed = run_all(tmp_path, calls, Machine((), 2))
    assert well == 7.0
    assert str(failed) == "no such luck"
    assert str(killed).startswith("its process ended with exit code -9; its log is ")


@pytest.mark.needs("submitit")
def test_jobs_end_with_their_command(tmp_path):
    command = (
        "import functools, sys; from pathlib import Path; from tests.sweeps.test_local import *; "
        "folder = Path(sys.argv[1]); run_all(folder, [functools.partial(wait, folder)], Machine((), 2))"
    )
    started = subprocess.Popen([sys.executable, "-c", command, str(tmp_path)], cwd=ROOT)
    while not (tmp_path / "pid").is_file() or not (job := (tmp_path / "pid").read_text()):
        time.sleep(0.01)
    started.kill()
    started.wait()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{job}/stat").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{job}/stat").exists()


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
def test_as_many_at_a_time_as_the_devices_allow(gpus, cores, parallel, devices, at_a_time):
    machine, taken = Machine(tuple(gpus), cores, parallel), []
    for number in devices:
        found = machine.free_devices(machine.request("auto", number), taken)
        if found is None:
            break
        taken.append(found)
    assert len(taken) == at_a_time


def test_the_users_number_of_threads_is_obeyed(monkeypatch):
    machine = Machine((), 6, parallel=2)
    assert machine.free_devices(machine.request("auto", 1), []).threads == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert machine.free_devices(machine.request("auto", 1), []).threads == 2


@pytest.mark.parametrize(
    ("devices", "accelerator", "said"),
    [
        (9, "auto", "trainer.devices=9: the number of GPUs visible here is 8"),
        ([4, 5], "auto", "trainer.devices=[4, 5]: jobs take turns on the devices, so give a number of devices"),
        (1, "tpu", "trainer.accelerator=tpu: choose auto, gpu or cpu"),
    ],
)
def test_devices_that_are_not_there_are_refused(devices, accelerator, said):
    with pytest.raises(JobError) as error:
        Machine(tuple("01234567"), 8).request(accelerator, devices)
    assert str(error.value).startswith(said)
