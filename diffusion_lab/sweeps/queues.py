"""Queues of jobs, run through submitit on a Slurm cluster or on this machine."""

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
from functools import cached_property
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from diffusion_lab.store import write_json
from diffusion_lab.store.files import make_folders
from diffusion_lab.store.places import log_file, process_file
from diffusion_lab.store.processes import Process
from diffusion_lab.sweeps.jobs import Call, JobError, Queue, ask, in_slurm, running_here
from diffusion_lab.training.devices import Place, Request, num_cores, requested, visible_gpus

_USUAL_MAX_ARRAY_SIZE = 1001
_SUBMITIT_NAMES = {"tasks_per_node": "ntasks_per_node", "more": "additional_parameters"}  # our options -> submitit's
_EXIT_SECONDS = 30
_FOREVER = 60 * 24 * 365  # minutes


class SlurmQueue(Queue):
    """A Slurm cluster, which holds and requeues jobs itself; see conf/hydra/launcher/slurm.yaml.

    The resources of a call are options of submitit's Slurm executor.
    """

    may_be_left = True

    def __init__(
        self, folder: Path | str, max_num_timeout: int, python: str | None, dry_run: bool = False, **requested: Any
    ) -> None:
        self.folder, self.max_num_timeout, self.python = Path(folder).absolute(), max_num_timeout, python
        self.dry_run, self._requested = dry_run, requested

    def resources(self, accelerator: str, devices: int | str | Sequence[int] | None) -> Mapping[str, Any]:
        from submitit.slurm.slurm import _get_default_parameters

        found = {_SUBMITIT_NAMES.get(name, name): value for name, value in self._requested.items()}
        for name in found.keys() - _get_default_parameters():
            raise JobError(f"there is no hydra.launcher.{name}: for an option of sbatch, +hydra.launcher.more.{name}=…")
        for name in ("nodes", "ntasks_per_node"):
            if not isinstance(found[name], int) or found[name] < 1:
                raise JobError(f"{name}={found[name]}: Slurm needs a number (trainer.num_nodes, trainer.devices)")
        if found["gpus_per_node"] == "auto":
            on_gpus = accelerator in ("gpu", "cuda") and "gpu" not in (found["gres"] or "")
            found["gpus_per_node"] = found["ntasks_per_node"] if on_gpus else None
        return {name: value for name, value in found.items() if value is not None}

    def summary(self, resources: Mapping[str, Any]) -> str:
        """For example: 1 node, 2 tasks a node, gpus_per_node 2, time 240, partition gpu"""
        gpus, gres = resources.get("gpus_per_node"), resources.get("gres")
        words = [f"{resources['nodes']} node{'s' * (resources['nodes'] > 1)}"]
        words += [f"{resources['ntasks_per_node']} task{'s' * (resources['ntasks_per_node'] > 1)} a node"]
        if gpus or not gres:
            words += [f"gpus_per_node {gpus}" if gpus else "no GPU (trainer.accelerator=gpu requests trainer.devices)"]
        named = ("gres", "cpus_per_task", "mem", "time", "partition", "qos", "account", "constraint")
        return ", ".join([*words, *(f"{name} {resources[name]}" for name in named if name in resources)])

    def room(self, waiting: Sequence[Call]) -> int:
        """All calls with equal requests, up to the size of an array; Slurm itself applies `array_parallelism`."""
        alike = takewhile(lambda call: call.resources == waiting[0].resources, waiting)
        return sum(1 for _ in islice(alike, self._longest_array))

    @cached_property
    def _longest_array(self) -> int:
        found = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config") or "", re.MULTILINE)
        return max(1, int(found[1])) if found else _USUAL_MAX_ARRAY_SIZE

    def submit(self, calls: Sequence[Call]) -> list[str]:
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            raise JobError(
                "there is no Slurm on this machine (no sbatch or srun on the PATH): run this on a cluster's login node, "
                "or look at the script with the launcher's option dry_run=true"
            )
        executor = SlurmExecutor(folder=self.folder, max_num_timeout=self.max_num_timeout, python=self.python)
        executor.update_parameters(**self._parameters(calls[0]))
        make_folders(executor.folder)
        try:
            return [job.job_id for job in executor.submit_array(calls)]
        except (FailedJobError, FailedSubmissionError) as error:
            raise JobError(f"the queue rejected the job: {' '.join(str(error).split())}") from error

    def tasks(self, call: Call) -> int:
        return call.resources["nodes"] * call.resources["ntasks_per_node"]

    def active_jobs(self) -> Collection[str] | None:
        return in_slurm(self.folder)

    def failure_reason(self, job: str) -> str:
        shown = ask("scontrol", "show", "job", job, "--oneliner") or ""
        found = re.search(r"JobState=(\w+).* ExitCode=(\d+):(\d+)", shown)
        if found is None:
            return "it left Slurm's queue without giving a reason"
        state, code, signum = found[1], int(found[2]), int(found[3])
        # A shell returns 128 plus the signal that ended its command.
        ended = next((f" after {each.name}" for each in signal.Signals if each in (signum, code - 128)), "")
        return f"Slurm reports {state}{ended}"

    def script(self, call: Call, num_jobs: int) -> str:
        """The script that `submit` would pass to sbatch for `num_jobs` calls like this one. Needs no Slurm."""
        from submitit.slurm.slurm import _make_sbatch_string

        python = self.python or shlex.quote(sys.executable)
        command = f"{python} -u -m submitit.core._submit {shlex.quote(str(self.folder))}"
        array: dict[str, Any] = {"map_count": min(num_jobs, self._longest_array)} if num_jobs > 1 else {}
        return _make_sbatch_string(command=command, folder=self.folder, **array, **self._parameters(call))

    @staticmethod
    def _parameters(call: Call) -> dict[str, Any]:
        own = {"job_name": f"diffusion-lab-{call.makes[0].partition(' ')[0]}", "stderr_to_stdout": True}
        # If one process fails, the job ends; otherwise the others would wait for it.
        return {**own, "srun_args": ["--kill-on-bad-exit=1"], **call.resources}


class LocalQueue(Queue):
    """This machine: runs as many jobs at a time as its GPUs allow; on a CPU, jobs share the cores evenly.

    parallel: the number of jobs at a time; None: one per GPU, or one process per core. With a larger number jobs share the
    GPUs. gpus, cores: of this machine; each process of a job uses its own GPU.

    A file beside the job's others records its process and place, so that a later command finds it while it runs.
    """

    may_be_left = False

    def __init__(
        self, folder: Path | str, parallel: int | None, gpus: Sequence[str] | None = None, cores: int | None = None
    ) -> None:
        if parallel is not None and (not isinstance(parallel, int) or parallel < 1):
            raise ValueError(f"hydra.launcher.parallel={parallel} must be a whole number of at least 1")
        self.folder, self.parallel = Path(folder).absolute(), parallel
        self.gpus = visible_gpus() if gpus is None else gpus
        self.num_cores = num_cores() if cores is None else cores
        self._own: dict[str, subprocess.Popen[bytes]] = {}
        self._places: dict[str, Place] = {}  # by job
        self._earlier: dict[str, Process] = {}  # jobs of other commands
        for name, (process, place) in running_here(self.folder).items():
            self._earlier[name], self._places[name] = process, Place(**place)

    def resources(self, accelerator: str, devices: int | str | Sequence[int] | None) -> Mapping[str, Any]:
        """JobError if this machine lacks the devices, before anything runs."""
        self.request(accelerator, devices)
        return {"accelerator": accelerator, "devices": devices}

    def request(self, accelerator: str = "auto", devices: int | str | Sequence[int] | None = None) -> Request:
        """The devices of trainer.accelerator and trainer.devices here; JobError, in one sentence, if this machine lacks them."""
        try:
            request = requested(accelerator, 1 if devices is None else devices, self.gpus, self.num_cores)
        except ValueError as error:
            raise JobError(str(error)) from None
        if request.indices is not None:
            raise JobError(
                f"trainer.devices={devices}: jobs take turns on the devices, so give a number of devices; "
                "set CUDA_VISIBLE_DEVICES=… to choose the GPUs that they share"
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
            name = uuid.uuid4().hex[:12]  # not the process id, which is reused: old files would be taken for this job's
            self._own[name], self._places[name] = _process(self.folder, name, call, environment), place
            process = Process.of(self._own[name].pid)
            write_json(process_file(self.folder, name), {"process": asdict(process), "place": asdict(place)})
            names.append(name)
        return names

    def place(self, job: str) -> str:
        return str(self._places[job])

    def _free_places(self, calls: Sequence[Call]) -> list[Place]:
        """Places for these calls beside the running jobs, up to the first call that must wait."""
        taken = [self._places[name] for name in self.active_jobs()]
        found: list[Place] = []
        for request in [self.request(**call.resources) for call in calls]:  # checks all before the first one runs
            place = self._free(request, [*taken, *found])
            if place is None:
                break
            found.append(place)
        return found

    def _free(self, request: Request, taken: Sequence[Place]) -> Place | None:
        """A place that is not taken, or None."""
        if request.on_gpu:
            jobs = Counter(gpu for place in taken for gpu in place.gpus)
            gpus = tuple(sorted(self.gpus, key=lambda gpu: jobs[gpu])[: request.size])
            share, full = len(self.gpus) // request.size, any(jobs[gpu] for gpu in gpus)
        else:
            busy = sum(place.processes * place.threads for place in taken if not place.gpus)
            cores = self.num_cores if request.everything else request.size
            gpus, share, full = (), self.num_cores // cores, busy + cores > self.num_cores
        if full if self.parallel is None else len(taken) >= self.parallel:
            return None
        chosen = os.environ.get("OMP_NUM_THREADS", "")  # by the user
        threads = int(chosen) if chosen.isdecimal() else self.num_cores // ((self.parallel or share) * request.size)
        return Place(gpus, request.size, max(1, threads))

    def active_jobs(self) -> Collection[str]:
        return [*self._own_active_jobs(), *(name for name, process in self._earlier.items() if process.lives())]

    def failure_reason(self, job: str) -> str:
        return "its process was killed"

    def close(self) -> None:
        deadline = time.monotonic() + _EXIT_SECONDS
        while self._own_active_jobs() and time.monotonic() < deadline:
            time.sleep(0.05)

    def _own_active_jobs(self) -> list[str]:
        return [name for name, process in self._own.items() if process.poll() is None]


def prepare(folder: Path, name: str, call: Call) -> tuple[list[str], dict[str, str]]:
    """Write a call into `folder`; returns the command that runs it, in a process that can access the folder, and its environment.

    For submitit it is the only task of a local job `name`, whose output belongs in `log_file(folder, name)`.
    Not submitit's LocalExecutor, which names jobs by process id.
    """
    from submitit.core.utils import DelayedSubmission, JobPaths

    job = DelayedSubmission(call)
    job.set_timeout(_FOREVER, max_num_timeout=0)
    make_folders(folder)
    job.dump(JobPaths(folder, name).submitted_pickle)
    task = {"JOB_ID": name, "NTASKS": "1", "JOB_NUM_NODES": "1", "NODEID": "0", "LOCALID": "0", "GLOBALID": "0"}
    variables = {"SUBMITIT_EXECUTOR": "local", **{f"SUBMITIT_LOCAL_{key}": value for key, value in task.items()}}
    return [sys.executable, "-u", "-m", "submitit.core._submit", str(folder)], variables


def _process(folder: Path, name: str, call: Call, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    command, variables = prepare(folder, name, call)
    with log_file(folder, name).open("ab") as log:
        return subprocess.Popen(command, env={**environment, **variables}, stdout=log, stderr=subprocess.STDOUT)
