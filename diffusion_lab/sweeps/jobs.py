"""Jobs in separate processes: submitted to a queue, waited for, and found again by later commands.

Jobs report through files in one folder (store/places.py). No results are pickled, so any exception can be
reported, and a job that vanished can be distinguished from one that ended.
"""

from __future__ import annotations

import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from diffusion_lab.store import RunError, read_json, write_json
from diffusion_lab.store.places import by_job, job_file, log_file, outcome_file, process_file
from diffusion_lab.store.processes import Process

_POLL_SECONDS = 0.5
_ASK_AGAIN = 1.5  # factor by which the interval between queries of a shared queue grows, …
_ASK_SECONDS = (2.0, 30.0)  # … from the first to the second number of seconds
_ANSWER_SECONDS = 60


class JobError(RunError):
    """A job failed; the message is its reason."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a job. value: its result, a number or None. reason: of its failure, in one sentence; None for success."""

    value: float | None = None
    reason: str | None = None

    def write(self, folder: Path, job: str, rank: int) -> None:
        write_json(outcome_file(folder, job, rank), {"value": self.value, "reason": self.reason})


class Call(ABC):
    """A picklable function to run in each process of a job.

    makes: names of its results, by which a later command finds the job. directory: of its log. code: the copy that it runs from.
    resources: requested of the queue.
    """

    makes: tuple[str, ...]
    directory: str = ""
    code: str = ""
    resources: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def __call__(self) -> None:
        """Run and write the outcome; exit with a non-zero status on failure."""


class Queue(ABC):
    """A queue of jobs: a class named in conf/hydra/launcher/NAME.yaml, with its options.

    folder: for the files of jobs, on a file system that the jobs can access. may_be_left: whether it is a cluster, which has
    its own devices, starts jobs after the command has ended, and is queried rarely, because others use it too.
    dry_run: print the `script` of the jobs instead of submitting them.
    """

    folder: Path
    may_be_left: bool
    dry_run: bool = False

    def resources(self, accelerator: str, devices: int | str | Sequence[int] | None) -> Mapping[str, Any]:
        """Resources that a job with these devices requests. JobError if the queue lacks them."""
        return {}

    def summary(self, resources: Mapping[str, Any]) -> str:
        """The request of a job in words, for the plan of a sweep; empty to show nothing."""
        return ""

    def script(self, call: Call, num_jobs: int) -> str:
        """The script that would be submitted for `num_jobs` calls like this one."""
        raise NotImplementedError

    @abstractmethod
    def room(self, waiting: Sequence[Call]) -> int:
        """How many of these calls, counted from the first, can be submitted together now."""

    @abstractmethod
    def submit(self, calls: Sequence[Call]) -> list[str]:
        """Submit calls for which there is room; returns the names of their jobs. JobError if the queue rejects them."""

    def tasks(self, call: Call) -> int:
        """The number of processes of the call's job, each of which writes an outcome."""
        return 1

    def place(self, job: str) -> str | None:
        """The place where a job runs, if it is known at submission."""
        return None

    @abstractmethod
    def active_jobs(self) -> Collection[str] | None:
        """Names of pending and running jobs; None if the queue does not respond."""

    @abstractmethod
    def failure_reason(self, job: str) -> str:
        """One sentence on a job that ended without an outcome."""

    def close(self) -> None:  # noqa: B027 - a cluster needs nothing
        """Called when every job has written its outcome; processes may still be exiting."""


def run_jobs(
    calls: Sequence[Call],
    queue: Queue,
    say: Callable[[str], None],
    wait: bool = True,
) -> list[Outcome]:
    """Run each call in a job of its own and wait for all; returns outcomes in the order of the calls.

    If a job of an earlier command that died or was detached already makes a result, wait for that job instead.
    wait=False: submit everything and return, if the queue allows it.
    """
    submission = _Submission(calls, queue, say)
    submission.submit_ready()
    if not wait:
        return []
    first, longest = _ASK_SECONDS if queue.may_be_left else (0.0, 0.0)
    queried, pause, suspects = time.monotonic(), first, frozenset[str]()
    while submission.waiting or submission.running:
        time.sleep(_POLL_SECONDS)
        lost: frozenset[str] = frozenset()
        if time.monotonic() - queried >= pause:
            active = queue.active_jobs()
            gone = frozenset() if active is None else frozenset(submission.running).difference(active)
            # Twice, because a job may just have ended and its files may be delayed on a network.
            suspects, lost = gone, gone & suspects
            queried, pause = time.monotonic(), min(_ASK_AGAIN * pause, longest)
        submission.collect(lost)
        submission.submit_ready()
    queue.close()
    return [submission.outcomes[index] for index in range(len(calls))]


class _Submission:
    """Calls in progress: waiting (indices), running (job -> index), then with an outcome."""

    def __init__(self, calls: Sequence[Call], queue: Queue, say: Callable[[str], None]) -> None:
        self._calls, self._queue, self._say = calls, queue, say
        self._tasks: dict[str, int] = {}
        self.running: dict[str, int] = {}
        self.outcomes: dict[int, Outcome] = {}
        resources = [call.resources for call in calls]
        self.waiting = sorted(range(len(calls)), key=lambda index: resources.index(calls[index].resources))
        known = submitted(queue.folder)
        for job in queue.active_jobs() or ():
            made = {*known[job].makes} if job in known else set()
            index = next((index for index in self.waiting if made.issuperset(calls[index].makes)), None)
            if index is not None:
                say(f"job {job} is already running; its log is {log_file(queue.folder, job)}")
                self._started(job, known[job], index)

    def submit_ready(self) -> None:
        """Submit waiting calls while there is room."""
        names: list[str] = []
        while room := self._queue.room([self._calls[index] for index in self.waiting]) if self.waiting else 0:
            batch = self.waiting[:room]
            jobs = self._queue.submit([self._calls[index] for index in batch])
            for job, index in zip(jobs, batch, strict=True):
                call = self._calls[index]
                about = Submitted(call.makes, call.directory, call.code, self._queue.tasks(call))
                about.write(self._queue.folder, job)
                self._started(job, about, index)
            names += jobs
        if names:
            places = [f" ({place})" if (place := self._queue.place(job)) else "" for job in names]
            named = [name + place for name, place in zip(names, places, strict=True)]
            self._say(f"submitted as {', '.join(named)}; logs in {self._queue.folder}")

    def collect(self, lost: Collection[str]) -> None:
        """Collect the outcomes of jobs that have ended. lost: jobs that the queue no longer has."""
        for job in list(self.running):
            outcome = self._outcome(job, gone=job in lost)
            if outcome is not None:
                self.outcomes[self.running.pop(job)] = outcome
                if outcome.reason is not None:
                    self._say(f"job {job} failed: {outcome.reason}")

    def _started(self, job: str, about: Submitted, index: int) -> None:
        self.running[job], self._tasks[job] = index, about.tasks
        self.waiting.remove(index)

    def _outcome(self, job: str, gone: bool) -> Outcome | None:
        """The outcome of a job; None while it runs. A job fails if one of its processes does; its value is the first one's."""
        folder, written = self._queue.folder, []
        for rank in range(self._tasks[job]):
            file = outcome_file(folder, job, rank)
            if file.is_file():
                written.append(Outcome(**read_json(file, is_own=True)))
        failed = [outcome for outcome in written if outcome.reason is not None]
        if failed or len(written) == self._tasks[job]:
            return [*failed, *written][0]
        return (
            Outcome(reason=f"{self._queue.failure_reason(job)}; its log is {log_file(folder, job)}") if gone else None
        )


@dataclass(frozen=True)
class Submitted:
    """A job in a queue.

    makes: names of its results. directory: of its log. code: the copy that it runs from. tasks: the number of its processes.
    """

    makes: tuple[str, ...]
    directory: str
    code: str
    tasks: int

    def write(self, folder: Path, job: str) -> None:
        write_json(job_file(folder, job), asdict(self))


def submitted(folder: Path) -> dict[str, Submitted]:
    """Name -> job, for all jobs with files in `folder`."""
    found = {}
    for name, file in by_job(folder, job_file).items():
        content = read_json(file, is_own=True)
        found[name] = Submitted(**{**content, "makes": tuple(content["makes"])})
    return found


def running_here(folder: Path) -> dict[str, tuple[Process, dict[str, Any]]]:
    """Job -> (process, place), for the running jobs of this machine."""
    found = {}
    for name, file in by_job(folder, process_file).items():
        content = read_json(file, is_own=True)
        process = Process(**content["process"])
        if process.lives():
            found[name] = (process, content["place"])
    return found


def in_slurm(folder: Path) -> dict[str, str] | None:
    """Job -> PENDING, RUNNING, …, for the jobs submitted from `folder` that Slurm still has; None if it does not respond."""
    answer = ask("squeue", "--me", "--array", "--noheader", "--format=%i %T %o")
    if answer is None:
        return None
    lines = (line.split(maxsplit=2) for line in answer.splitlines())
    return {line[0]: line[1] for line in lines if len(line) == 3 and Path(line[2]).parent.resolve() == folder.resolve()}


def queue_states(folder: Path) -> dict[str, str]:
    """Name of a model or a cell -> Slurm's state of the job that makes it; empty without Slurm."""
    jobs = submitted(folder)
    states = in_slurm(folder) if _of_slurm(folder, jobs) else None
    return {made: state for name, state in (states or {}).items() if name in jobs for made in jobs[name].makes}


def ways_to_stop(folder: Path, jobs: Collection[str]) -> list[str]:
    """Commands that end those of these jobs that run or wait, on this machine and in Slurm. The jobs save first."""
    here = [str(process.pid) for name, (process, _) in running_here(folder).items() if name in jobs]
    in_queue = (in_slurm(folder) or {}).keys() & jobs if _of_slurm(folder, jobs) else ()
    arrays = sorted({name.partition("_")[0] for name in in_queue})  # an array belongs to one sweep
    return [" ".join(words) for words in (["kill", *here], ["scancel", *arrays]) if len(words) > 1]


def _of_slurm(folder: Path, jobs: Collection[str]) -> bool:
    """Whether any of these jobs was submitted to a cluster."""
    return any(not process_file(folder, job).is_file() for job in jobs)


def ask(*command: str, seconds: float = _ANSWER_SECONDS) -> str | None:
    """The output of a Slurm command; None if it fails or does not respond in time."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
