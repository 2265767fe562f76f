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
import uuid
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusion_lab.devices import Place, Request, requested
from diffusion_lab.processes import Process
from diffusion_lab.runs import read_json, write_json
from diffusion_lab.sweeps.jobs import Call, JobError, Queue

if TYPE_CHECKING:
    from submitit import Job
    from submitit.core.core import Executor

_ANSWER_SECONDS = 60
_EXIT_SECONDS = 30
_FOREVER = 60 * 24 * 365  # minutes
_PROCESS = "_process.json"


class SlurmQueue(Queue):
    """A cluster, which holds and requeues jobs itself.

    sbatch: options of submitit's Slurm executor, which are those of sbatch with underscores.
    max_num_timeout: how often a job may reach its time limit and be put back into the queue.
    """

    def __init__(self, folder: Path, sbatch: Mapping[str, Any], max_num_timeout: int) -> None:
        self.folder, self.sbatch, self.max_num_timeout = folder, dict(sbatch), max_num_timeout
        self.tasks: int = sbatch["nodes"] * sbatch["ntasks_per_node"]

    def room(self, waiting: Sequence[Call]) -> int:
        """All at once: Slurm itself keeps to `array_parallelism`."""
        return len(waiting)

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

    def place(self, job: str) -> None:
        """Slurm says it only when the job runs."""

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
    """This machine, and as many jobs at a time as its GPUs allow, or on the CPU its cores, which the jobs share evenly.

    gpus: the visible ones; each process of a job has one to itself. parallel: at most so many jobs at a time; None: one a
    GPU, or one process a core. A larger number is obeyed too: then jobs share the GPUs.

    <id>_process.json beside a job's other files says which process it is and where it runs: so a later command finds it
    while it lives.
    """

    tasks = 1

    def __init__(self, folder: Path, gpus: Sequence[str], num_cores: int, parallel: int | None) -> None:
        self.folder, self.gpus, self.num_cores, self.parallel = folder, gpus, num_cores, parallel
        self._own: dict[str, subprocess.Popen[bytes]] = {}
        self._places: dict[str, Place] = {}  # of each job
        self._earlier: dict[str, Process] = {}  # of other commands
        for file in folder.glob(f"*{_PROCESS}"):
            found = read_json(file)
            process, name = Process(**found["process"]), file.name.removesuffix(_PROCESS)
            if process.is_of_this_machine and process.lives():
                self._earlier[name], self._places[name] = process, Place(**found["place"])

    def request(self, call: Call) -> Request:
        """What a call asks of this machine. JobError, in one sentence, if it does not have it."""
        try:
            request = requested(call.accelerator, 1 if call.devices is None else call.devices, self.gpus)
        except ValueError as error:
            raise JobError(str(error)) from None
        if request.indices is not None:
            raise JobError(
                f"trainer.devices={call.devices}: jobs take turns on the devices, so give their number; "
                "CUDA_VISIBLE_DEVICES=… says which GPUs there are to share"
            )
        return request

    def room(self, waiting: Sequence[Call]) -> int:
        return len(self._free_places(waiting))

    def submit(self, calls: Sequence[Call]) -> list[str]:
        names = []
        for call, place in zip(calls, self._free_places(calls), strict=True):
            environment = {
                "OMP_NUM_THREADS": str(place.threads),
                **os.environ,
                "CUDA_VISIBLE_DEVICES": ",".join(place.gpus),
            }
            name = uuid.uuid4().hex[:12]  # not the process id: that comes again, and with it the files of an old job
            self._own[name], self._places[name] = _process(self.folder, name, call, environment), place
            process = Process.of(self._own[name].pid)
            write_json(self.folder / f"{name}{_PROCESS}", {"process": asdict(process), "place": asdict(place)})
            names.append(name)
        return names

    def place(self, job: str) -> str:
        return str(self._places[job])

    def _free_places(self, calls: Sequence[Call]) -> list[Place]:
        """Where the first of these calls may run beside what runs; those behind one that has to wait wait too."""
        taken = [self._places[name] for name in self.living()]
        found: list[Place] = []
        for request in [self.request(call) for call in calls]:  # all, before the first of them runs
            place = self._free(request, [*taken, *found])
            if place is None:
                break
            found.append(place)
        return found

    def _free(self, request: Request, taken: Sequence[Place]) -> Place | None:
        """A place beside those that are taken; None: there is none now."""
        if request.on_gpu:
            jobs = Counter(gpu for place in taken for gpu in place.gpus)
            gpus = tuple(sorted(self.gpus, key=lambda gpu: jobs[gpu])[: request.size])
            share, full = len(self.gpus) // request.size, any(jobs[gpu] for gpu in gpus)
        else:
            busy = sum(place.processes * place.threads for place in taken if not place.gpus)
            cores = self.num_cores if request.everything else min(request.size, self.num_cores)
            gpus, share, full = (), self.num_cores // cores, busy + cores > self.num_cores
        if full if self.parallel is None else len(taken) >= self.parallel:
            return None
        threads = _users_threads() or max(1, self.num_cores // ((self.parallel or share) * request.size))
        return Place(gpus, request.size, threads)

    def living(self) -> Collection[str]:
        return [*self._own_living(), *(name for name, process in self._earlier.items() if process.lives())]

    def fate(self, job: str) -> str:
        return "its process was killed"

    def close(self) -> None:
        deadline = time.monotonic() + _EXIT_SECONDS
        while self._own_living() and time.monotonic() < deadline:
            time.sleep(0.05)

    def _own_living(self) -> list[str]:
        return [name for name, process in self._own.items() if process.poll() is None]


def _process(folder: Path, name: str, call: Call, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start what makes the call as the only task of submitit's local job `name`.

    Not submitit's LocalExecutor, which calls a job by its process id.
    """
    from submitit.core.utils import DelayedSubmission, JobPaths

    paths, job = JobPaths(folder, name), DelayedSubmission(call)
    job.set_timeout(_FOREVER, max_num_timeout=0)
    folder.mkdir(parents=True, exist_ok=True)
    job.dump(paths.submitted_pickle)
    task = {"JOB_ID": name, "NTASKS": "1", "JOB_NUM_NODES": "1", "NODEID": "0", "LOCALID": "0", "GLOBALID": "0"}
    with paths.stdout.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-u", "-m", "submitit.core._submit", str(folder)],
            env={
                **environment,
                "SUBMITIT_EXECUTOR": "local",
                **{f"SUBMITIT_LOCAL_{key}": value for key, value in task.items()},
            },
            stdout=log,
            stderr=subprocess.STDOUT,
        )


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


def _users_threads() -> int | None:
    """The threads of a process, where the user has said how many."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdecimal() else None
