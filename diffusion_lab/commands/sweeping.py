"""diffusion-lab train -m: plan a sweep and run its jobs, which each train one model and score its cells."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from diffusion_lab.commands.job import Call
from diffusion_lab.commands.rounds import OneRound, SeedBySeed
from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.config.options import check_options
from diffusion_lab.config.overrides import TRAINED, quoted
from diffusion_lab.config.sweeps import (
    Composer,
    make_plan,
    named_axes,
    question_of,
    read_axes,
    with_moments,
    without_options,
)
from diffusion_lab.config.tracking import track_report
from diffusion_lab.config.working_directory import check_outputs
from diffusion_lab.store import RunError, SweepDirectory, job_log, sweep_directory
from diffusion_lab.store.lock import hold
from diffusion_lab.store.records import is_folder_name, printable
from diffusion_lab.store.status_file import DONE
from diffusion_lab.sweeps import slurm
from diffusion_lab.sweeps.axes import sweep_name
from diffusion_lab.sweeps.plan import MODEL, JobError, Plan, Value, fail, forget_failures
from diffusion_lab.sweeps.watch import job_progress, summary, watching
from diffusion_lab.terminal import Terminal
from diffusion_lab.training.interruption import Interrupted


def sweep(
    arguments: list[str],
    config: DictConfig,
    context: HydraContext,
    task: TaskFunction,
    name: str | None,
    dry_run: bool,
) -> None:
    """Plan each round, print the plan, and run it; jobs of a cluster are only submitted. RunError with the failures, if any.

    arguments: the overrides of the command line. config: the command's config. context, task: Hydra's, for its jobs. name: of the
    sweep; None: from its axes. dry_run: print the first plan only.
    """
    check_options(config, hydra=config.hydra)
    check_outputs(config)
    if ignored := [word for word in config.hydra.overrides.hydra if word.lstrip("+").startswith("hydra.sweep.")]:
        fix = "remove it; outputs=FOLDER and hydra.sweeper.name=NAME choose the place of a sweep"
        raise MistakeError(f"{ignored[0]} has no effect with this sweeper: {fix}")
    console = Terminal(file=sys.stdout)  # jobs in this process write elsewhere
    axes = with_moments(read_axes(arguments, context.config_loader), config)
    question = question_of(axes, config)
    name = sweep_name(named_axes(axes, question)) if name is None else str(name)
    if not is_folder_name(name) or name.startswith((".", "-")):
        raise MistakeError(f"hydra.sweeper.name={printable(name)}: use only letters, digits, - and _")
    directory = sweep_directory(Path(config.outputs), name)
    with open_dict(config):  # Hydra composes the jobs' configs from these overrides
        config.hydra.overrides.hydra.append(f"hydra.sweeper.name={quoted(name)}")
    task = partial(_logged, task)
    launcher = _launcher(config, context, task)  # first, because it may not be installed
    if config.sweep.decide.wait and not (launcher and launcher.on_cluster):
        raise MistakeError("sweep.decide.wait=true has no effect without hydra/launcher=slurm: remove it")
    created = datetime.now().isoformat(timespec="seconds")
    typed = [word for word in arguments if not word.endswith(f"={TRAINED}")]
    about = {"name": name, "command": typed, "created": created, "score": config.score}
    of_sweep = without_options(axes), directory, about
    rounds = OneRound(*of_sweep) if question is None else SeedBySeed(question, console, *of_sweep)
    composer = Composer(context.config_loader, config)  # of all rounds: a job in this process changes Hydra's state
    for part in rounds:
        plan, notes = make_plan(part.axes, composer, config, part.reads)
        configs = [[composer.with_hydra(work.overrides) for work in job.work] for job in plan.jobs]
        calls = [
            Call(context, task, directory.jobs, job.name, of_job, job)
            for job, of_job in zip(plan.jobs, configs, strict=True)
        ]
        for line in rounds.announced(plan, notes, launcher.summary(calls) if launcher else []):
            console.print(line)
        if dry_run:
            for work in plan.work:
                console.print(f"{'train' if work.what == MODEL else 'score'}  {work.label}")
            return
        if config.hydra.launcher.get("dry_run"):
            launcher.show(calls, directory)
            return
        rounds.write(plan)
        if not _run(calls, plan, launcher, directory, console, config.sweep.decide.wait):
            again = f"the same command (without retrain, rescore) {rounds.then}"
            console.print(f"when all are done, {again}; diffusion-lab report does at any time")
            return
        progress, planned = job_progress(directory), {work.folder for work in plan.work}
        if left := [each for each in progress if each.state != DONE and each.folder in planned]:
            break
    _report(directory, config, console)
    if left:
        reasons = [f"{each.label}: {each.reason}" for each in left if each.status is not None]
        again = "run the same command (without retrain, rescore) to continue with the rest"
        raise RunError("; ".join([summary(progress), *reasons, f"{again} (logs in {directory.jobs})"]))


def _report(directory: SweepDirectory, config: DictConfig, console: Terminal) -> None:
    if config.score:
        from diffusion_lab.report.make import make_report

        console.print(f"report {make_report(directory, show=True)}")
        track_report(config, directory, directory.report)


def _launcher(config: DictConfig, context: HydraContext, task: TaskFunction) -> Any:
    """The launcher slurm or local; None for Hydra's basic one, in whose place jobs run one after another in this process."""
    name = config.hydra.runtime.choices["hydra/launcher"]
    if name == "basic":
        return None
    found = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=config)
    if not hasattr(found, "on_cluster"):
        raise MistakeError(
            f"hydra/launcher={name} works only with hydra/sweeper=basic: add that, or choose local or slurm"
        )
    return found


def _run(
    calls: Sequence[Call], plan: Plan, launcher: Any, directory: SweepDirectory, console: Terminal, wait: bool
) -> bool:
    """Run the jobs, with a line for each model and cell; False if a cluster has them now. wait: until the cluster has done them."""
    on_cluster = bool(calls and launcher and launcher.on_cluster)
    if on_cluster:
        console.print(_submit(launcher, calls, directory))
        if not wait:
            return False
    else:
        forget_failures(plan.work)
    with watching(plan.work, console):
        if on_cluster:
            jobs = slurm.submitted(directory)
            _record_failures(calls, slurm.results([jobs[call.name] for call in calls], directory.slurm))
        elif calls and launcher:
            _record_failures(calls, launcher.run(calls))
        else:
            _run_here(calls)
    return True


def _record_failures(calls: Sequence[Call], results: Sequence[JobError | Value]) -> None:
    """Record why jobs ended that could not do so themselves, such as one that was killed before it began."""
    for call, result in zip(calls, results, strict=True):
        missing = [work for work in call.job.work if not work.done] if call.job else []
        if isinstance(result, JobError) and missing:
            fail(missing[0].folder, str(result))


def _run_here(calls: Sequence[Call]) -> None:
    for call in calls:
        with suppress(JobError):  # recorded in the folder of what failed
            call()


def _submit(launcher: Any, calls: Sequence[Call], directory: SweepDirectory) -> str:
    """Submit the jobs that the cluster does not have yet; returns a line of text."""
    with hold(directory.path, waiting=lambda holder: print(f"{holder} is submitting this sweep; waiting for it")):
        jobs = slurm.jobs_of(directory)
        if any(job.state == "" for job in jobs.values()):
            raise JobError("squeue does not answer, so it is unknown which jobs are still there: try again later")
        new = [call for call in calls if call.name not in jobs or jobs[call.name].state is None]
        forget_failures(work for call in new if call.job for work in call.job.work)
        if new:
            launcher.submit(new, directory)
    left = f"in the queue already: {len(calls) - len(new)} of {len(calls)} jobs. " if len(new) < len(calls) else ""
    return f"{left}diffusion-lab status {directory.path.name} shows the progress and how to end the jobs"


def _logged(task: TaskFunction, cfg: DictConfig) -> Any:
    """Run the task with its output in the log of its folder, because a terminal cannot show many jobs at once."""
    log = job_log(Path(HydraConfig.get().runtime.output_dir))
    with log.open("a", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        try:
            return task(cfg)
        except Interrupted as stop:
            print(stop, file=file)
            raise
        except BaseException:
            traceback.print_exc(file=file)
            raise
