"""Jobs in processes of their own: hand them to a queue, wait for all of them, learn how each ended.

Jobs report through files in one folder: see runs/jobs.py. Nothing is pickled on the way back, so any exception of a job can be
reported, and a job that vanished can be told from one that ended.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from diffusion_lab.runs import RunError, write_json
from diffusion_lab.runs.jobs import log_file, outcome_file
from diffusion_lab.sweeps.submitted import Submitted, cancel, submitted

_POLL_SECONDS = 0.5
_ASK_AGAIN = 1.5  # query a queue that others use too at growing intervals, …
_ASK_SECONDS = (2.0, 30.0)  # … from the first to the second
_DEPENDENCY_FAILED = "the job that it depends on failed"


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

    options: what sets it apart from other calls. directory: of its log. code: the copy that it runs from. resources: what its job
    requests of the queue. depends_on: the index, among the calls that are made together, of the one that must end well before this
    one begins.
    """

    options: tuple[str, ...]
    directory: str = ""
    code: str = ""
    resources: Mapping[str, Any] = MappingProxyType({})
    depends_on: int | None = None

    @abstractmethod
    def __call__(self) -> None:
        """Run, write the outcome; exit with a status other than 0 where it failed."""


class Queue(ABC):
    """Where jobs run. folder: of their files, on a file system that they see.

    supports_dependencies: whether the queue itself keeps a job waiting until the one that it depends on has ended well, so that no
    command has to stay for that. is_shared: whether other users use it too, as a cluster's controller, so it is queried rarely.
    """

    folder: Path
    supports_dependencies: bool
    is_shared: bool = True

    @abstractmethod
    def room(self, waiting: Sequence[Call]) -> int:
        """How many of these calls, the first ones, may be submitted together now."""

    @abstractmethod
    def submit(self, calls: Sequence[Call], after: str | None) -> dict[str, Submitted]:
        """Name -> job, in the order of the calls, for which there is room. JobError if the queue refuses.

        after: the job that must end well first; only where the queue supports dependencies.
        """

    @abstractmethod
    def place(self, job: str) -> str | None:
        """Where a job runs, if it is the queue that chooses."""

    @abstractmethod
    def active_jobs(self) -> Collection[str] | None:
        """Names of the jobs that wait or run; None: the queue does not answer at the moment."""

    @abstractmethod
    def failure_reason(self, job: str) -> str:
        """One sentence on a job that ended without an outcome."""

    @abstractmethod
    def close(self) -> None:
        """Called when every job has written its outcome; its process may still be on its way out."""


def run_jobs(
    calls: Sequence[Call], queue: Queue, say: Callable[[str], None], cancelled: Callable[[], bool] = lambda: False
) -> list[Outcome]:
    """Make every call in a job of its own and wait until all have ended; outcomes in the order of the calls.

    A call begins as soon as the one that it depends on has ended well. One that a job makes already (of an earlier command that
    died or was left) is not made again: this waits for that job. cancelled: whether somebody asked that nothing more be submitted.
    """
    submission = _Submission(calls, queue, say, cancelled)
    first, longest = _ASK_SECONDS if queue.is_shared else (0.0, 0.0)
    queried, pause, suspects = time.monotonic(), first, frozenset[str]()
    while submission.submit_ready() or submission.running:
        time.sleep(_POLL_SECONDS)
        lost: frozenset[str] = frozenset()
        if time.monotonic() - queried >= pause:
            active = queue.active_jobs()
            gone = frozenset() if active is None else frozenset(submission.running).difference(active)
            # Twice, because a job may have ended a moment ago and its files take a while on a network.
            suspects, lost = gone, gone & suspects
            queried, pause = time.monotonic(), min(_ASK_AGAIN * pause, longest)
        submission.collect(lost)
    queue.close()
    return [submission.outcomes[index] for index in range(len(calls))]


def submit_jobs(calls: Sequence[Call], queue: Queue, say: Callable[[str], None]) -> None:
    """Submit every call that no job makes yet and wait for none; the queue must support dependencies."""
    _Submission(calls, queue, say, lambda: False).submit_ready()


class _Submission:
    """Calls on their way: waiting (indices), running (job -> index), then with an outcome."""

    def __init__(
        self, calls: Sequence[Call], queue: Queue, say: Callable[[str], None], cancelled: Callable[[], bool]
    ) -> None:
        self._calls, self._queue, self._say, self._cancelled = calls, queue, say, cancelled
        resources = [call.resources for call in calls]
        self._kind = [resources.index(call.resources) for call in calls]
        self._jobs: dict[int, str] = {}
        self._tasks: dict[str, int] = {}
        self.running: dict[str, int] = {}
        self.outcomes: dict[int, Outcome] = {}
        self._attach()
        self.waiting = [index for index in range(len(calls)) if index not in self._jobs]

    def submit_ready(self) -> bool:
        """Submit what may begin, as far as there is room; what depends on a failed call has failed. True if some still wait."""
        for index in [index for index in self.waiting if self._dependency_failed(index)]:
            self._drop(index, _DEPENDENCY_FAILED)
        names: list[str] = []
        while batch := self._batch():
            if self._cancelled():
                for index in list(self.waiting):
                    self._drop(index, "cancelled before it started; run the same command again to submit it")
            else:
                names += self._submit(batch)
        if names:
            places = [f" ({place})" if (place := self._queue.place(job)) else "" for job in names]
            named = [name + place for name, place in zip(names, places, strict=True)]
            self._say(f"submitted as {', '.join(named)}; logs in {self._queue.folder}")
        return bool(self.waiting)

    def collect(self, lost: Collection[str]) -> None:
        """Take the outcomes of the jobs that have ended. lost: those that the queue does not have any more."""
        for job, index in list(self.running.items()):
            if self._dependency_failed(index):  # the queue will never begin it
                del self.running[job]
                self.outcomes[index] = Outcome(reason=_DEPENDENCY_FAILED)
                continue
            outcome = self._outcome(job, gone=job in lost)
            if outcome is not None:
                self.outcomes[self.running.pop(job)] = outcome
                if outcome.reason is not None:
                    self._say(f"job {job} failed: {outcome.reason}")

    def _attach(self) -> None:
        """Find the active jobs that make one of these calls; what depends on a call that begins again begins again too."""
        wanted = {call.options: index for index, call in enumerate(self._calls)}
        known = submitted(self._queue.folder)
        active = [job for job in self._queue.active_jobs() or () if job in known]
        found = {wanted[known[job].options]: job for job in active if known[job].options in wanted}
        for index, job in sorted(found.items()):
            if self._calls[index].depends_on is None or self._calls[index].depends_on in found:
                self._jobs[index], self.running[job], self._tasks[job] = job, index, known[job].tasks
                self._say(f"job {job} is already running; its log is {log_file(self._queue.folder, job)}")

    def _batch(self) -> list[int]:
        """Calls to submit together: they may begin and wait for the same job. A cell goes before a model, equal ones together."""
        ready = sorted(
            filter(self._is_ready, self.waiting),
            key=lambda index: (self._calls[index].depends_on is None, self._kind[index]),
        )
        together = [index for index in ready if self._after(index) == self._after(ready[0])]
        return together[: self._queue.room([self._calls[index] for index in together])] if together else []

    def _submit(self, batch: Sequence[int]) -> Collection[str]:
        jobs = self._queue.submit([self._calls[index] for index in batch], self._after(batch[0]))
        for (job, about), index in zip(jobs.items(), batch, strict=True):
            about.write(self._queue.folder, job)
            self._jobs[index], self.running[job], self._tasks[job] = job, index, about.tasks
            self.waiting.remove(index)
        if self._cancelled():  # meanwhile, by somebody who did not see these
            cancel(self._queue.folder, jobs)
        return jobs

    def _after(self, index: int) -> str | None:
        """The job that this call must wait for."""
        dependency = self._calls[index].depends_on
        return None if dependency is None or dependency in self.outcomes else self._jobs.get(dependency)

    def _is_ready(self, index: int) -> bool:
        dependency = self._calls[index].depends_on
        return (
            dependency is None
            or dependency in self.outcomes
            or (self._queue.supports_dependencies and dependency in self._jobs)
        )

    def _dependency_failed(self, index: int) -> bool:
        dependency = self._calls[index].depends_on
        return dependency in self.outcomes and self.outcomes[dependency].reason is not None

    def _drop(self, index: int, reason: str) -> None:
        self.waiting.remove(index)
        self.outcomes[index] = Outcome(reason=reason)

    def _outcome(self, job: str, gone: bool) -> Outcome | None:
        """How a job ended; None: it has not. One process that failed makes a failed job; the value is that of the first."""
        folder, written = self._queue.folder, []
        for rank in range(self._tasks[job]):
            file = outcome_file(folder, job, rank)
            if file.is_file():
                written.append(json.loads(file.read_bytes()))
        failed = [outcome for outcome in written if outcome["reason"] is not None]
        if failed:
            return Outcome(**failed[0])
        if len(written) == self._tasks[job]:
            return Outcome(**written[0])
        return (
            Outcome(reason=f"{self._queue.failure_reason(job)}; its log is {log_file(folder, job)}") if gone else None
        )
