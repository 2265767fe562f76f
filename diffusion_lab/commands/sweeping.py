"""diffusion-lab train -m: plan a sweep and run its jobs, which each train one model and score its cells."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from datetime import datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from diffusion_lab.conf_dir import CONF
from diffusion_lab.config.mistakes import MistakeError, mistake_in_job, users_mistakes
from diffusion_lab.config.options import check_options
from diffusion_lab.config.overrides import quoted
from diffusion_lab.config.planning import make_plan, read_axes, with_moments
from diffusion_lab.config.tracking import track_report
from diffusion_lab.config.working_directory import check_outputs
from diffusion_lab.store import RunError, SweepDirectory, job_log, sweep_directory
from diffusion_lab.store.option_names import check_at_least
from diffusion_lab.store.places import jobs_folder
from diffusion_lab.store.records import is_folder_name, printable
from diffusion_lab.sweeps.axes import sweep_name
from diffusion_lab.sweeps.frozen import VARIABLE, StartAgain, check_copy, make_copy, using_copy
from diffusion_lab.sweeps.plan import Job, Plan, Work, do, forget_failures, run_all, sweep_content
from diffusion_lab.sweeps.watch import watching
from diffusion_lab.terminal import Terminal
from diffusion_lab.training.interruption import Interrupted


def sweep(
    arguments: list[str],
    config: DictConfig,
    context: HydraContext,
    task: TaskFunction,
    name: str | None,
    dry_run: bool,
    wait: bool,
) -> None:
    """Make the plan, print it, and run it. RunError with the number of failures, if any."""
    check_copy()
    check_options(config)
    check_outputs(config)
    with using_copy(Path(config.hydra.launcher.get("folder") or jobs_folder(Path(config.outputs)))):
        console = Terminal(file=sys.stdout)  # the output of jobs in this process goes elsewhere
        axes = with_moments(read_axes(arguments, context.config_loader), config)
        with users_mistakes():
            check_at_least(1, config, "sweep.jobs_per_model")
        if config.retrain and config.sweep.jobs_per_model > 1:
            raise MistakeError("retrain=true works only with sweep.jobs_per_model=1: remove one of the two")
        name = sweep_name(axes) if name is None else str(name)
        if not is_folder_name(name) or name.startswith((".", "-")):
            raise MistakeError(f"hydra.sweeper.name={printable(name)}: use only letters, digits, - and _")
        plan, notes, files = make_plan(axes, context.config_loader, config, check=not os.environ.get(VARIABLE))
        directory = sweep_directory(Path(config.outputs), name)
        launches = _Launches(config, context, task, directory, name)  # first, because the launcher may not be installed
        if not (wait or launches.can_detach):
            raise MistakeError("hydra.sweeper.wait=false works only with hydra/launcher=slurm: remove it")
        jobs_are_shown = config.hydra.launcher.get("dry_run", False)
        if not os.environ.get(VARIABLE):  # it is not yet the copy
            for line in [*plan.summary(), *notes, *launches.summary(plan.jobs), f"sweep {directory.path}"]:
                console.print(line)
        if plan.jobs and VARIABLE not in os.environ and not (dry_run or jobs_are_shown):
            raise StartAgain(make_copy(directory.code, files, config_folders(config)))
        if dry_run:
            for work in plan.work:
                console.print(f"{work.verb}  {work.label}")
            return
        if jobs_are_shown:
            launches(plan.jobs)
            return
        swept = {axis.key: list(axis.overrides) for axis in axes if axis.swept}
        created = datetime.now().isoformat(timespec="seconds")
        about = {"name": name, "command": arguments, "axes": swept, "created": created, "score": config.score}
        directory.write_sweep(sweep_content(plan, **about))
        if plan.jobs and not wait:
            forget_failures(plan.work)
            launches(plan.jobs, wait=False)
            console.print(
                "submitted: diffusion-lab status shows the progress and how to end the jobs. Run the same command "
                "without hydra.sweeper.wait=false (and retrain, rescore) to wait for them and write the report"
            )
            return
        with watching(plan.work, console):
            failures = run_all(plan.jobs, launches)
        if config.score:
            from diffusion_lab.report.make import make_report

            console.print(f"report {make_report(directory, show=True)}")
            track_report(config, directory, directory.report)
        if failures:
            raise RunError(_list_of(failures, plan, directory))


class _Launches:
    """Runs jobs through a launcher of Hydra, or the lab's, which has `launch_jobs` (see hydra_plugins), with one log per job."""

    def __init__(
        self, config: DictConfig, context: HydraContext, task: TaskFunction, directory: SweepDirectory, name: str
    ) -> None:
        self._directory, self._number = directory, count()
        # Hydra composes each job's config again from these overrides.
        own = {"hydra.sweep.dir": str(directory.jobs), "hydra.sweeper.name": name}
        with open_dict(config):
            config.hydra.sweep.dir = own["hydra.sweep.dir"]
            config.hydra.overrides.hydra += [f"{key}={quoted(value)}" for key, value in own.items()]
        self._launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=partial(_logged, task), config=config
        )
        self._has_queue = hasattr(self._launcher, "launch_jobs")

    @property
    def can_detach(self) -> bool:
        """Whether the launcher can submit everything at once."""
        return self._has_queue and self._launcher.queue().may_be_left

    def summary(self, jobs: Sequence[Job]) -> list[str]:
        """The resources that the jobs request."""
        return self._launcher.summary(jobs) if self._has_queue else []

    def __call__(self, jobs: Sequence[Job], wait: bool = True) -> list[str | None]:
        """The reason why each job failed, or None. wait=False only submits, which needs `can_detach`."""
        if self._has_queue:
            return self._launcher.launch_jobs(jobs, wait)
        return [do(job, partial(self._launch, job)) for job in jobs]

    def _launch(self, job: Job, work: Work) -> str | None:
        """Run one part of a job with a launcher of Hydra; returns the reason of its failure."""
        overrides = [*work.overrides, f"hydra.sweep.subdir={quoted(job.name)}"]
        (returned,) = self._launcher.launch([overrides], initial_job_idx=next(self._number))
        if returned.status is JobStatus.COMPLETED:
            return None
        error = returned._return_value  # the public property raises it and writes to stderr
        return mistake_in_job(error) or " ".join(f"{type(error).__name__}: {error}".split())


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


def config_folders(config: DictConfig) -> list[Path]:
    """The search path of the user's configs: --config-dir, hydra.searchpath, and conf/ of the working directory."""
    sources = config.hydra.runtime.config_sources
    return [Path(source.path) for source in sources if source.schema == "file" and Path(source.path) != CONF]


def _list_of(failures: dict[Path, str], plan: Plan, directory: SweepDirectory) -> str:
    """The number of failed cells and the reasons; cells of a failed model are not listed individually."""
    labels = {work.folder: work.label for work in plan.work}
    spoilt = {cell.run.path for cell in plan.cells if cell.model.path in failures}
    num_cells = len(spoilt) + sum(cell.run.path in failures.keys() - spoilt for cell in plan.cells)
    lines = [f"  {labels[folder]}: {reason}" for folder, reason in failures.items() if folder not in spoilt]
    first = f"{num_cells} of {len(plan.cells)} cells failed; run the same command to try them again (logs in {directory.jobs})"
    return "\n".join([first, *lines])
