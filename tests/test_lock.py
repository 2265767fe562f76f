"""One holder a folder: where the system's locks hold, and where, as on some networks, everybody gets them."""

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from filelock import FileLock

from diffusion_lab import claims, lock
from diffusion_lab.claims import Claim, Holder, newest
from diffusion_lab.files import write_whole
from diffusion_lab.lock import OvertakenError, Silence, give_up, hold, is_held
from diffusion_lab.processes import Process
from diffusion_lab.status import DONE, FAILED, RUNNING, Status, read_status
from diffusion_lab.written import PlaceError

HOLD = """
import sys, time
from pathlib import Path
from diffusion_lab.lock import hold
folder = Path(sys.argv[1])
"""
NO_LOCKS = """
from filelock import FileLock
FileLock.acquire = lambda *_, **__: None
FileLock.release = lambda *_, **__: None
"""
SLEEP = "with hold(folder, print):\n    print('held', flush=True)\n    time.sleep(60)\n"
# Waits to be let go on, in a folder that it believes to hold, then writes.
WRITE = """
from diffusion_lab import lock, processes
from diffusion_lab.files import write_whole
processes._machine = lambda: "that machine"
lock.HEARTBEAT_SECONDS = 0.01
try:
    with hold(folder, print):
        print("held", flush=True)
        input()
        write_whole(folder / "file", b"late")
except lock.OvertakenError as error:
    print(error)
"""
# A line at each end of its time inside, and long enough inside that two would mix.
IN_AND_OUT = """
import os
while not (folder / "go").exists():
    time.sleep(0.001)
with hold(folder, lambda _: None, sleep=lambda _: time.sleep(0.005)):
    log = os.open(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, f"{os.getpid()} in\\n".encode())
    time.sleep(0.02)
    os.write(log, f"{os.getpid()} out\\n".encode())
"""


class WouldWaitError(Exception):
    pass


def refuse(holder):
    raise WouldWaitError(holder)


class Time:
    """A clock that only `sleep` moves; on_sleep: what happens meanwhile."""

    def __init__(self, on_sleep=lambda: None):
        self.now, self.on_sleep = 1000.0, on_sleep

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.on_sleep()


@pytest.fixture
def start(tmp_path):
    """start(program) -> a process that runs it on the test's folder and has printed "held"; killed when the test ends."""
    started = []

    def start(program, wait=True):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD + program, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert not wait or process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def no_locks(monkeypatch):
    """A file system that gives the same lock to everybody."""
    monkeypatch.setattr(FileLock, "acquire", lambda *_, **__: None)
    monkeypatch.setattr(FileLock, "release", lambda *_, **__: None)


def claimed(folder, **of_process):
    """A claim on `folder` by this process but for what is said of it."""
    holder = replace(Holder.current(), process=replace(Process.current(), **of_process))
    assert claims.succeed(folder, newest(folder), holder)
    return holder


def from_elsewhere(folder):
    return claimed(folder, host="elsewhere", machine="another")


def touched(folder, ago):
    """The newest claim's heartbeat was so many seconds ago, as that machine's clock says."""
    then = time.time() - ago
    os.utime(folder / ".holder" / f"{newest(folder).number}.json", (then, then))


def test_the_holder_is_known_while_it_holds_and_not_after(tmp_path):
    with hold(tmp_path, refuse):
        assert newest(tmp_path).holder.process == Process.current()
        assert is_held(tmp_path)
    assert newest(tmp_path).holder is None
    assert not is_held(tmp_path)
    assert not is_held(tmp_path / "nowhere")


def test_a_second_process_is_told_who_holds_it(tmp_path, start):
    other = start(SLEEP)
    with pytest.raises(WouldWaitError) as told, hold(tmp_path, refuse):
        pass
    assert str(told.value.args[0]).startswith(f"process {other.pid} on {socket.gethostname()}, since ")


@pytest.mark.parametrize("locks", ["", NO_LOCKS])
def test_a_killed_holder_is_taken_over_at_once(tmp_path, start, locks, request):
    if locks:
        request.getfixturevalue("no_locks")
    other = start(locks + SLEEP)
    assert is_held(tmp_path)
    with pytest.raises(WouldWaitError), hold(tmp_path, refuse):
        pass
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert not is_held(tmp_path)
    with hold(tmp_path, refuse):
        assert newest(tmp_path).holder.process.pid == os.getpid()


def test_it_waits_until_the_holder_lets_go(tmp_path, start):
    other, waited = start(SLEEP), []

    def then_kill(holder):
        waited.append(holder.process.pid)
        other.kill()

    with hold(tmp_path, then_kill):
        assert waited == [other.pid]


def test_a_process_id_that_is_used_again_holds_nothing(tmp_path):
    claimed(tmp_path, started="before this one")
    assert not is_held(tmp_path)
    with hold(tmp_path, refuse):
        assert is_held(tmp_path)


@pytest.mark.parametrize("ago", [105, 3000, -3000, 1e6])
def test_another_machines_holder_is_dead_when_it_was_silent_while_we_watched_whatever_its_clock_says(tmp_path, ago):
    elsewhere = from_elsewhere(tmp_path)
    touched(tmp_path, ago)
    assert is_held(tmp_path) == (ago < 3600)
    passing = Time()
    told = []
    with hold(tmp_path, told.append, passing, passing.sleep):
        assert told == [elsewhere]
        assert lock.STALE_SECONDS <= passing.now - 1000 < lock.STALE_SECONDS + 2


def test_another_machines_holder_that_shows_signs_of_life_is_awaited_for_ever(tmp_path):
    """Its clock is an hour and a half behind, and three of four heartbeats are lost."""
    from_elsewhere(tmp_path)
    beats = iter(range(100))

    def beat():
        if passing.now % 60 < 0.5:
            touched(tmp_path, 5400 - 60 * next(beats))
        if passing.now > 1900:
            raise TimeoutError

    passing = Time(beat)
    with pytest.raises(TimeoutError), hold(tmp_path, lambda _: None, passing, passing.sleep):
        pass


def test_who_asks_again_and_again_sees_that_another_machines_holder_is_dead(tmp_path, monkeypatch):
    passing = Time()
    monkeypatch.setattr(lock, "_silence", Silence(passing))
    from_elsewhere(tmp_path)
    assert is_held(tmp_path)
    passing.sleep(lock.STALE_SECONDS - 1)
    touched(tmp_path, 300)
    assert is_held(tmp_path)
    passing.sleep(lock.STALE_SECONDS)
    assert not is_held(tmp_path)


def test_a_claim_whose_writer_died_over_it_holds_until_it_was_watched(tmp_path):
    (tmp_path / ".holder").mkdir()
    (tmp_path / ".holder" / "7.json").touch()
    passing, told = Time(), []
    with hold(tmp_path, told.append, passing, passing.sleep):
        assert told == [None]
        assert newest(tmp_path).number == 8


def test_the_holder_has_a_heartbeat_that_outlives_errors_of_the_file_system(tmp_path, monkeypatch):
    beat, errors = claims.beat, [OSError(errno.ESTALE, "stale"), OSError(errno.EIO, "error")]

    def some_fail(folder, number):
        if errors:
            raise errors.pop()
        beat(folder, number)

    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.01)
    monkeypatch.setattr(claims, "beat", some_fail)
    with hold(tmp_path, refuse):
        touched(tmp_path, 1e9)
        before, deadline = newest(tmp_path).beat, time.monotonic() + 10
        while newest(tmp_path).beat == before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert newest(tmp_path).beat != before
        assert not errors


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "no locks"), NotImplementedError()])
def test_a_file_system_without_locks_does_with_claims(tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(FileLock, "acquire", fail)
    with hold(tmp_path, refuse), pytest.raises(WouldWaitError), hold(tmp_path, refuse):
        pass
    with hold(tmp_path, refuse):
        pass


@pytest.mark.parametrize("locks", ["", NO_LOCKS])
def test_of_many_that_see_a_dead_holder_one_at_a_time_holds(tmp_path, start, locks):
    claimed(tmp_path, started="before this one")
    racers = [start(locks + IN_AND_OUT, wait=False) for _ in range(6)]
    (tmp_path / "go").touch()
    for racer in racers:
        assert racer.wait(timeout=60) == 0
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[::2] == [f"{line.split()[0]} in" for line in lines[::2]]
    assert lines[1::2] == [f"{line.split()[0]} out" for line in lines[::2]]
    assert sorted(int(line.split()[0]) for line in lines[::2]) == sorted(racer.pid for racer in racers)
    assert [file.name for file in (tmp_path / ".holder").iterdir()] == ["7.json"], "one claim is left, let go of"


def test_of_many_that_succeed_the_same_claim_one_does(tmp_path):
    for _ in range(50):
        earlier, at_once, won = newest(tmp_path), threading.Barrier(8), []

        def race(earlier=earlier, at_once=at_once, won=won):
            me = Holder.current()
            at_once.wait()
            won.append(claims.succeed(tmp_path, earlier, me) and me)

        threads = [threading.Thread(target=race) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [holder for holder in won if holder] == [newest(tmp_path).holder]


def test_what_is_no_claim_holds_nothing_and_keeps_nobody(tmp_path):
    """Names that a claim's number does not have, and a link to nothing: whoever looked for claim 3 would look for ever."""
    (tmp_path / ".holder").mkdir()
    for name in ("03.json", "٣.json", "0.json", "x.json"):
        (tmp_path / ".holder" / name).write_text("{}")
    (tmp_path / ".holder" / "7.json").symlink_to("nowhere")
    assert newest(tmp_path).released
    with hold(tmp_path, refuse):
        assert newest(tmp_path).number == 1


def test_who_was_slow_to_succeed_a_claim_of_long_ago_does_not(tmp_path):
    """Its number is free again, because claims that count no more are cleared away."""
    slow = newest(tmp_path)
    for _ in range(3):
        now = claimed(tmp_path)
    assert slow == Claim()
    assert not claims.succeed(tmp_path, slow, Holder.current())
    assert newest(tmp_path).holder == now


@pytest.mark.usefixtures("no_locks")
def test_an_overtaken_holder_writes_nothing_more_and_leaves_its_successor_alone(tmp_path, start):
    """It was suspended for so long that another machine took it for dead."""
    asleep, passing = start(NO_LOCKS + WRITE), Time()
    asleep.send_signal(signal.SIGSTOP)
    with hold(tmp_path, lambda _: None, passing, passing.sleep) as check:
        write_whole(tmp_path / "file", b"in time")
        asleep.send_signal(signal.SIGCONT)
        out, _ = asleep.communicate("\n", timeout=60)
        assert out.strip() == (
            f"{newest(tmp_path).holder} has taken over {tmp_path}, because this process did not respond for 120 seconds; "
            "this one stops and writes nothing more there"
        )
        check()
        assert is_held(tmp_path)
    assert (tmp_path / "file").read_bytes() == b"in time"
    assert not is_held(tmp_path)


def test_a_holder_whose_claim_was_removed_has_lost_it(tmp_path):
    """With the folder, for instance, by a user who wanted it gone."""
    with hold(tmp_path, refuse):
        (tmp_path / ".holder" / "1.json").unlink()
        with pytest.raises(OvertakenError, match="was removed or renamed"):
            write_whole(tmp_path / "file", b"")
    assert not (tmp_path / "file").exists()
    assert not is_held(tmp_path)


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


@pytest.mark.parametrize("locks", ["", NO_LOCKS], ids=["locks", "no_locks"])
def test_who_waits_for_a_folder_that_its_holder_gives_up_makes_it_anew_and_holds_it_alone(tmp_path, start, locks):
    with hold(tmp_path, refuse):
        other = start(locks + SLEEP.replace("print)", "lambda _: print('waits', flush=True))"), wait=False)
        assert other.stdout.readline() == "waits\n"
        give_up(tmp_path)
        assert other.stdout.readline() == "held\n"
    assert newest(tmp_path).holder.process.pid == other.pid, "who gave it up lets go of nothing of the other's"
    with pytest.raises(WouldWaitError), hold(tmp_path, refuse):
        pass


@pytest.mark.parametrize("step", ["acquire", "succeed"])
def test_who_finds_the_folder_just_removed_holds_it_anew_and_has_nobody_to_wait_for(tmp_path, monkeypatch, step):
    owner = {"acquire": lock.FileLock, "succeed": claims}[step]
    real, folder, times = getattr(owner, step), tmp_path / "model", []

    def removed_before(*arguments, **options):
        if not times:
            times.append(shutil.rmtree(folder))
        return real(*arguments, **options)

    monkeypatch.setattr(owner, step, removed_before)
    with hold(folder, refuse) as check:
        check()
        assert times
        give_up(folder)
    assert not folder.exists()


def test_a_folder_that_is_given_up_keeps_what_a_user_put_there(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with hold(tmp_path, print):
        give_up(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("number", [10**12, 10**18 - 1])
def test_a_claim_that_nobody_counted_to_is_refused_at_once(tmp_path, number):
    """A folder whose claim has a number that no process could exceed."""
    (tmp_path / ".holder").mkdir()
    (tmp_path / ".holder" / f"{number}.json").write_text("null")
    with pytest.raises(PlaceError, match=r"\.holder was not written by diffusion-lab"), hold(tmp_path, refuse):
        pass
