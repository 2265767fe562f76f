"""One job of a multirun: the parts of a job of a sweep, or one command of another sweeper. It can be pickled.

This is what Hydra's launchers do with `run_job`, for several configs, and with one sentence for a failure.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.singleton import Singleton
from hydra.core.utils import JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict, read_write

from diffusion_lab.config.mistakes import mistake_in_job
from diffusion_lab.sweeps.plan import Job, JobError, do


@dataclass
class Call:
    """One job of a multirun, which can be pickled.

    context, task: Hydra's, for every command. folder, name: its log is in folder/name. configs: of the parts of `job`, or of the
    only command. job: of a sweep; None for another sweeper.
    """

    context: HydraContext
    task: TaskFunction
    folder: Path
    name: str
    configs: Sequence[DictConfig]
    job: Job | None = None

    def __post_init__(self) -> None:
        setup_globals()
        self.singletons = Singleton.get_state()
        for config in self.configs:
            with read_write(config.hydra), open_dict(config.hydra):
                config.hydra.job.id = self.name
                config.hydra.sweep.update(dir=str(self.folder), subdir=self.name)

    def __call__(self, is_alone: bool = True) -> float | None:
        """The value of the command. JobError, in one sentence, if something fails. is_alone: as in `plan.do`."""
        Singleton.set_state(self.singletons)
        setup_globals()
        if self.job is None:
            return self._run(self.configs[0])
        config_of = dict(zip(self.job.work, self.configs, strict=True))
        do(self.job, lambda work: self._run(config_of[work]), is_alone)
        return None

    def _run(self, config: DictConfig) -> float | None:
        done = run_job(
            hydra_context=self.context,
            task_function=self.task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        returned = done._return_value  # the property would raise the error of a failed job
        if done.status is JobStatus.COMPLETED:
            return None if returned is None else float(returned)
        message = mistake_in_job(returned)
        if message is None and self.job is None:  # the parts of a job write it to their log
            traceback.print_exception(returned, file=sys.stderr)
        raise JobError(message or " ".join(f"{type(returned).__name__}: {returned}".split()))
