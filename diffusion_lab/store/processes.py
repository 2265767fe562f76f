"""Processes of this machine: identification, whether they run, and ranks that end with the command that started them.

A process id alone does not identify a process: ids are reused, and a container assigns the same ones each time it starts.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PARENT = "DIFFUSION_LAB_PARENT"  # the variable of a rank with the id of the command that started it
_LOOK_SECONDS = 0.5


def end_with_parent() -> bool:
    """If PARENT is set, kill this process and its children soon after its parent has died, for whatever reason.

    Returns whether it is set. Done by a thread, because the main one may be blocked in a collective. Not prctl(PR_SET_PDEATHSIG),
    which exists only in Linux and does not end the processes that load data.
    """
    parent = os.environ.pop(PARENT, None)  # children of this process have another parent
    if parent is not None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent prints the message
        threading.Thread(target=_outlast, args=(int(parent),), daemon=True).start()
    return parent is not None


def _outlast(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(os.getpid(), signal.SIGKILL)  # torchrun makes each rank the leader of a group
    os._exit(1)


@dataclass(frozen=True)
class Process:
    """A process, identified by its id, its machine and its time of start.

    machine: where the id is valid: one boot of a kernel and one namespace of ids.
    started: time of start on the machine's clock; None if unknown.
    """

    machine: str
    pid: int
    started: str | None

    @classmethod
    def of(cls, pid: int) -> Process:
        """The living process with this id on this machine."""
        return cls(_machine(), pid, _started(pid))

    def lives(self) -> bool:
        """Whether it is running on this machine."""
        started = _started(self.pid)
        same = None in (started, self.started) or started == self.started
        return self.machine == _machine() and is_running(self.pid) and same


def is_running(pid: int) -> bool:
    """Whether a process of this machine has this id, except one that has ended and was not yet waited for."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # exists, but belongs to another user
    return _started(pid) != ""


@cache
def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str | None:
    """The time of start of the process with this id, in ticks since boot; "" for one that has ended and was not yet waited for.

    None if the system does not provide it (no /proc), or there is no such process.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "" if state in "ZX" else fields[18]
