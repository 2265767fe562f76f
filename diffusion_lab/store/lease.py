"""Exclusive use of a folder by one process, with filelock's lease `<folder>/.lease` (`SoftFileLease`, 4.3).

The library renews the lease. It replaces the lease of a dead process of this machine at once, and any other after LEASE_SECONDS
without renewal on the clock of the waiting process; clocks of two machines are not compared. It needs no locks or hard links of the
file system. A holder that was stopped that long is replaced although it lives: it reads the token before putting a file
in place (`files`), and stops if the token is not its own.

This module adds what the library lacks: checking whether a folder is held without taking it; replacing
a lease on file systems that cannot exchange two names (NFS, Ceph, FUSE), or one emptied by a power cut; and noticing that a
killed process is dead although its parent has not waited for it.
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

FILE = ".lease"
LEASE_SECONDS = 120.0
HEARTBEAT_SECONDS = 15.0
_CLOCKS_DIFFER_SECONDS = 180.0  # maximal difference of clocks of machines that share files
_POLL_SECONDS = 0.5
_INITIAL_NAMESPACE = 0xEFFFFFFC  # of process ids, in Linux


class OvertakenError(Exception):
    """Another process has taken over the folder that this one held; the message is one sentence."""


@contextmanager
def hold(folder: Path, waiting: Callable[[str], None], sleep: Callable[[float], None] = time.sleep) -> Iterator[None]:
    """Hold `folder` during the block, so that no other process does; the folder is made if it is missing.

    If another process holds it, `waiting` is called once with its name, then this waits until it ends; `waiting` may raise instead.
    OSError if the folder cannot be written. In the block, `files` raises OvertakenError
    before writing there if another process has taken over.
    """
    make_folders(folder)
    path = folder / FILE
    lease = SoftFileLease(path, lease_duration=LEASE_SECONDS, heartbeat_interval=HEARTBEAT_SECONDS, thread_local=False)
    seen: tuple[int, int] | None = None
    since, said = 0.0, False
    while True:
        with suppress(Timeout, LeaseSettingsMismatch, FileNotFoundError):  # the last one: the folder was just removed
            lease.acquire(blocking=False)
            break
        state = _state(path)
        owner = lease.owner  # read after the state, because `_remove` only removes a lease in that state
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
    """Remove the lease and the record of a folder, and the folder itself if it is then empty.

    Call it while holding the folder, as the last step there. A process that waits for the folder makes it again.
    """
    for path in (folder / written.FILE, *folder.glob(f"{FILE}.*"), folder / FILE):
        path.unlink(missing_ok=True)
    with suppress(OSError):  # not empty: a user's file, or another process has just taken it
        folder.rmdir()


def is_held(folder: Path) -> bool:
    """Whether a living process holds `folder`: it has not ended on this machine, and has renewed its lease recently."""
    state = _state(folder / FILE)
    if state is None or _has_ended(SoftFileLease(folder / FILE).owner):
        return False
    return abs(time.time() - state[1] / 1e9) < LEASE_SECONDS + _CLOCKS_DIFFER_SECONDS


def _state(path: Path) -> tuple[int, int] | None:
    """A value that identifies a lease and its last renewal; None if there is no lease."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _remove(path: Path, state: tuple[int, int]) -> bool:
    """Remove a lease in this state; False if that fails, or if another process has renewed or replaced it."""
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
    """This machine as the library records it; in a container with its namespace of process ids."""
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        namespace = _INITIAL_NAMESPACE
    return socket.gethostname() + ("" if namespace == _INITIAL_NAMESPACE else f"?pidns-{namespace:x}")
