"""Jobs that this and earlier commands submitted: read from their files (store/job_files.py), found in Slurm, and cancelled.

By these files any later command finds what still waits or runs.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diffusion_lab.store import RunError, read_json, write_json
from diffusion_lab.store.job_files import job_file, job_files, process_file, process_files
from diffusion_lab.store.processes import Process

_ANSWER_SECONDS = 60


@dataclass(frozen=True)
class Submitted:
    """A job in a queue.

    makes: names of what it makes; directory: of its log; code: the copy that it runs from; tasks: its processes.
    """

    makes: tuple[str, ...]
    directory: str
    code: str
    tasks: int

    def write(self, folder: Path, job: str) -> None:
        write_json(job_file(folder, job), asdict(self))


def submitted(folder: Path) -> dict[str, Submitted]:
    """Name -> job, of all whose files lie in `folder`."""
    found = {}
    for name, file in job_files(folder).items():
        content = read_json(file)
        found[name] = Submitted(**content | {"makes": tuple(content["makes"])})
    return found


def running_here(folder: Path) -> dict[str, tuple[Process, dict[str, Any]]]:
    """Job -> its process and its place, of the jobs of this machine that live."""
    found = {}
    for name, file in process_files(folder).items():
        content = read_json(file)
        process = Process(**content["process"])
        if process.is_of_this_machine and process.lives():
            found[name] = (process, content["place"])
    return found


def in_slurm(folder: Path) -> dict[str, str] | None:
    """Job -> PENDING, RUNNING, …, of the jobs submitted from `folder` that Slurm still has; None: it does not answer."""
    answer = ask("squeue", "--me", "--array", "--noheader", "--format=%i %T %o")
    if answer is None:
        return None
    lines = (line.split(maxsplit=2) for line in answer.splitlines())
    return {line[0]: line[1] for line in lines if len(line) == 3 and Path(line[2]).parent.resolve() == folder.resolve()}


def queue_states(folder: Path) -> dict[str, str]:
    """Name of a model or a cell -> the state in which Slurm has the job that makes it; nothing where there is no Slurm."""
    jobs = submitted(folder)
    states = in_slurm(folder) if _of_slurm(folder, jobs) else None
    return {made: state for name, state in (states or {}).items() if name in jobs for made in jobs[name].makes}


def cancel(folder: Path, jobs: Collection[str]) -> list[str]:
    """Signal pending and running jobs to save and exit; return their names. RunError if Slurm does not do it."""
    here = {name: process for name, (process, _) in running_here(folder).items() if name in jobs}
    for process in here.values():
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
    in_queue = []
    if _of_slurm(folder, jobs):
        states = in_slurm(folder)
        in_queue = [name for name in states or () if name in jobs]
        if states is None or (in_queue and ask("scancel", *in_queue) is None):
            raise RunError("Slurm does not respond, so jobs still in its queue were not cancelled; try again later")
    return [*here, *in_queue]


def _of_slurm(folder: Path, jobs: Collection[str]) -> bool:
    """Whether a cluster was given any of these jobs."""
    return any(not process_file(folder, job).is_file() for job in jobs)


def ask(*command: str, seconds: float = _ANSWER_SECONDS) -> str | None:
    """What a command of Slurm prints; None if it fails or does not answer in so many seconds."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
