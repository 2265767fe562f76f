import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from diffusion_lab import lock
from diffusion_lab.lock import Holder, hold, holder_of, is_held
from diffusion_lab.status import DONE, FAILED, RUNNING, Status, read_status

HOLD = "import sys, time, pathlib\nfrom diffusion_lab.lock import hold\n"
HOLD += "with hold(pathlib.Path(sys.argv[1]), print):\n    print('held', flush=True)\n    time.sleep(60)"


class WouldWaitError(Exception):
    pass


def refuse(holder):
    raise WouldWaitError(holder)


@pytest.fixture
def other(tmp_path):
    """Another process that holds the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_holder_is_known_while_it_holds_and_not_after(tmp_path):
    with hold(tmp_path, refuse):
        assert holder_of(tmp_path).pid == os.getpid()
        assert is_held(tmp_path)
    assert holder_of(tmp_path) is None
    assert not is_held(tmp_path)


def test_a_second_process_is_told_who_holds_it(tmp_path, other):
    with pytest.raises(WouldWaitError) as told, hold(tmp_path, refuse):
        pass
    assert told.value.args[0].pid == other.pid
    assert str(told.value.args[0]).startswith(f"process {other.pid} on {socket.gethostname()}, since ")


def test_a_killed_holder_is_taken_over_at_once(tmp_path, other):
    assert is_held(tmp_path)
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert not is_held(tmp_path)
    with hold(tmp_path, refuse):
        assert holder_of(tmp_path).pid == os.getpid()


def test_it_waits_until_the_holder_lets_go(tmp_path, other):
    waited = []

    def then_kill(holder):
        waited.append(holder.pid)
        other.kill()

    with hold(tmp_path, then_kill):
        assert waited == [other.pid]


def test_another_machines_holder_counts_by_its_heartbeat(tmp_path, monkeypatch):
    (tmp_path / "holder.json").write_text(json.dumps({"host": "elsewhere", "pid": 1, "since": "now"}))
    with pytest.raises(WouldWaitError), hold(tmp_path, refuse):
        pass
    assert holder_of(tmp_path) == Holder("elsewhere", 1, "now")
    long_ago = time.time() - lock.STALE_SECONDS - 1
    os.utime(tmp_path / "holder.json", (long_ago, long_ago))
    with hold(tmp_path, refuse):
        assert holder_of(tmp_path).pid == os.getpid()


def test_the_holder_has_a_heartbeat(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.01)
    with hold(tmp_path, refuse):
        os.utime(tmp_path / "holder.json", (0, 0))
        deadline = time.monotonic() + 5
        while (tmp_path / "holder.json").stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (tmp_path / "holder.json").stat().st_mtime > 0


def test_a_status_is_as_true_as_its_process(tmp_path):
    assert read_status(tmp_path) is None
    status = Status.begin(steps=10)
    with hold(tmp_path, refuse):
        status.now(RUNNING, step=3).write(tmp_path)
        assert (read_status(tmp_path).state, read_status(tmp_path).step) == (RUNNING, 3)
    dead = read_status(tmp_path)
    assert dead.state == FAILED
    assert f"process {os.getpid()}" in dead.reason
    status.now(DONE).write(tmp_path)
    assert read_status(tmp_path).state == DONE
    (tmp_path / "status.json").write_text("{")
    assert read_status(tmp_path) is None
