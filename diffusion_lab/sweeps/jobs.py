"""Jobs in processes of their own: hand them to a queue, wait for all of them, learn how each ended.

Files of a job called <id>, all in one folder:

    <id>_job.json              its options, written when it is submitted: how a later command finds a job that still runs
    <id>_<rank>_outcome.json   how each of its processes ended
    <id>_<rank>_log.out        what they printed

Nothing is pickled on the way back, so whatever a job raises can be told; and a job that vanished is told from one that ended.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_lab.runs import RunError, read_json, write_json

_POLL_SECONDS = 0.5
_ASK_AGAIN = 1.5  # ask the queue at growing intervals, …
_ASK_SECONDS = (2.0, 30.0)  # … from the first to the second: a cluster's controller serves everybody


class JobError(RunError):
    """A job failed; the message is its reason."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended. value: what it returned, a number or None. reason: one sentence why it failed; None: it did not."""

    value: float | None = None
    reason: str | None = None

    def write(self, folder: Path, job: str, rank: int) -> None:
        write_json(outcome_file(folder, job, rank), {"value": self.value, "reason": self.reason})


class Call(ABC):
    """Something to run in each of a job's processes; can be pickled.

    options: what sets it apart from other calls. accelerator, devices: what it asks for, as trainer.accelerator and
    trainer.devices say it; None: nothing is said.
    """

    options: tuple[str, ...]
    accelerator: str
    devices: int | str | Sequence[int] | None

    @abstractmethod
    def __call__(self) -> None:
        """Run, write the outcome; exit with a status other than 0 where it failed."""


class Queue(ABC):
    """Where jobs run. folder: of their files, on a file system that they see. tasks: processes a job."""

    folder: Path
    tasks: int

    @abstractmethod
    def room(self, waiting: Sequence[Call]) -> int:
        """How many of these calls, the first ones, may be submitted now."""

    @abstractmethod
    def submit(self, calls: Sequence[Call]) -> list[str]:
        """Names of the jobs that will make these calls. JobError if the queue refuses."""

    @abstractmethod
    def place(self, job: str) -> str | None:
        """Where a job runs, if it is the queue that chooses."""

    @abstractmethod
    def living(self) -> Collection[str] | None:
        """Names of the jobs that wait or run; None: the queue does not answer at the moment."""

    @abstractmethod
    def fate(self, job: str) -> str:
        """One sentence on a job that ended without an outcome."""

    @abstractmethod
    def close(self) -> None:
        """Called when every job has told its outcome; its process may still be on its way out."""


def outcome_file(folder: Path, job: str, rank: int) -> Path:
    return folder / f"{job}_{rank}_outcome.json"


def log_file(folder: Path, job: str) -> Path:
    """What the first process of a job printed; the name is submitit's."""
    return folder / f"{job}_0_log.out"


def run_jobs(calls: Sequence[Call], queue: Queue, say: Callable[[str], None]) -> list[Outcome]:
    """Make every call in a job of its own and wait until all have ended; outcomes in the order of the calls.

    A call that a job makes already (of an earlier command that died or was stopped) is not made again: this waits for that job.
    """
    running = _attached(calls, queue)
    for job in running:
        say(f"job {job} runs already; its log is {log_file(queue.folder, job)}")
    waiting = deque(index for index in range(len(calls)) if index not in running.values())
    outcomes: dict[int, Outcome] = {}
    asked, pause, suspects = time.monotonic(), _ASK_SECONDS[0], frozenset[str]()
    while waiting or running:
        batch = [waiting.popleft() for _ in range(queue.room([calls[index] for index in waiting]))]
        if batch:
            submitted = queue.submit([calls[index] for index in batch])
            for job, index in zip(submitted, batch, strict=True):
                write_json(_job_file(queue.folder, job), {"options": list(calls[index].options)})
                running[job] = index
            places = [f" ({place})" if (place := queue.place(job)) else "" for job in submitted]
            named = [name + place for name, place in zip(submitted, places, strict=True)]
            say(f"submitted as {', '.join(named)}; logs in {queue.folder}")
        time.sleep(_POLL_SECONDS)
        lost: frozenset[str] = frozenset()
        if time.monotonic() - asked >= pause:
            living = queue.living()
            gone = frozenset() if living is None else frozenset(running).difference(living)
            # Twice, because a job may have ended a moment ago and its files take a while on a network.
            suspects, lost = gone, gone & suspects
            asked, pause = time.monotonic(), min(_ASK_AGAIN * pause, _ASK_SECONDS[1])
        for job in list(running):
            outcome = _outcome(queue, job, gone=job in lost)
            if outcome is not None:
                outcomes[running.pop(job)] = outcome
                if outcome.reason is not None:
                    say(f"job {job} failed: {outcome.reason}")
    queue.close()
    return [outcomes[index] for index in range(len(calls))]


def _attached(calls: Sequence[Call], queue: Queue) -> dict[str, int]:
    """Job -> index of the call that it makes, for the jobs that live and make one of these calls."""
    wanted = {call.options: index for index, call in enumerate(calls)}
    found: dict[str, int] = {}
    for job in queue.living() or ():
        file = _job_file(queue.folder, job)
        if file.is_file():
            index = wanted.pop(tuple(read_json(file)["options"]), None)
            if index is not None:
                found[job] = index
    return found


def _outcome(queue: Queue, job: str, gone: bool) -> Outcome | None:
    """How a job ended; None: it has not. One process that failed makes a failed job; the value is that of the first."""
    written: list[dict[str, Any]] = []
    for rank in range(queue.tasks):
        file = outcome_file(queue.folder, job, rank)
        if file.is_file():
            written.append(json.loads(file.read_bytes()))
    failed = [outcome for outcome in written if outcome["reason"] is not None]
    if failed:
        return Outcome(**failed[0])
    if len(written) == queue.tasks:
        return Outcome(**written[0])
    return Outcome(reason=f"{queue.fate(job)}; its log is {log_file(queue.folder, job)}") if gone else None


def _job_file(folder: Path, job: str) -> Path:
    return folder / f"{job}_job.json"
