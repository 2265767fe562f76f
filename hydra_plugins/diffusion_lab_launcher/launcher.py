"""hydra/launcher=slurm and local: Hydra's door to diffusion_lab.sweeps.

In place of hydra-submitit-launcher, which raises at the first job without a result and drops the others, waits for ever for one
that was killed on a cluster without accounting, cannot show what it would submit, and submits again what still runs.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from diffusion_lab.files import clear, make_folders
from diffusion_lab.from_config.overrides import quoted

if TYPE_CHECKING:
    from diffusion_lab.sweeps.jobs import Outcome, Queue
    from diffusion_lab.sweeps.plan import Job
    from diffusion_lab.sweeps.queues import LocalQueue, SlurmQueue


class Call:
    """One job of a multirun, pickled for the process that runs it; see diffusion_lab.sweeps.jobs.Call.

    name: of the folder of its log; it names the model or the cell by its fingerprint. options: the command, what it works on or
    with which code, and what shapes the work; two that differ only in how they begin do the same work.
    """

    def __init__(
        self,
        launcher: QueueLauncher,
        overrides: Sequence[str],
        number: int,
        name: str | None = None,
        depends_on: int | None = None,
    ) -> None:
        self.context, self.task, self.config = launcher.hydra_context, launcher.task_function, launcher.config
        self.overrides, self.number, self.depends_on = list(overrides), number, depends_on
        self.resources = launcher.resources_of(overrides)
        self.code = os.environ.get("DIFFUSION_LAB_CODE", "")
        beginning = ("retrain=", "rescore=")
        shaping = [option for option in filter_overrides(overrides) if not option.lstrip("+~").startswith(beginning)]
        # The code that it runs from sets it apart, too: a job of an earlier plan does other work. A name says it.
        self.options = (launcher.config.hydra.job.config_name, name or self.code, *shaping)
        self.directory = str(Path(str(launcher.config.hydra.sweep.dir)).absolute() / (name or str(number)))
        self.singletons = Singleton.get_state()

    def __call__(self) -> None:
        """Run the job, leave its outcome, and exit with 1 where it failed, so that the queue knows it too.

        A job that a signal ended has no outcome: it resumes when it is started again.
        """
        from submitit import JobEnvironment

        from diffusion_lab.callbacks.interruption import Interrupted
        from diffusion_lab.runs.jobs import outcome_file

        environment = JobEnvironment()
        folder, job, rank = environment.paths.folder, environment.job_id, environment.global_rank
        clear(outcome_file(folder, job, rank))  # of the same job before it was requeued
        signal.signal(signal.SIGTERM, _end)  # submitit ignores it, and is then killed
        for signum in (signal.SIGUSR1, signal.SIGUSR2):
            handler = signal.getsignal(signum)
            if callable(handler):  # submitit's, which puts the job back into the queue
                signal.signal(signum, partial(_end_after, handler))
        try:
            outcome = self._run(job)
        except Interrupted as stop:
            print(stop, flush=True)
            # Slurm kills what still runs when one process fails; the first may be putting the job back into the queue.
            sys.exit(0 if rank else 128 + stop.signum)
        outcome.write(folder, job, rank)
        if outcome.reason is not None:
            sys.exit(1)

    def checkpoint(self) -> Any:
        """What submitit puts back into the queue: the same call, which resumes from its files."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _run(self, job: str) -> Outcome:
        from diffusion_lab.from_config.mistakes import mistake_in_job
        from diffusion_lab.sweeps.jobs import Outcome

        Singleton.set_state(self.singletons)
        setup_globals()
        config = self.context.config_loader.load_sweep_config(self.config, self.overrides)
        with open_dict(config.hydra.job):
            config.hydra.job.id, config.hydra.job.num = job, self.number
        done = run_job(
            hydra_context=self.context,
            task_function=self.task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        returned = done._return_value  # the property raises what a failed job returned
        if done.status is JobStatus.COMPLETED:
            return Outcome(None if returned is None else float(returned))
        message = mistake_in_job(returned)
        print(
            "".join(traceback.format_exception(returned)) if message is None else message, file=sys.stderr, flush=True
        )
        return Outcome(reason=message or f"{type(returned).__name__}: {' '.join(str(returned).split())}")


class QueueLauncher(Launcher):
    """Every job of a multirun in processes of its own, handed to a queue."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        _require_submitit()
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config
        self._resources: dict[tuple[str, ...], Mapping[str, Any]] = {}

    def resources_of(self, overrides: Sequence[str]) -> Mapping[str, Any]:
        """The resources that a job with these overrides requests."""
        loader = self.hydra_context.config_loader
        keys = {override: override.partition("=")[0].lstrip("+~") for override in overrides}
        # Composing takes a while and jobs are many; this follows from the choices of files and these options alone.
        deciding = tuple(
            override
            for override, key in keys.items()
            if key.startswith(("trainer.", "accelerator", "devices")) or loader.get_group_options(key.partition("@")[0])
        )
        if deciding not in self._resources:
            self._resources[deciding] = self.resources_in(loader.load_sweep_config(self.config, list(deciding)))
        return self._resources[deciding]

    @abstractmethod
    def resources_in(self, config: DictConfig) -> Mapping[str, Any]:
        """The resources that a job with this config requests."""

    @abstractmethod
    def queue(self) -> Queue:
        """Where the jobs go."""

    def summary(self, jobs: Sequence[Job]) -> list[str]:
        """The resources that these jobs of a plan request, in lines for its user; an error in one sentence for what it lacks."""
        for job in jobs:
            self.resources_of(job.overrides)
        return []

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        setup_globals()
        calls = [Call(self, overrides, initial_job_idx + number) for number, overrides in enumerate(job_overrides)]
        return [_job_return(call, outcome) for call, outcome in zip(calls, self.run(calls), strict=True)]

    def launch_plan(self, jobs: Sequence[Job], cancelled: Callable[[], bool], wait: bool) -> list[str | None]:
        """Why each job of a plan failed (None: it did not); each begins when the one that it depends on is done.

        wait=False: submit them and return; the queue must support dependencies.
        """
        setup_globals()
        number = {job.folder: index for index, job in enumerate(jobs)}
        calls = [
            Call(
                self,
                [*job.overrides, f"hydra.sweep.subdir={quoted(job.name)}"],
                index,
                job.name,
                number.get(job.depends_on),
            )
            for index, job in enumerate(jobs)
        ]
        return [outcome.reason for outcome in self.run(calls, cancelled, wait)]

    def run(
        self, calls: Sequence[Call], cancelled: Callable[[], bool] = lambda: False, wait: bool = True
    ) -> list[Outcome]:
        """The outcomes of the calls; none where no command waits for them."""
        from diffusion_lab.sweeps.jobs import run_jobs, submit_jobs

        make_folders(Path(str(self.config.hydra.sweep.dir)))
        if wait:
            return run_jobs(calls, self.queue(), print, cancelled)
        submit_jobs(calls, self.queue(), print)
        return []


class LocalLauncher(QueueLauncher):
    """See conf/hydra/launcher/local.yaml."""

    def __init__(self, folder: str, parallel: int | None) -> None:
        if parallel is not None and parallel < 1:
            raise ValueError(f"parallel={parallel} must be at least 1")
        self.folder, self.parallel = Path(folder).absolute(), parallel

    def resources_in(self, config: DictConfig) -> Mapping[str, Any]:
        """trainer.accelerator and trainer.devices; the options themselves, where the command has no trainer."""
        trainer = config.get("trainer") or config
        devices = trainer.get("devices")
        devices = list(devices) if OmegaConf.is_list(devices) else devices
        resources = {"accelerator": str(trainer.get("accelerator", "auto")), "devices": devices}
        self.queue().request(**resources)  # an error for what this machine lacks, before anything runs
        return resources

    def queue(self) -> LocalQueue:
        from diffusion_lab.devices import num_cores, visible_gpus
        from diffusion_lab.sweeps.queues import LocalQueue

        return LocalQueue(self.folder, visible_gpus(), num_cores(), self.parallel)


class SlurmLauncher(QueueLauncher):
    """See conf/hydra/launcher/slurm.yaml. resources: of a job, see `resources_in`: they may differ by family."""

    def __init__(self, folder: str, dry_run: bool, max_num_timeout: int, python: str | None, **resources: Any) -> None:
        self.folder, self.dry_run = Path(folder).absolute(), dry_run
        self.max_num_timeout, self.python = max_num_timeout, python

    def queue(self) -> SlurmQueue:
        from diffusion_lab.sweeps.queues import SlurmQueue

        return SlurmQueue(self.folder, self.max_num_timeout, self.python)

    def resources_in(self, config: DictConfig) -> Mapping[str, Any]:
        from diffusion_lab.from_config.cluster import slurm_options

        families = self.hydra_context.config_loader.get_group_options("model")
        return slurm_options(config, config.hydra.runtime.choices.get("model"), families)

    def summary(self, jobs: Sequence[Job]) -> list[str]:
        from diffusion_lab.from_config.cluster import summary

        counts = Counter(summary(self.resources_of(job.overrides)) for job in jobs)
        return [f"Slurm: {count} job{'s' * (count > 1)} of {resources}" for resources, count in counts.items()]

    def run(
        self, calls: Sequence[Call], cancelled: Callable[[], bool] = lambda: False, wait: bool = True
    ) -> list[Outcome]:
        if not self.dry_run:
            return super().run(calls, cancelled, wait)
        print(f"{len(calls)} jobs would be submitted; their options:")
        for call in calls:
            print(f"  {' '.join(filter_overrides(call.overrides))}")
        left = list(calls)
        while left:  # jobs with equal requests have the same script
            same = [call for call in left if call.resources == left[0].resources]
            left = [call for call in left if call.resources != left[0].resources]
            later = sum(call.depends_on is not None for call in same)
            print(f"\n{self.queue().script(same[0], max(1, len(same) - later))}")
            if later:
                print(f"# and {later} of them, each once its model is trained: --dependency=afterok:<job of the model>")
        raise SystemExit(0)  # a sweeper would take what did not run for a failure


def _job_return(call: Call, outcome: Outcome) -> JobReturn:
    """What Hydra's sweepers expect of a job."""
    from diffusion_lab.sweeps.jobs import JobError

    if outcome.reason is None:
        return JobReturn(overrides=call.overrides, status=JobStatus.COMPLETED, _return_value=outcome.value)
    return JobReturn(overrides=call.overrides, status=JobStatus.FAILED, _return_value=JobError(outcome.reason))


def _end(signum: int, frame: FrameType | None) -> NoReturn:
    """Slurm's notice before it kills: scancel, requeue, preemption. Training hears it before us and saves first."""
    raise SystemExit(128 + signum)


def _end_after(requeue: Callable[[int, FrameType | None], Any], signum: int, frame: FrameType | None) -> None:
    """Slurm's notice of a time limit or of a preemption: the first process puts the job back, if it may, and ends."""
    from submitit.core.utils import UncompletedJobError

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # that of the requeue, which it would cut short
    try:
        requeue(signum, frame)
    except UncompletedJobError as error:
        print(error, flush=True)
    except SystemExit:
        pass
    else:
        signal.signal(signal.SIGTERM, before)  # another process, which ends with the first
        return
    raise SystemExit(128 + signum)


def _require_submitit() -> None:
    from diffusion_lab.sweeps.jobs import JobError

    try:
        import submitit
    except ImportError:
        raise JobError("hydra/launcher=slurm and local need submitit: pip install 'diffusion-lab[slurm]'") from None
    logging.getLogger(submitit.__name__).setLevel(logging.WARNING)
