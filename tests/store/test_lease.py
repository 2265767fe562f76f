"""One holder a folder: where the file system exchanges two names, and where, as on many networks, it does not."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffusion_lab.store import lease
from diffusion_lab.store.files import clear, move, write_whole
from diffusion_lab.store.lease import FILE, OvertakenError, give_up, hold, is_held
from diffusion_lab.store.status_file import DONE, FAILED, RUNNING, Status, read_status
from tests.leases import put_lease

SHORT_SECONDS = 1.0
EXCHANGE = "filelock._soft._exclusive._recovery.exchange_names"
HOLD = """
import sys, time
from pathlib import Path
from diffusion_lab.store.files import write_whole
from diffusion_lab.store import lease
from diffusion_lab.store.lease import OvertakenError, hold
lease._POLL_SECONDS = 0.01
folder = Path(sys.argv[1])
"""
SHORT = f"lease.LEASE_SECONDS, lease.HEARTBEAT_SECONDS = {SHORT_SECONDS}, 0.1\n"
NO_EXCHANGE = "import filelock._soft._exclusive._recovery as recovery\nrecovery.exchange_names = lambda *_: False\n"
SLEEP = "with hold(folder, print):\n    print('held', flush=True)\n    time.sleep(60)\n"
# Waits in a folder that it believes to hold, then writes.
WRITE = """
try:
    with hold(folder, print):
        print("held", flush=True)
        input()
        write_whole(folder / "file", b"late")
except OvertakenError as error:
    print(error)
"""


class WouldWaitError(Exception):
    pass


def refuse(holder):
    raise WouldWaitError(holder)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(lease, "_POLL_SECONDS", 0.01)


@pytest.fixture
def short(monkeypatch):
    """A lease of a second; a program that starts with SHORT has the same one."""
    monkeypatch.setattr(lease, "LEASE_SECONDS", SHORT_SECONDS)
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.1)


@pytest.fixture(params=["", NO_EXCHANGE], ids=["exchange", "no_exchange"])
def disk(request, monkeypatch):
    """Both kinds of file system; a program that starts with this line sees the same one."""
    if request.param:
        monkeypatch.setattr(EXCHANGE, lambda *_: False)
    return request.param


@pytest.fixture
def start(tmp_path):
    """start(program) -> a process that runs it on the test's folder and has printed "held"; killed when the test ends."""
    started = []

    def start(program, wait=True):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        process = subprocess.Popen([sys.executable, "-c", HOLD + program, str(tmp_path)], **pipes)
        started.append(process)
        assert not wait or process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.usefixtures("short")
def test_a_folder_is_held_while_the_block_runs(tmp_path):
    with hold(tmp_path / "new", refuse):
        assert is_held(tmp_path / "new")
        time.sleep(1.5 * SHORT_SECONDS)
        with pytest.raises(WouldWaitError, match=f"process {os.getpid()}"), hold(tmp_path / "new", refuse):
            pass
    assert not is_held(tmp_path / "new")
    assert not any((tmp_path / "new").iterdir())
    assert not is_held(tmp_path / "nowhere")


def test_a_second_process_waits_and_names_the_holder(tmp_path, start):
    other, waited = start(WRITE), []

    def then_end(holder):
        waited.append(holder)
        other.stdin.write("\n")
        other.stdin.flush()

    with hold(tmp_path, then_end):
        assert (tmp_path / "file").read_bytes() == b"late"
    assert waited == [f"process {other.pid} on {socket.gethostname()}"]


@pytest.mark.parametrize("buried", [True, False])
@pytest.mark.usefixtures("disk")
def test_a_killed_holder_is_replaced_at_once(tmp_path, start, buried):
    """Also one whose parent has not waited for it."""
    other = start(SLEEP)
    assert is_held(tmp_path)
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    if buried:
        other.wait()
    assert not is_held(tmp_path)
    with hold(tmp_path, refuse):
        assert is_held(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.usefixtures("disk", "short")
def test_a_lease_of_another_host_expires(tmp_path):
    put_lease(tmp_path)
    assert is_held(tmp_path)
    began, told = time.monotonic(), []
    with hold(tmp_path, told.append):
        assert SHORT_SECONDS <= time.monotonic() - began < SHORT_SECONDS + 1
        assert told == ["process 7 on elsewhere"]
    assert not any(tmp_path.iterdir())


@pytest.mark.usefixtures("disk", "short")
def test_a_live_lease_of_another_host_is_awaited(tmp_path):
    """Its clock is an hour and a half behind."""
    put_lease(tmp_path)
    began, beats = time.monotonic(), iter(range(1000))

    def sleep(_):
        time.sleep(SHORT_SECONDS / 4)
        then = time.time() - 5400 + next(beats)
        os.utime(tmp_path / FILE, (then, then))
        if time.monotonic() > began + 2 * SHORT_SECONDS:
            raise TimeoutError

    with pytest.raises(TimeoutError), hold(tmp_path, lambda _: None, sleep):
        pass


@pytest.mark.parametrize(("ago", "held"), [(290, True), (-290, True), (310, False), (-310, False)])
def test_a_lease_not_renewed_for_long_is_not_held(tmp_path, ago, held):
    """Of another host, whose clock may differ by three minutes."""
    put_lease(tmp_path)
    os.utime(tmp_path / FILE, (time.time() - ago,) * 2)
    assert is_held(tmp_path) == held


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    "damage", [lambda file, _: file.touch(), Path.symlink_to, lambda file, _: put_lease(file.parent, seconds=3.0)]
)
def test_a_damaged_lease_expires(tmp_path, damage):
    """As a power cut or somebody else left it. What a link leads to stays as it is."""
    folder, precious = tmp_path / "folder", tmp_path / "precious"
    folder.mkdir()
    precious.write_text("mine")
    damage(folder / FILE, precious)
    with hold(folder, print):
        write_whole(folder / "file", b"new")
    assert precious.read_text() == "mine"
    assert not os.path.lexists(folder / FILE)


@pytest.mark.usefixtures("short", "disk")
def test_a_stopped_holder_writes_nothing_when_continued(tmp_path, start):
    """It was stopped for longer than its lease, and another process has taken the folder over."""
    asleep = start(SHORT + WRITE)
    asleep.send_signal(signal.SIGSTOP)
    with hold(tmp_path, lambda _: None):
        write_whole(tmp_path / "file", b"in time")
        before = {path.name for path in tmp_path.iterdir()}
        asleep.send_signal(signal.SIGCONT)
        out, _ = asleep.communicate("\n", timeout=60)
        assert out.startswith(f"process {os.getpid()} on {socket.gethostname()} has taken over {tmp_path}")
        assert {path.name for path in tmp_path.iterdir()} == before
        assert is_held(tmp_path)
        write_whole(tmp_path / "file", b"still mine")


@pytest.mark.usefixtures("short")
def test_a_stopped_holder_that_nobody_replaced_goes_on(tmp_path, start):
    asleep = start(SHORT + WRITE)
    asleep.send_signal(signal.SIGSTOP)
    time.sleep(1.5 * SHORT_SECONDS)
    asleep.send_signal(signal.SIGCONT)
    asleep.communicate("\n", timeout=60)
    assert (tmp_path / "file").read_bytes() == b"late"


@pytest.mark.parametrize(
    ("lost", "reason"), [("lease", "another process has taken over"), ("folder", "was removed or")]
)
def test_a_holder_without_its_lease_writes_nothing(tmp_path, lost, reason):
    """Its successor has finished, or a user has removed the folder."""
    folder = tmp_path / "folder"
    with hold(folder, refuse):
        write_whole(folder / "old", b"")
        if lost == "lease":
            (folder / FILE).unlink()
        else:
            shutil.rmtree(folder)
        left = list(tmp_path.rglob("*"))
        for write, *arguments in (
            (write_whole, folder / "file", b""), (move, folder / "old", folder / "file"), (clear, folder / "old")
        ):  # fmt: skip
            with pytest.raises(OvertakenError, match=reason):
                write(*arguments)
        assert list(tmp_path.rglob("*")) == left
    assert not is_held(folder)


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


def test_a_folder_that_is_given_up_passes_on(tmp_path, start):
    """A process that waits for it makes it again, and holds it alone."""
    with hold(tmp_path, refuse):
        other = start(SLEEP.replace("print)", "lambda _: print('waits', flush=True))"), wait=False)
        assert other.stdout.readline() == "waits\n"
        give_up(tmp_path)
        assert other.stdout.readline() == "held\n"
    with pytest.raises(WouldWaitError, match=f"process {other.pid}"), hold(tmp_path, refuse):
        pass


def test_a_given_up_folder_keeps_the_files_of_the_user(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with hold(tmp_path, print):
        give_up(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
