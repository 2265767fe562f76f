"""Queues that submitit serves: a Slurm cluster, and this machine."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusion_lab.sweeps.jobs import Call, JobError, Queue

if TYPE_CHECKING:
    from submitit import Job
    from submitit.core.core import Executor

_ANSWER_SECONDS = 60
_EXIT_SECONDS = 30
_FOREVER = 60 * 24 * 365  # minutes


class SlurmQueue(Queue):
    """A cluster, which holds and requeues jobs itself.

    sbatch: options of submitit's Slurm executor, which are those of sbatch with underscores.
    max_num_timeout: how often a job may reach its time limit and be put back into the queue.
    """

    def __init__(self, folder: Path, sbatch: Mapping[str, Any], max_num_timeout: int) -> None:
        self.folder, self.sbatch, self.max_num_timeout = folder, dict(sbatch), max_num_timeout
        self.tasks: int = sbatch["nodes"] * sbatch["ntasks_per_node"]

    def room(self, running: int) -> int:
        """All at once: Slurm itself keeps to `array_parallelism`."""
        return 1_000_000

    def submit(self, calls: Sequence[Call]) -> list[str]:
        from submitit import SlurmExecutor

        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            raise JobError(
                "there is no Slurm on this machine (no sbatch or srun on the PATH): run this on a cluster's login node, "
                "or look at the script with slurm.dry_run=true"
            )
        executor = SlurmExecutor(folder=self.folder, max_num_timeout=self.max_num_timeout)
        executor.update_parameters(**self.sbatch)
        return [job.job_id for job in _submitted(executor, calls)]

    def living(self) -> Collection[str] | None:
        answer = _ask("squeue", "--me", "--array", "--noheader", "--format=%i")
        return None if answer is None else answer.split()

    def fate(self, job: str) -> str:
        shown = _ask("scontrol", "show", "job", job, "--oneliner") or ""
        found = re.search(r"JobState=(\w+).* ExitCode=(\d+):(\d+)", shown)
        if found is None:
            return "it left Slurm's queue without a word"
        state, code, signum = found[1], int(found[2]), int(found[3])
        # A shell that waited for what a signal ended returns 128 more than the signal.
        ended = next((f" after {each.name}" for each in signal.Signals if each in (signum, code - 128)), "")
        return f"Slurm says {state}{ended}"

    def close(self) -> None:
        """Slurm sees to it."""

    def script(self, num_jobs: int) -> str:
        """What `submit` would hand to sbatch for so many calls. Needs no Slurm."""
        from submitit.slurm.slurm import _make_sbatch_string

        command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(self.folder))}"
        array = {"map_count": num_jobs} if num_jobs > 1 else {}
        return _make_sbatch_string(command=command, folder=self.folder, **array, **self.sbatch)


class LocalQueue(Queue):
    """This machine: `parallel` jobs at a time, which share its cores evenly and take turns among its `gpus`."""

    tasks = 1

    def __init__(self, folder: Path, parallel: int, gpus: int, gpus_per_job: int) -> None:
        self.folder, self.parallel, self.gpus, self.gpus_per_job = folder, parallel, gpus, gpus_per_job
        self._jobs: dict[str, tuple[Job[None], int]] = {}  # with the slot, 0 … parallel - 1, that each takes

    def room(self, running: int) -> int:
        return self.parallel - len(self.living())

    def submit(self, calls: Sequence[Call]) -> list[str]:
        from submitit import LocalExecutor

        taken = {slot for job, slot in self._jobs.values() if not job.done()}
        free = [slot for slot in range(self.parallel) if slot not in taken]
        names = []
        for call, slot in zip(calls, free[: len(calls)], strict=True):
            executor = LocalExecutor(folder=self.folder)
            gpus = sorted(
                {(slot * self.gpus_per_job + k) % self.gpus for k in range(self.gpus_per_job)} if self.gpus else ()
            )
            executor.update_parameters(
                timeout_min=_FOREVER, stderr_to_stdout=True, gpus_per_node=len(gpus), visible_gpus=tuple(gpus)
            )
            with _threads(max(1, (os.cpu_count() or 1) // self.parallel)):
                (job,) = _submitted(executor, [call])
            self._jobs[job.job_id] = (job, slot)
            names.append(job.job_id)
        return names

    def living(self) -> Collection[str]:
        return [name for name, (job, _) in self._jobs.items() if not job.done()]

    def fate(self, job: str) -> str:
        return "its process was killed"

    def close(self) -> None:
        deadline = time.monotonic() + _EXIT_SECONDS
        while self.living() and time.monotonic() < deadline:
            time.sleep(0.05)


def _submitted(executor: Executor, calls: Sequence[Call]) -> list[Job[None]]:
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor.folder.mkdir(parents=True, exist_ok=True)
    try:
        return executor.submit_array(calls)
    except (FailedJobError, FailedSubmissionError) as error:
        raise JobError(f"the queue refuses: {' '.join(str(error).split())}") from error


def _ask(*command: str) -> str | None:
    """What a command of Slurm prints; None if it fails or says nothing for a minute."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


@contextmanager
def _threads(number: int):
    """What starts in the block uses so many threads, unless the user has said how many."""
    mine = "OMP_NUM_THREADS" not in os.environ
    if mine:
        os.environ["OMP_NUM_THREADS"] = str(number)
    try:
        yield
    finally:
        if mine:
            del os.environ["OMP_NUM_THREADS"]
