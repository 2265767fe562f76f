"""Ranks and jobs that end with the command that started them."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress

PARENT = "DIFFUSION_LAB_PARENT"  # the variable of a rank or a job with the id of the command that started it
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
        os.killpg(os.getpid(), signal.SIGKILL)  # each rank and each job leads a process group
    os._exit(1)
