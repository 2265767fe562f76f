"""status.json: the state and progress of the work in a folder, and how it ended. Does not import torch.

Slurm reports a job that failed inside Hydra as COMPLETED, and a killed process reports nothing. So each process records its own
state, and a reader of "running" checks the lock for a living process.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from diffusion_lab.store.files import PlaceError, write_whole
from diffusion_lab.store.lock import is_held
from diffusion_lab.store.records import RunError, Whole, inside, read_json

FILE = "status.json"
SECONDS_BETWEEN_STEPS = 3.0
RUNNING, DONE, FAILED, INTERRUPTED = "running", "done", "failed", "interrupted"


@dataclass(frozen=True)
class Status:
    """The state and progress of work in a folder.

    state: running, done, failed, or interrupted (it resumes when started again); no file: never started.
    step of steps: progress; None if nothing is counted. first: the first step that this process counted.
    reason: of a failure or interruption, in one sentence. host, pid: of the process.
    started, updated: seconds since 1970. command: that began it; empty if unknown.
    """

    state: Annotated[str, Field(pattern=f"^({RUNNING}|{DONE}|{FAILED}|{INTERRUPTED})$")]
    step: Whole | None = None
    steps: Whole | None = None
    reason: str | None = None
    host: str = ""
    pid: int = 0
    started: float = 0.0
    updated: float = 0.0
    first: Whole | None = None
    command: str = ""

    @classmethod
    def begin(cls, steps: int | None = None, command: str = "") -> Status:
        """A status `running` that begins now, in this process."""
        now = time.time()
        host, pid = socket.gethostname(), os.getpid()
        return cls(RUNNING, steps=steps, host=host, pid=pid, started=now, updated=now, command=command)

    def now(self, state: str, step: int | None = None, reason: str | None = None) -> Status:
        """The status of the same work now; `step` None keeps the last one."""
        step = self.step if step is None else step
        first = step if self.first is None else self.first
        return replace(self, state=state, step=step, first=first, reason=reason, updated=time.time())

    def write(self, folder: Path) -> None:
        write_whole(folder / FILE, json.dumps(asdict(self), indent=2).encode())


_STATUS = TypeAdapter(Status)


def read_status(folder: Path) -> Status | None:
    """The state of the work in `folder`; None without any. If the process of running work has ended, the state is failed."""
    status = written_status(folder)
    if status is not None and status.state == RUNNING and not is_held(folder):
        status = written_status(folder)  # it may have ended properly meanwhile
        if status is not None and status.state == RUNNING:
            return replace(
                status, state=FAILED, reason=f"process {status.pid} on {status.host} ended without giving a reason"
            )
    return status


def written_status(folder: Path) -> Status | None:
    """The last recorded state, whether or not its process still runs; None if the file is missing or invalid."""
    try:
        return _STATUS.validate_python(read_json(inside(folder.parent, folder / FILE)))
    except (OSError, RunError, ValidationError):
        return None


class Announcement:
    """Keeps status.json of `folder` up to date while the block runs: running, then done, failed or interrupted.

    KeyboardInterrupt, SystemExit and signals interrupt it; running the same command again resumes it.
    """

    def __init__(self, folder: Path, steps: int | None = None, command: str = "") -> None:
        self._folder, self._steps, self.command = folder, steps, command

    def __enter__(self) -> Announcement:
        self._status = Status.begin(self._steps, self.command)
        self._status.write(self._folder)
        return self

    def step(self, step: int) -> None:
        """Record the step; it is written within seconds."""
        last = self._status.updated
        if time.time() - last >= SECONDS_BETWEEN_STEPS:
            self._status = self._status.now(RUNNING, step)
            self._status.write(self._folder)
        else:
            first = step if self._status.first is None else self._status.first
            self._status = replace(self._status, step=step, first=first)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            ended = self._status.now(DONE)
        else:
            ended = self._status.now(FAILED if isinstance(error, Exception) else INTERRUPTED, reason=_reason_of(error))
        try:
            ended.write(self._folder)
        except (OSError, PlaceError):
            if error is None:  # the first error is the one to show
                raise


def _reason_of(error: BaseException) -> str:
    """An error in one sentence. A process ended by a signal has no message, but the exit code 128 plus the signal."""
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        for signum in signal.Signals:
            if error.code == 128 + signum:
                return f"{signum.name}; run the same command again to resume"
    return " ".join(f"{error}".split()) or type(error).__name__
