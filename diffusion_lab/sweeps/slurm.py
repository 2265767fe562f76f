"""Jobs of a Slurm cluster, through submitit: requested, submitted, requeued, and found again.

Not by Hydra's launcher for submitit, which waits for its jobs, raises at the first one without a result and drops the others, and
cannot show what it would submit. Their files lie in the folder `slurm` of a sweep, with the names of the jobs in jobs.json.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from functools import partial
from io import StringIO
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn

from diffusion_lab.store import SweepDirectory, read_json
from diffusion_lab.store.files import make_folders
from diffusion_lab.store.option_names import canonical_json, grouped
from diffusion_lab.sweeps.plan import JobError
from diffusion_lab.training.interruption import Interrupted

_NAMES = {"tasks_per_node": "ntasks_per_node", "more": "additional_parameters"}  # our options -> submitit's
_SHOWN = (
    *("nodes", "ntasks_per_node", "gpus_per_node", "gres", "cpus_per_task", "mem", "time", "partition"),
    *("qos", "account", "constraint"),
)
_OF_EXECUTOR = ("python", "max_num_timeout")  # of submitit's executor itself
_ANSWER_SECONDS = 60
_POLL_SECONDS = 5.0

Request = Mapping[str, Any]  # parameters of submitit's executor


def request(options: Mapping[str, Any], accelerator: str) -> Request:
    """The request of a job with these options of conf/hydra/launcher/slurm.yaml. JobError for those that do not exist."""
    from submitit.slurm.slurm import _get_default_parameters

    found = {_NAMES.get(name, name): value for name, value in options.items()}
    for name in found.keys() - {*_get_default_parameters(), *_OF_EXECUTOR}:
        raise JobError(f"there is no hydra.launcher.{name}: for an option of sbatch, +hydra.launcher.more.{name}=…")
    for name in ("nodes", "ntasks_per_node"):
        if not isinstance(found[name], int) or found[name] < 1:
            option = {"nodes": "trainer.num_nodes", "ntasks_per_node": "trainer.devices"}[name]
            raise JobError(f"{option}={found[name]}: Slurm needs a number")
    if found["gpus_per_node"] == "auto":
        on_gpus = accelerator in ("gpu", "cuda") and "gpu" not in (found["gres"] or "")
        found["gpus_per_node"] = found["ntasks_per_node"] if on_gpus else None
    return {name: value for name, value in found.items() if value is not None}


def in_words(request: Request) -> str:
    """The request in one line, for example: nodes 1, tasks_per_node 2, gpus_per_node 2, time 240, partition gpu"""
    none = {} if {"gres", "gpus_per_node"} & request.keys() else {"no GPU": "(trainer.accelerator=gpu requests them)"}
    return ", ".join(f"{name} {value}" for name, value in {**request, **none}.items() if name in (*_SHOWN, *none))


def submit(calls: Sequence[Task], requests: Sequence[Request], folder: Path) -> Iterator[tuple[int, str]]:
    """Submit the calls, those with equal requests as arrays; yields the index of each call and the name of its job.

    folder: for submitit's files. JobError if Slurm is not there or rejects them.
    """
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise JobError(
            "there is no Slurm on this machine (no sbatch or srun on the PATH): run this on a cluster's login node, "
            "or look at the script with the launcher's option dry_run=true"
        )
    make_folders(folder)
    for array in arrays(requests):
        asked = requests[array[0]]
        executor = SlurmExecutor(folder, asked["max_num_timeout"], python=asked.get("python"))
        executor.update_parameters(**_parameters(asked))
        before = {*folder.iterdir()}
        try:
            with redirect_stderr(StringIO()):  # submitit prints its errors
                jobs = executor.submit_array([InSlurm(calls[index]) for index in array])
        except (FailedJobError, FailedSubmissionError) as error:
            for file in {*folder.iterdir()} - before:  # for a job that does not exist
                file.unlink()
            last = str(error).strip().rpartition("\n")[2]
            raise JobError(f"Slurm rejected the job: {last}") from error
        yield from zip(array, (job.job_id for job in jobs), strict=True)


def script(request: Request, num_jobs: int, folder: Path) -> str:
    """The script that `submit` would pass to sbatch for an array of `num_jobs` jobs. Needs no Slurm."""
    from submitit.slurm.slurm import _make_sbatch_string

    python = request.get("python") or shlex.quote(sys.executable)
    command = f"{python} -u -m submitit.core._submit {shlex.quote(str(folder.absolute()))}"
    array: dict[str, Any] = {"map_count": num_jobs} if num_jobs > 1 else {}
    return _make_sbatch_string(command=command, folder=folder, **array, **_parameters(request))


def arrays(requests: Sequence[Request]) -> Iterable[Sequence[int]]:
    """The indices of equal requests together."""
    return grouped(range(len(requests)), lambda index: canonical_json(requests[index])).values()


def _parameters(request: Request) -> dict[str, Any]:
    asked = {name: value for name, value in request.items() if name not in _OF_EXECUTOR}
    # If one process fails, the job ends; otherwise the others would wait for it.
    return {"job_name": "diffusion-lab", "stderr_to_stdout": True, "srun_args": ["--kill-on-bad-exit=1"], **asked}


# ---- in a job


Task = Callable[[bool], float | None]  # is_alone: whether the job has one process. JobError if it fails


class InSlurm:
    """A call in each process of a job. One ended by a signal resumes when it is started again."""

    def __init__(self, call: Task) -> None:
        self.call = call

    def __call__(self) -> float | None:
        from submitit import JobEnvironment

        environment = JobEnvironment()
        signal.signal(signal.SIGTERM, _end)  # submitit ignores it and is then killed
        for signum in (signal.SIGUSR1, signal.SIGUSR2):
            handler = signal.getsignal(signum)
            if callable(handler):  # submitit's handler, which requeues the job
                signal.signal(signum, partial(_requeue, handler))
        try:
            return self.call(environment.num_tasks == 1)
        except Interrupted as stop:
            print(stop, flush=True)
            # Slurm kills the other processes when one fails; the first may still be requeuing the job.
            sys.exit(0 if environment.global_rank else 128 + stop.signum)

    def checkpoint(self) -> Any:
        """The call that submitit requeues: the same one, which resumes from its files."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _end(signum: int, frame: FrameType | None) -> NoReturn:
    """Slurm's signal before killing: scancel, requeue, preemption. Training handles it first and saves."""
    raise SystemExit(128 + signum)


def _requeue(requeue: Callable[[int, FrameType | None], Any], signum: int, frame: FrameType | None) -> None:
    """Slurm's signal for a time limit or a preemption: the first process requeues the job, if allowed, and ends."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # requeuing sends this signal, which would interrupt it
    requeue(signum, frame)


# ---- states and results of jobs


class Queued(NamedTuple):
    """A job of a sweep. state: PENDING, RUNNING, …; None once it has left the queue, "" if Slurm does not answer."""

    name: str
    state: str | None
    log: Path


def jobs_of(sweep: SweepDirectory) -> dict[str, Queued]:
    """Model -> the job that was last submitted for it and its cells."""
    names = submitted(sweep)
    states = _states(sweep.submitted.stat().st_uid) if names else {}
    return {
        model: Queued(name, "" if states is None else states.get(name), _log(sweep.slurm, name))
        for model, name in names.items()
    }


def submitted(sweep: SweepDirectory) -> dict[str, str]:
    """Model -> name of the job."""
    return read_json(sweep.submitted) if sweep.submitted.is_file() else {}


def results(jobs: Sequence[str], folder: Path) -> list[float | JobError | None]:
    """Wait until Slurm has none of these jobs; returns their values, or why they failed."""
    gone = 0
    while gone < 2:  # twice, because files may be delayed on a network
        time.sleep(_POLL_SECONDS)
        states = _states(os.getuid())
        gone = 0 if states is None or states.keys() & jobs else gone + 1
    return [_result(job, folder) for job in jobs]


def _result(job: str, folder: Path) -> Any:
    from submitit.core.utils import JobPaths, pickle_load

    file = JobPaths(folder, job).result_pickle
    if not file.is_file():
        return JobError(f"job {job} left Slurm's queue without a result; its log is {_log(folder, job)}")
    kind, value = pickle_load(file)
    if kind == "success":
        return value
    last = value.strip().splitlines()[-1]  # of a traceback: the class of the error, and its message
    return JobError(last.partition(": ")[2] or last)


def _log(folder: Path, job: str) -> Path:
    """The output of the first process of a job; the name is submitit's."""
    return folder / f"{job}_0_log.out"


def _states(user: int) -> dict[str, str] | None:
    """Job -> state, for the jobs of a user that Slurm still has; None if it does not answer."""
    answer = ask("squeue", f"--user={user}", "--array", "--noheader", "--format=%i %T")
    return None if answer is None else dict(line.split(maxsplit=1) for line in answer.splitlines())


def ask(*command: str, seconds: float = _ANSWER_SECONDS) -> str | None:
    """The output of a Slurm command; None if it fails or does not answer in time."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
