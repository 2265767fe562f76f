"""One writer a folder, on this machine and on others."""

import os
import signal
import subprocess
import sys
import time

import pytest

from diffusion_lab.store import lock
from diffusion_lab.store.lock import hold, is_held, lock_of
from diffusion_lab.store.status_file import FAILED, RUNNING, Status, read_status

HOLD = """
import sys, time
from pathlib import Path
from diffusion_lab.store import lock
lock.LEASE_SECONDS, lock._HEARTBEAT_SECONDS = float(sys.argv[2]), float(sys.argv[2]) / 5
try:
    with lock.hold(Path(sys.argv[1]), print):
        print("held", flush=True)
        time.sleep(60)
finally:
    print("stopped", flush=True)
"""


class WouldWaitError(Exception):
    pass


def refuse(holder):
    raise WouldWaitError(holder)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(lock, "_POLL_SECONDS", 0.01)


@pytest.fixture
def start(tmp_path):
    """start() -> a process that holds tmp_path/"folder"."""
    started = []

    def start(seconds=lock.LEASE_SECONDS):
        command = [sys.executable, "-c", HOLD, str(tmp_path / "folder"), str(seconds)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, **pipes))
        assert started[-1].stdout.readline() == "held\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_another_process_waits_and_says_for_whom(tmp_path, start):
    folder, holder = tmp_path / "folder", start()
    assert is_held(folder)
    with pytest.raises(WouldWaitError, match=f"process {holder.pid} on "), hold(folder, refuse):
        pass
    holder.kill()
    holder.wait()
    assert not is_held(folder)
    with hold(folder, refuse):
        assert is_held(folder)
    assert not lock_of(folder).exists()
    assert not folder.exists(), "holding makes nothing in it"


def test_a_holder_that_does_not_answer_is_replaced_and_told(tmp_path, start, monkeypatch, capfd):
    """As after a laptop has slept: the process that finds its folder taken stops."""
    monkeypatch.setattr(lock, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(lock, "_HEARTBEAT_SECONDS", 0.2)
    holder, said = start(1.0), []
    holder.send_signal(signal.SIGSTOP)
    with hold(tmp_path / "folder", said.append):
        assert len(said) == 1
        holder.send_signal(signal.SIGCONT)
        out, err = holder.communicate(timeout=20)
        assert out == "", "it does nothing more"
        assert err == f"{tmp_path / 'folder'} is no longer held (owner-changed): this process ends\n"
        assert is_held(tmp_path / "folder")


def test_the_state_of_work_whose_process_was_killed(tmp_path, start):
    folder, holder = tmp_path / "folder", start()
    Status.begin().write(folder)
    assert read_status(folder).state == RUNNING
    holder.kill()
    holder.wait()
    assert read_status(folder).state == FAILED


def test_a_holder_elsewhere_lives_while_it_renews(tmp_path, monkeypatch):
    """One that has died is not waited for in its name, and replaced."""
    monkeypatch.setattr(lock, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(lock, "_HEARTBEAT_SECONDS", 0.2)
    folder = tmp_path / "folder"
    lock_of(folder).write_text("filelock/2\npid=7\nhost=elsewhere\nmode=lease\ntoken=its own\nduration=1.0\n")
    assert is_held(folder)
    os.utime(lock_of(folder), (time.time() - 3600,) * 2)
    assert not is_held(folder)
    with hold(folder, refuse):
        assert is_held(folder)
