"""The launchers slurm and local, and any other whose yaml names a `Queue`: Hydra's interface to diffusion_lab.sweeps.

Used instead of hydra-submitit-launcher, which raises at the first job without a result and drops the others, waits forever for one
killed on a cluster without accounting, cannot show what it would submit, and resubmits jobs that are still running.
"""

from __future__ import annotations

import inspect
import logging
import os
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeGuard

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from diffusion_lab.config.overrides import as_plain, quoted
from diffusion_lab.store.files import make_folders
from diffusion_lab.store.places import outcome_file
from diffusion_lab.sweeps.jobs import Call, JobError, Outcome, Queue, run_jobs
from diffusion_lab.sweeps.plan import Job, do


class HydraCall(Call):
    """One job of a multirun, pickled for the process that runs it.

    A job for one model and its cells makes the folders named after them; any other job makes the result of its command, identified
    by the code that it runs from and the options that shape its work, so two jobs that differ only in how they start are the same.
    """

    def __init__(self, launcher: QueueLauncher, overrides: Sequence[str], number: int, job: Job | None = None) -> None:
        self.context, self.task, self.config = launcher.hydra_context, launcher.task_function, launcher.config
        self.overrides, self.number, self.job = list(overrides), number, job
        self.resources = launcher.resources_of(overrides)
        self.code = os.environ.get("DIFFUSION_LAB_CODE", "")
        if job is not None:
            self.makes = tuple(work.folder.name for work in job.work)
        else:
            beginning = ("retrain=", "rescore=")
            shaping = [each for each in filter_overrides(overrides) if not each.lstrip("+~").startswith(beginning)]
            self.makes = (" ".join([launcher.config.hydra.job.config_name, self.code, *shaping]),)
        name = str(number) if job is None else job.name
        self.directory = str(Path(str(launcher.config.hydra.sweep.dir)).absolute() / name)
        self.singletons = Singleton.get_state()

    def __call__(self) -> None:
        """Run the job and write its outcome; exit with 1 on failure, so that the queue is informed too.

        A job ended by a signal has no outcome and resumes when it is started again.
        """
        from submitit import JobEnvironment

        from diffusion_lab.training.interruption import Interrupted

        environment = JobEnvironment()
        folder, job, rank = environment.paths.folder, environment.job_id, environment.global_rank
        outcome_file(folder, job, rank).unlink(missing_ok=True)  # from this job before it was requeued
        signal.signal(signal.SIGTERM, _end)  # submitit ignores it and is then killed
        for signum in (signal.SIGUSR1, signal.SIGUSR2):
            handler = signal.getsignal(signum)
            if callable(handler):  # submitit's handler, which requeues the job
                signal.signal(signum, partial(_end_after, handler))
        try:
            outcome = self._run(job, is_alone=environment.num_tasks == 1)
        except Interrupted as stop:
            print(stop, flush=True)
            # Slurm kills the other processes when one fails; the first may still be requeuing the job.
            sys.exit(0 if rank else 128 + stop.signum)
        outcome.write(folder, job, rank)
        if outcome.reason is not None:
            sys.exit(1)

    def checkpoint(self) -> Any:
        """The call that submitit requeues: the same one, which resumes from its files."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _run(self, name: str, is_alone: bool) -> Outcome:
        Singleton.set_state(self.singletons)
        setup_globals()
        if self.job is None:
            return self._run_one(name, self.overrides)
        place = f"hydra.sweep.subdir={quoted(self.job.name)}"
        return Outcome(reason=do(self.job, lambda work: self._run_one(name, [*work.overrides, place]).reason, is_alone))

    def _run_one(self, name: str, overrides: Sequence[str]) -> Outcome:
        from diffusion_lab.config.mistakes import mistake_in_job

        config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config.hydra.job):
            config.hydra.job.id, config.hydra.job.num = name, self.number
        done = run_job(
            hydra_context=self.context,
            task_function=self.task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        returned = done._return_value  # the property would raise the error of a failed job
        if done.status is JobStatus.COMPLETED:
            return Outcome(None if returned is None else float(returned))
        message = mistake_in_job(returned)
        print(
            "".join(traceback.format_exception(returned)) if message is None else message, file=sys.stderr, flush=True
        )
        return Outcome(reason=message or f"{type(returned).__name__}: {' '.join(str(returned).split())}")


class QueueLauncher(Launcher):
    """Runs every job of a multirun in its own processes, through a queue.

    queue: its class; options: its arguments. Arguments that the queue takes as **options, which its `resources` pass to a job, may
    differ by model family, as in {default: 240, gan: 60}. They are resolved for each job, because they may refer to its options.
    """

    def __init__(self, queue: str, **options: Any) -> None:
        """Called by Hydra with the config of the whole multirun."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        try:
            import submitit
        except ImportError:
            raise JobError("hydra/launcher=slurm and local need submitit: pip install 'diffusion-lab[slurm]'") from None
        logging.getLogger(submitit.__name__).setLevel(logging.WARNING)
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config
        self._resources: dict[tuple[str, ...], Mapping[str, Any]] = {}

    def resources_of(self, overrides: Sequence[str]) -> Mapping[str, Any]:
        """The resources that a job with these overrides requests."""
        loader = self.hydra_context.config_loader
        keys = {override: override.partition("=")[0].lstrip("+~") for override in overrides}
        # Cached, because composing is slow and jobs are many; the result depends only on these options.
        deciding = tuple(
            override
            for override, key in keys.items()
            if key.startswith(("trainer.", "accelerator", "devices")) or loader.get_group_options(key.partition("@")[0])
        )
        if deciding not in self._resources:
            config = loader.load_sweep_config(self.config, list(deciding))
            options = config.get("trainer") or config
            devices = options.get("devices")
            devices = list(devices) if OmegaConf.is_list(devices) else devices
            queue = self._queue(config, config.hydra.runtime.choices.get("model"))
            self._resources[deciding] = queue.resources(str(options.get("accelerator", "auto")), devices)
        return self._resources[deciding]

    def queue(self) -> Queue:
        """The place of the jobs."""
        return self._queue(self.config, None)

    def _queue(self, config: DictConfig, family: str | None) -> Queue:
        """The queue with the options of a config; options that differ by family take the value of this family, if it is given."""
        options = as_plain(config.hydra.launcher, resolve=True)
        options["_target_"] = options.pop("queue")
        shared = inspect.signature(get_class(options["_target_"])).parameters
        families = self.hydra_context.config_loader.get_group_options("model")
        for name in shared.keys() & options.keys():
            if _differs(options[name], families):
                raise JobError(f"hydra.launcher.{name} is the same for all jobs: give one value")
        if family is not None:
            options = {name: _of_family(name, value, family, families) for name, value in options.items()}
        return instantiate(options, _recursive_=False, _convert_="all")

    def summary(self, jobs: Sequence[Job]) -> list[str]:
        """The resources that the jobs of a plan request, in lines of text; an error, in one sentence, if the queue lacks them."""
        queue = self.queue()
        counts = Counter(queue.summary(self.resources_of(job.work[0].overrides)) for job in jobs)
        name = type(queue).__name__.removesuffix("Queue")
        return [f"{name}: {n} job{'s' * (n > 1)} of {resources}" for resources, n in counts.items() if resources]

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        setup_globals()
        calls = [HydraCall(self, overrides, initial_job_idx + number) for number, overrides in enumerate(job_overrides)]
        return [_job_return(call, outcome) for call, outcome in zip(calls, self.run(calls), strict=True)]

    def launch_jobs(self, jobs: Sequence[Job], wait: bool) -> list[str | None]:
        """The reason why each job of a sweep failed, or None. wait=False: submit and return, if the queue may be left."""
        setup_globals()
        calls = [HydraCall(self, job.work[0].overrides, number, job) for number, job in enumerate(jobs)]
        return [outcome.reason for outcome in self.run(calls, wait)]

    def run(self, calls: Sequence[HydraCall], wait: bool = True) -> list[Outcome]:
        """The outcomes of the calls; none if no command waits for them."""
        queue = self.queue()
        if not queue.dry_run:
            make_folders(Path(str(self.config.hydra.sweep.dir)))
            return run_jobs(calls, queue, print, wait)
        print(f"{len(calls)} jobs would be submitted; their options:")
        for call in calls:
            cells = "" if call.job is None else f" ({len(call.job.work)} to train and score)"
            print(f"  {' '.join(filter_overrides(call.overrides))}{cells}")
        left = list(calls)
        while left:  # jobs with equal requests have the same script
            same = [call for call in left if call.resources == left[0].resources]
            left = [call for call in left if call.resources != left[0].resources]
            print(f"\n{queue.script(same[0], len(same))}")
        raise SystemExit(0)  # otherwise a sweeper would report jobs that did not run as failed


def _differs(value: Any, families: Collection[str]) -> TypeGuard[Mapping[str, Any]]:
    """Whether a value is a mapping by family."""
    return isinstance(value, Mapping) and bool({"default", *families} & value.keys())


def _of_family(name: str, value: Any, family: str, families: Collection[str]) -> Any:
    """The value itself, or the entry of a mapping for this family or for all unnamed ones."""
    if not _differs(value, families):
        return value
    unknown = [key for key in value if key not in ("default", *families)]
    if unknown:
        raise JobError(f"hydra.launcher.{name}: there is no model={unknown[0]}; the models are {', '.join(families)}")
    if family not in value and "default" not in value:
        raise JobError(f"hydra.launcher.{name}: there is no value for model={family}; add default: …")
    return value.get(family, value.get("default"))


def _job_return(call: HydraCall, outcome: Outcome) -> JobReturn:
    """The job in the form that Hydra's sweepers expect."""
    if outcome.reason is None:
        return JobReturn(overrides=call.overrides, status=JobStatus.COMPLETED, _return_value=outcome.value)
    return JobReturn(overrides=call.overrides, status=JobStatus.FAILED, _return_value=JobError(outcome.reason))


def _end(signum: int, frame: FrameType | None) -> NoReturn:
    """Slurm's signal before killing: scancel, requeue, preemption. Training handles it first and saves."""
    raise SystemExit(128 + signum)


def _end_after(requeue: Callable[[int, FrameType | None], Any], signum: int, frame: FrameType | None) -> None:
    """Slurm's signal for a time limit or a preemption: the first process requeues the job, if allowed, and ends."""
    from submitit.core.utils import UncompletedJobError

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # requeuing sends this signal, which would interrupt it
    try:
        requeue(signum, frame)
    except UncompletedJobError as error:
        print(error, flush=True)
    except SystemExit:
        pass
    else:
        signal.signal(signal.SIGTERM, before)  # for other processes, which end with the first
        return
    raise SystemExit(128 + signum)
