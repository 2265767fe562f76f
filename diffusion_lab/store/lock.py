"""One writer of a folder: filelock's lease `<folder>.lock` beside it (`SoftFileLease`), which needs no locks of the file system.

The library renews the lease, replaces at once one whose process has ended on this machine, and any other that was not renewed
for LEASE_SECONDS. A process that was stopped that long and has lost its folder reports it and ends (`on_compromise`).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import gethostname

from filelock import LeaseCompromise, SoftFileLease, Timeout

from diffusion_lab.store.files import make_folders

LEASE_SECONDS = 120.0
_HEARTBEAT_SECONDS = 15.0
_POLL_SECONDS = 0.5


def lock_of(folder: Path) -> Path:
    """The lock file of a folder."""
    return folder.with_name(f"{folder.name}.lock")


@contextmanager
def hold(folder: Path, waiting: Callable[[str], None], sleep: Callable[[float], None] = time.sleep) -> Iterator[None]:
    """Hold `folder`, which need not exist, during the block, so that no other process does.

    If a living process holds it, `waiting`, which may raise, is called once with the name of the holder; then this waits for it to
    end. OSError if the folder above it cannot be written.
    """
    make_folders(folder.parent)
    lease, said = _lease(folder), False
    while True:
        with suppress(Timeout):
            lease.acquire(blocking=False)
            break
        if not said and is_held(folder) and (owner := lease.owner) is not None:
            waiting(f"process {owner.pid} on {owner.hostname.partition('?')[0]}")
            said = True
        sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        with suppress(OSError):
            lease.release()


def is_held(folder: Path) -> bool:
    """Whether a living process holds `folder`: it has renewed its lease recently, and has not ended on this machine."""
    try:
        recent = time.time() - lock_of(folder).stat().st_mtime < 2 * LEASE_SECONDS
    except OSError:
        return False
    owner = _lease(folder).owner
    is_here = owner is not None and owner.hostname.partition("?")[0] == gethostname()
    return recent and not (owner is not None and is_here and not _exists(owner.pid))


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # of another user
    return True


def _lease(folder: Path) -> SoftFileLease:
    def lost(compromise: LeaseCompromise) -> None:
        print(f"{folder} is no longer held ({compromise.reason}): this process ends", file=sys.stderr, flush=True)
        os._exit(1)  # whatever it is doing, it writes nothing more

    return SoftFileLease(
        lock_of(folder),
        lease_duration=LEASE_SECONDS,
        heartbeat_interval=_HEARTBEAT_SECONDS,
        on_compromise=lost,
        thread_local=False,
    )
