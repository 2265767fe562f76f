"""One holder a folder: who trains or scores what lies in it. Imports nothing of this package but `files`.

The lock is the operating system's on `<folder>/.lock`: a process that dies, even by kill -9, lets go of it. Beside it lies
`holder.json`, which says who holds it, and whose time of change is the holder's heartbeat: machines that share a file system
but not its locks go by that.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from diffusion_lab.files import write_whole

HEARTBEAT_SECONDS = 15.0
STALE_SECONDS = 120.0  # a holder on another machine that has been silent for so long is dead
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Holder:
    """A process that holds a folder, or held it and is gone."""

    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


@contextmanager
def hold(folder: Path, waiting: Callable[[Holder | None], None]) -> Iterator[None]:
    """The block runs while nobody else holds `folder`, which is made if it is missing.

    Where somebody does, `waiting` is called once with the holder (None: it has not said yet who it is), then this waits until
    it lets go or is dead; `waiting` may raise instead. OSError if the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # preserve_lock_file: a file that is removed while another process waits for it would lock nothing.
    # fallback_to_soft=False: a lock file left behind by a dead process would hold the folder for ever.
    lock = FileLock(folder / ".lock", fallback_to_soft=False, preserve_lock_file=True, thread_local=False)
    said = False
    while not _take(lock, folder):
        if not said:
            waiting(holder_of(folder))
            said = True
        time.sleep(_POLL_SECONDS)
    try:
        file = folder / "holder.json"
        me = Holder(socket.gethostname(), os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S"))
        write_whole(file, json.dumps(asdict(me)).encode())
        try:
            with _heartbeat(file):
                yield
        finally:  # also after an error: this process may live on, and holds nothing any more
            file.unlink(missing_ok=True)
    finally:
        lock.release()


def holder_of(folder: Path) -> Holder | None:
    """Who says that it holds `folder`; None where nobody does."""
    try:
        return Holder(**json.loads((folder / "holder.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def is_held(folder: Path) -> bool:
    """Whether a living process holds `folder`, as far as this machine can tell."""
    holder = holder_of(folder)
    if holder is None:
        return False
    if holder.host == socket.gethostname():
        return _is_alive(holder.pid)
    return _age(folder / "holder.json") < STALE_SECONDS


def _take(lock: FileLock, folder: Path) -> bool:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    holder = holder_of(folder)
    if holder is not None and holder.host != socket.gethostname() and is_held(folder):
        lock.release()  # this file system does not show us the lock of that machine
        return False
    return True


@contextmanager
def _heartbeat(file: Path) -> Iterator[None]:
    """Touch `file` now and then while the block runs."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT_SECONDS):
            if file.exists():
                os.utime(file)

    thread = threading.Thread(target=beat, daemon=True, name="heartbeat")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it lives, and is another user's
    return True


def _age(file: Path) -> float:
    try:
        return time.time() - file.stat().st_mtime
    except OSError:
        return float("inf")
