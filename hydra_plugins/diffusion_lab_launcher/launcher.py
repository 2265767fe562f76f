"""hydra/launcher=slurm and local: Hydra's door to diffusion_lab.sweeps.

In place of hydra-submitit-launcher, which raises at the first job without a result and drops the others, waits for ever for one
that was killed on a cluster without accounting, cannot show what it would submit, and submits anew what still runs.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from abc import abstractmethod
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

if TYPE_CHECKING:
    from diffusion_lab.sweeps.jobs import Outcome, Queue
    from diffusion_lab.sweeps.queues import LocalQueue, SlurmQueue


class Call:
    """One job of a multirun, pickled for the process that runs it. options: the command and what shapes its work."""

    def __init__(self, launcher: QueueLauncher, overrides: Sequence[str], number: int) -> None:
        self.context, self.task, self.config = launcher.hydra_context, launcher.task_function, launcher.config
        self.overrides, self.number = list(overrides), number
        shaping = [option for option in filter_overrides(overrides) if not option.startswith("slurm.")]
        # The code that it runs from sets it apart, too: a job of an earlier plan does other work.
        self.options = (launcher.config.hydra.job.config_name, *shaping, os.environ.get("DIFFUSION_LAB_CODE", ""))
        self.accelerator, self.devices = launcher.asked(self.overrides)
        self.singletons = Singleton.get_state()

    def __call__(self) -> None:
        """Run the job, leave its outcome, and exit with 1 where it failed, so that the queue knows it too.

        A job that a signal ended has no outcome: it goes on when it is started again.
        """
        from submitit import JobEnvironment

        from diffusion_lab.callbacks.interruption import InterruptedTraining
        from diffusion_lab.sweeps.jobs import outcome_file

        environment = JobEnvironment()
        folder, job, rank = environment.paths.folder, environment.job_id, environment.global_rank
        outcome_file(folder, job, rank).unlink(missing_ok=True)  # of the same job before it was requeued
        signal.signal(signal.SIGTERM, _end)  # submitit ignores it, and is then killed
        for signum in (signal.SIGUSR1, signal.SIGUSR2):
            handler = signal.getsignal(signum)
            if callable(handler):  # submitit's, which puts the job back into the queue
                signal.signal(signum, partial(_end_after, handler))
        try:
            outcome = self._run(job)
        except InterruptedTraining as stop:
            print(stop, flush=True)
            # Slurm kills what still runs when one process fails; the first may be putting the job back into the queue.
            sys.exit(0 if rank else 128 + stop.signum)
        outcome.write(folder, job, rank)
        if outcome.reason is not None:
            sys.exit(1)

    def checkpoint(self) -> Any:
        """What submitit puts back into the queue: the same call, which goes on from the files it finds."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _run(self, job: str) -> Outcome:
        from diffusion_lab.commands.mistakes import mistake_in_job
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
        said = mistake_in_job(returned)
        print("".join(traceback.format_exception(returned)) if said is None else said, file=sys.stderr, flush=True)
        return Outcome(reason=said or f"{type(returned).__name__}: {' '.join(str(returned).split())}")


class QueueLauncher(Launcher):
    """Every job of a multirun in processes of its own, handed to a queue."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        _require_submitit()
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config
        self._asked: dict[tuple[str, ...], tuple[str, Any]] = {}

    def asked(self, overrides: Sequence[str]) -> tuple[str, Any]:
        """trainer.accelerator and trainer.devices of a job; the options themselves, where its command has no trainer."""
        loader = self.hydra_context.config_loader
        keys = {override: override.partition("=")[0].lstrip("+~") for override in overrides}
        # Composing takes a while and jobs are many; the devices follow from the choices of files and these options alone.
        deciding = tuple(
            override
            for override, key in keys.items()
            if key.startswith(("trainer.", "accelerator", "devices")) or loader.get_group_options(key.partition("@")[0])
        )
        if deciding not in self._asked:
            config = loader.load_sweep_config(self.config, list(deciding))
            trainer = config.get("trainer") or config
            devices = trainer.get("devices")
            devices = list(devices) if OmegaConf.is_list(devices) else devices
            self._asked[deciding] = (str(trainer.get("accelerator", "auto")), devices)
        return self._asked[deciding]

    @abstractmethod
    def queue(self) -> Queue:
        """Where the jobs go."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from diffusion_lab.sweeps.jobs import run_jobs

        setup_globals()
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        calls = [Call(self, overrides, initial_job_idx + number) for number, overrides in enumerate(job_overrides)]
        outcomes = run_jobs(calls, self.queue(), print)
        return [_returned(call, outcome) for call, outcome in zip(calls, outcomes, strict=True)]


class LocalLauncher(QueueLauncher):
    """See conf/hydra/launcher/local.yaml."""

    def __init__(self, folder: str, parallel: int | None) -> None:
        if parallel is not None and parallel < 1:
            raise ValueError(f"parallel={parallel}: at least one job at a time")
        self.folder, self.parallel = Path(folder).absolute(), parallel

    def queue(self) -> LocalQueue:
        from diffusion_lab.devices import num_cores, visible_gpus
        from diffusion_lab.sweeps.queues import LocalQueue

        return LocalQueue(self.folder, visible_gpus(), num_cores(), self.parallel)


class SlurmLauncher(QueueLauncher):
    """See conf/hydra/launcher/slurm.yaml."""

    def __init__(self, folder: str, dry_run: bool, max_num_timeout: int, sbatch: Mapping[str, Any]) -> None:
        self.folder, self.dry_run, self.max_num_timeout = Path(folder).absolute(), dry_run, max_num_timeout
        for option in ("nodes", "ntasks_per_node"):
            if not isinstance(sbatch[option], int):
                raise ValueError(
                    f"{option}={sbatch[option]}: Slurm needs a number (trainer.num_nodes, trainer.devices)"
                )
        self.sbatch = {option: value for option, value in sbatch.items() if value is not None}

    def queue(self) -> SlurmQueue:
        from diffusion_lab.sweeps.queues import SlurmQueue

        return SlurmQueue(self.folder, self.sbatch, self.max_num_timeout)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        if not self.dry_run:
            return super().launch(job_overrides, initial_job_idx)
        print(f"{len(job_overrides)} jobs would be submitted; their options:")
        for overrides in job_overrides:
            print(f"  {' '.join(filter_overrides(overrides))}")
        print(f"\n{self.queue().script(len(job_overrides))}")
        raise SystemExit(0)  # a sweeper would take what did not run for a failure


def _returned(call: Call, outcome: Outcome) -> JobReturn:
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
