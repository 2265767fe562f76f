"""diffusion-lab train -m: train each different model once, then score every cell, through any of Hydra's launchers."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from diffusion_lab.callbacks.interruption import Interrupted
from diffusion_lab.callbacks.tracking import how_to_upload
from diffusion_lab.commands.report import show
from diffusion_lab.files import check_links, clear
from diffusion_lab.foreign import is_folder_name, printable
from diffusion_lab.from_config.frozen import running_from_copy
from diffusion_lab.from_config.kinds import check_kinds
from diffusion_lab.from_config.mistakes import MistakeError, mistake_in_job
from diffusion_lab.from_config.outputs import name_folders
from diffusion_lab.from_config.overrides import quoted
from diffusion_lab.from_config.planning import make_plan, read_axes, with_moments
from diffusion_lab.from_config.tracking import track_report
from diffusion_lab.report.make import make_report
from diffusion_lab.runs import Directory, RunError, SweepDirectory, job_log, sweep_directory
from diffusion_lab.sweeps.axes import sweep_name
from diffusion_lab.sweeps.phase import forget_failures, run_all
from diffusion_lab.sweeps.plan import Job, Plan, sweep_content
from diffusion_lab.sweeps.watch import watching
from diffusion_lab.terminal import Terminal


def sweep(
    arguments: list[str],
    config: DictConfig,
    context: HydraContext,
    task: TaskFunction,
    name: str | None,
    dry_run: bool,
    wait: bool,
) -> None:
    """Make the plan, print it, and run it. RunError with the number of failures if there are any."""
    check_kinds(config)
    console = Terminal(file=sys.stdout)  # jobs of this process write elsewhere
    name_folders(config)
    axes = with_moments(read_axes(arguments, context.config_loader), config)
    name = sweep_name(axes) if name is None else str(name)
    if not is_folder_name(name) or name.startswith((".", "-")):
        raise MistakeError(
            f"hydra.sweeper.name={printable(name)} cannot be the name of the sweep's folder: use only letters, digits, - and _"
        )
    plan, evaluation_seed, notes = make_plan(axes, context.config_loader, config)
    directory = sweep_directory(Path(config.outputs), name)
    launches = _Launches(config, context, task, directory, name)  # first: a launcher may not be installed
    if not (wait or launches.can_detach):
        raise MistakeError(
            "hydra.sweeper.wait=false works only with hydra/launcher=slurm, which holds a cell back until its model is trained: "
            "remove it for other launchers"
        )
    for line in [*plan.summary(), *notes, *launches.summary(plan.jobs), f"sweep {directory.path}"]:
        console.print(line)
    if dry_run:
        for job in plan.jobs:
            console.print(f"{job.verb}  {job.label}")
        return
    launcher = config.hydra.launcher
    if launcher.get("dry_run", False):
        launches(plan.jobs)  # it prints them and submits none
        return
    swept = {axis.key: list(axis.overrides) for axis in axes if axis.swept}
    created = datetime.now().isoformat(timespec="seconds")
    directory.write_sweep(sweep_content(name, arguments, swept, created, evaluation_seed, plan, config.score))
    clear(directory.cancelled)
    with running_from_copy(directory.code, context.config_loader, launcher.get("folder")):
        if plan.jobs and not wait:
            forget_failures(plan.jobs)
            launches.submit_only(plan.jobs)
            console.print(
                "submitted: diffusion-lab status shows the progress and diffusion-lab cancel ends the jobs. Run the same "
                "command without hydra.sweeper.wait=false (and retrain, rescore) to wait for them and write the report"
            )
            return
        with watching(plan.jobs, console):
            failures = run_all(plan.jobs, launches, launches.keeps_order)
        how = how_to_upload(Directory(job.folder).logs for job in plan.jobs)
        if how:  # the reason is in the log of each job
            console.print(how)
        if config.score:
            console.print(f"report {make_report(directory, show=show)}")
            track_report(config, directory, directory.report)
    if failures:
        raise RunError(_list_of(failures, plan, directory))


class _Launches:
    """Jobs through Hydra's launcher; each writes its output to a log of its own."""

    def __init__(
        self, config: DictConfig, context: HydraContext, task: TaskFunction, directory: SweepDirectory, name: str
    ) -> None:
        self._directory, self._num_launched = directory, 0
        # Hydra composes the config of a job again, from these overrides.
        own = {"hydra.sweep.dir": str(directory.jobs), "hydra.sweeper.name": name}
        with open_dict(config):
            config.hydra.sweep.dir = own["hydra.sweep.dir"]
            config.hydra.overrides.hydra += [f"{key}={quoted(value)}" for key, value in own.items()]
        self._launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=_Logged(task), config=config
        )
        # Our own launchers know more than Hydra's interface: which job needs which.
        self.keeps_order = hasattr(self._launcher, "launch_plan")

    @property
    def can_detach(self) -> bool:
        """Whether everything can be submitted at once."""
        return self.keeps_order and self._launcher.queue().supports_dependencies

    def summary(self, jobs: Sequence[Job]) -> list[str]:
        """The resources that the jobs request."""
        return self._launcher.summary(jobs) if self.keeps_order else []

    def submit_only(self, jobs: Sequence[Job]) -> None:
        """Submit the jobs and wait for none."""
        self._launcher.launch_plan(jobs, self._directory.cancelled.is_file, wait=False)

    def __call__(self, jobs: Sequence[Job]) -> list[str | None]:
        if self.keeps_order:
            return self._launcher.launch_plan(jobs, self._directory.cancelled.is_file, wait=True)
        first = self._num_launched  # numbered on from call to call
        self._num_launched += len(jobs)
        overrides = [[*job.overrides, f"hydra.sweep.subdir={quoted(job.name)}"] for job in jobs]
        return [_reason(returned) for returned in self._launcher.launch(overrides, initial_job_idx=first)]


@dataclass(frozen=True)
class _Logged:
    """The task, its output in the log of its folder: many jobs on one terminal would be noise."""

    task: TaskFunction

    def __call__(self, cfg: DictConfig) -> Any:
        log = job_log(Path(HydraConfig.get().runtime.output_dir))
        check_links(log)
        with log.open("a", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
            try:
                return self.task(cfg)
            except Interrupted as stop:
                print(stop, file=file)
                raise
            except BaseException:
                traceback.print_exc(file=file)
                raise


def _reason(returned: JobReturn) -> str | None:
    """Why a job failed, in one sentence."""
    if returned.status is JobStatus.COMPLETED:
        return None
    error = returned._return_value  # the public property raises it, and writes to stderr
    return mistake_in_job(error) or " ".join(f"{type(error).__name__}: {error}".split())


def _list_of(failures: dict[Path, str], plan: Plan, directory: SweepDirectory) -> str:
    """How many cells failed, and why; the cells of a model that failed are not listed one by one."""
    labels = {job.folder: job.label for job in plan.jobs}
    spoilt = {cell.run.path for cell in plan.cells if cell.model.path in failures}
    num_cells = len(spoilt) + sum(cell.run.path in failures.keys() - spoilt for cell in plan.cells)
    lines = [f"  {labels[folder]}: {reason}" for folder, reason in failures.items() if folder not in spoilt]
    first = f"{num_cells} of {len(plan.cells)} cells failed; run the same command to try them again (logs in {directory.jobs})"
    return "\n".join([first, *lines])
