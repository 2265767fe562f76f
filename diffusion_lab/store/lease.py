"""One process works in a folder at a time: it holds filelock's lease `<folder>/.lease` (`SoftFileLease`, 4.3).

The library renews the lease and replaces that of a dead process of this machine at once, any other after LEASE_SECONDS without
renewal by the clock of the process that waits; clocks of two machines are not compared. It needs no locks and no hard links of the
file system. A holder that was stopped for so long is replaced while it lives: it reads the token before every file that it puts
in place (`files`), and stops where that is not its own.

What the library does not do, and this module adds: it tells nobody whether a folder is held but by taking it; it never replaces
a lease where two names cannot be exchanged (NFS, Ceph, FUSE), nor one that a power cut left empty; and it takes a killed process
for alive while its parent has not waited for it.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from filelock import LeaseSettingsMismatch, OwnerRecord, SoftFileLease, Timeout

from diffusion_lab.store import written
from diffusion_lab.store.files import guarded, make_folders
from diffusion_lab.store.processes import is_running
from diffusion_lab.store.written import PlaceError

FILE = ".lease"
LEASE_SECONDS = 120.0
HEARTBEAT_SECONDS = 15.0
_CLOCKS_DIFFER_SECONDS = 180.0  # by less, on machines that share files
_POLL_SECONDS = 0.5
_INITIAL_NAMESPACE = 0xEFFFFFFC  # of process ids, in Linux


class OvertakenError(Exception):
    """Another process holds the folder that this one held; the message is one sentence."""


@contextmanager
def hold(folder: Path, waiting: Callable[[str], None], sleep: Callable[[float], None] = time.sleep) -> Iterator[None]:
    """The block runs while no other process holds `folder`, which is made if it is missing.

    If another process does, `waiting` is called once with its name, then this waits until it ends; `waiting` may raise instead.
    OSError if the folder cannot be written, PlaceError if it cannot be held. In the block, `files` raises OvertakenError instead of
    writing there if another process has taken the folder over.
    """
    make_folders(folder)
    path = folder / FILE
    if path.is_dir():
        raise PlaceError(f"{path} was not written by diffusion-lab: remove it")
    lease = SoftFileLease(path, lease_duration=LEASE_SECONDS, heartbeat_interval=HEARTBEAT_SECONDS, thread_local=False)
    seen: tuple[int, int] | None = None
    since, said = 0.0, False
    while True:
        with suppress(Timeout, LeaseSettingsMismatch, FileNotFoundError):  # the last: the folder was just removed
            lease.acquire(blocking=False)
            break
        state = _state(path)
        owner = lease.owner  # read after the state, because `_remove` takes only a lease in that state away
        if state != seen:
            seen, since = state, time.monotonic()
        ended = _has_ended(owner) or time.monotonic() - since >= LEASE_SECONDS
        if state is None or (ended and _remove(path, state)):
            continue
        if not said:
            waiting(_name(owner))
            said = True
        sleep(_POLL_SECONDS)
    token = lease.token

    def check() -> None:
        owner = lease.owner
        if owner is None or owner.token != token:
            taken = f"{_name(owner)} has taken over {folder}, because this process did not respond for {LEASE_SECONDS:.0f} seconds"
            lost = taken if folder.is_dir() else f"{folder} was removed or renamed"
            raise OvertakenError(f"{lost}: this process stops and writes nothing more there")

    try:
        with guarded(folder, check):
            yield
    finally:
        with suppress(OSError):
            lease.release()


def give_up(folder: Path) -> None:
    """Remove the lease and the record of a folder, and the folder unless something else lies there.

    Call it only while you hold it, as the last step there. A process that waits for the folder makes it again.
    """
    for path in (folder / written.FILE, *folder.glob(f"{FILE}.*"), folder / FILE):
        path.unlink(missing_ok=True)
    with suppress(OSError):  # a user has put something there, or another process has just taken it
        folder.rmdir()


def is_held(folder: Path) -> bool:
    """Whether a living process holds `folder`: it has not ended on this machine, and has renewed its lease lately."""
    state = _state(folder / FILE)
    if state is None or _has_ended(SoftFileLease(folder / FILE).owner):
        return False
    return abs(time.time() - state[1] / 1e9) < LEASE_SECONDS + _CLOCKS_DIFFER_SECONDS


def _state(path: Path) -> tuple[int, int] | None:
    """What identifies a lease and its last renewal; None: there is no such file."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _remove(path: Path, state: tuple[int, int]) -> bool:
    """Remove a lease in this state; False if it cannot be done, or another process has renewed or replaced it."""
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        path.rename(aside)
        if _state(aside) != state:
            aside.rename(path)
            return False
        aside.unlink()
    except OSError:
        return False
    return True


def _has_ended(owner: OwnerRecord | None) -> bool:
    """Whether the owner ran on this machine and has ended."""
    return owner is not None and owner.hostname == _host() and not is_running(owner.pid)


def _name(owner: OwnerRecord | None) -> str:
    return f"process {owner.pid} on {owner.hostname.partition('?')[0]}" if owner else "another process"


@cache
def _host() -> str:
    """This machine, as the library records it: in a container, with its namespace of process ids."""
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        namespace = _INITIAL_NAMESPACE
    return socket.gethostname() + ("" if namespace == _INITIAL_NAMESPACE else f"?pidns-{namespace:x}")
