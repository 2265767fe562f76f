"""Processes of this machine: which one an id means, whether it runs, and how ranks end with the command that started them.

A process id alone identifies no process: ids are used again, and a container gives out the same ones each time it starts.
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

PARENT = "DIFFUSION_LAB_PARENT"  # the variable of a rank that holds the id of the command that started it
_LOOK_SECONDS = 0.5


def end_with_parent() -> bool:
    """If PARENT is set, kill this process and those that it starts soon after its parent died, for whatever reason.

    Returns whether it is set. A thread does it, because the main one may be blocked in a collective. Not prctl(PR_SET_PDEATHSIG),
    which only Linux has, and which leaves the processes that load data.
    """
    parent = os.environ.pop(PARENT, None)  # what this process starts has another parent
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
    """A process: its id, with the machine and the time of its start, which make it unique.

    machine: where the id means something, which is one boot of a kernel and one namespace of ids.
    started: when, on the clock of that machine; None: not known.
    """

    machine: str
    pid: int
    started: str | None

    @classmethod
    def of(cls, pid: int) -> Process:
        """The living process with this id on this machine."""
        return cls(_machine(), pid, _started(pid))

    def lives(self) -> bool:
        """Whether it runs, on this machine."""
        started = _started(self.pid)
        same = None in (started, self.started) or started == self.started
        return self.machine == _machine() and is_running(self.pid) and same


def is_running(pid: int) -> bool:
    """Whether a process of this machine has this id; not one that has ended and whose parent has not waited for it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # there is one, of another user
    return _started(pid) != ""


@cache
def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str | None:
    """When the process with this id started, in ticks since the boot; "" for one that has ended and whose parent has not waited.

    None where the system does not tell (no /proc), or there is none.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "" if state in "ZX" else fields[18]
