"""The launchers slurm and local: Hydra's interface to diffusion_lab.sweeps."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from diffusion_lab.commands.job import Call
from diffusion_lab.config.overrides import as_plain
from diffusion_lab.store import SweepDirectory, write_json
from diffusion_lab.store.own_files import users_files
from diffusion_lab.sweeps import local, slurm
from diffusion_lab.sweeps.frozen import make_copy, shell
from diffusion_lab.sweeps.plan import JobError, Value
from diffusion_lab.training.devices import num_cores, visible_gpus


class JobLauncher(Launcher):
    """Runs every job of a multirun in processes of its own. on_cluster: whether the jobs of a sweep outlive the command."""

    on_cluster = False

    def __init__(self, **options: Any) -> None:
        """Called by Hydra; the options, which may refer to those of a job, are read from its config."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        try:
            import submitit
        except ImportError:
            raise JobError("hydra/launcher=slurm and local need submitit: pip install 'diffusion-lab[slurm]'") from None
        logging.getLogger(submitit.__name__).setLevel(logging.WARNING)
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """For any sweeper of Hydra: run the jobs and wait for their values."""
        folder, calls = Path(str(self.config.hydra.sweep.dir)), []
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(config.hydra.job):
                config.hydra.job.num = number
            calls.append(Call(self.hydra_context, self.task_function, folder, str(number), [config]))
        return [
            JobReturn(
                overrides=overrides,
                status=JobStatus.FAILED if isinstance(result, JobError) else JobStatus.COMPLETED,
                _return_value=result,
            )
            for overrides, result in zip(job_overrides, self.run(calls), strict=True)
        ]

    @abstractmethod
    def run(self, calls: Sequence[Call]) -> list[JobError | Value]:
        """The values of the calls, or why they failed."""

    @abstractmethod
    def summary(self, calls: Sequence[Call]) -> list[str]:
        """What the jobs request, in lines of text. JobError if it is not there."""


class LocalLauncher(JobLauncher):
    """This machine; see conf/hydra/launcher/local.yaml."""

    def run(self, calls: Sequence[Call]) -> list[JobError | Value]:
        machine, requests = self._requested(calls)
        return local.run_jobs(
            calls, requests, [call.folder / call.name / "output.txt" for call in calls], machine, print
        )

    def summary(self, calls: Sequence[Call]) -> list[str]:
        self._requested(calls)
        return []

    def _requested(self, calls: Sequence[Call]) -> tuple[local.Machine, list[local.DeviceRequest]]:
        machine = local.Machine(visible_gpus(), num_cores(), self.config.hydra.launcher.parallel)
        return machine, [machine.request(*_devices(call.configs[0])) for call in calls]


class SlurmLauncher(JobLauncher):
    """A Slurm cluster; see conf/hydra/launcher/slurm.yaml, whose options may differ by model family."""

    on_cluster = True

    def run(self, calls: Sequence[Call]) -> list[JobError | Value]:
        folder = SweepDirectory(calls[0].folder.absolute())
        if self.config.hydra.launcher.dry_run:
            self.show(calls, folder)
            raise SystemExit(0)  # otherwise a sweeper would report jobs that did not run as failed
        return slurm.results(self.submit(calls, folder), folder.slurm)

    def submit(self, calls: Sequence[Call], sweep: SweepDirectory) -> list[str]:
        """Submit the calls from a copy of the code, and record their jobs in the sweep's folder; returns the jobs' names.

        The copy holds the user's files that the configs name, and those of other models that they read.
        """
        from diffusion_lab.config.naming import (
            other_models,
        )  # imports numpy, and Hydra imports this file for every command
        from diffusion_lab.config.untrusted import whole_config

        users: dict[Path, set[Path]] = {}
        for config in (config for call in calls for config in call.configs):
            asked = {key: value for key, value in as_plain(config).items() if key != "hydra"}
            for parts in (asked, *map(whole_config, other_models(config))):
                for folder, files in users_files(parts, parts).items():
                    users.setdefault(folder, set()).update(files)
        imports = shell(make_copy(sweep.code, users))
        requests = [{**request, "setup": [*request.get("setup", ()), *imports]} for request in self._requests(calls)]
        known, names = slurm.submitted(sweep), [""] * len(calls)
        for index, name in slurm.submit(calls, requests, sweep.slurm):
            known[calls[index].name] = names[index] = name
            write_json(sweep.submitted, known)
        print(f"submitted as {', '.join(names)}; what Slurm prints is in {sweep.slurm}")
        return names

    def show(self, calls: Sequence[Call], sweep: SweepDirectory) -> None:
        """Print what would be submitted."""
        requests = self._requests(calls)
        for array in slurm.arrays(requests):
            names, several = ", ".join(calls[index].name for index in array), "s" * (len(array) > 1)
            print(f"{len(array)} job{several} would be submitted: {names}")
            print(slurm.script(requests[array[0]], len(array), sweep.slurm))

    def summary(self, calls: Sequence[Call]) -> list[str]:
        purposes = [f" to {call.job.purpose}" if call.job else "" for call in calls]
        kinds = Counter(zip(purposes, map(slurm.in_words, self._requests(calls)), strict=True))
        return [f"Slurm: {number} job{'s' * (number > 1)}{to}: {request}" for (to, request), number in kinds.items()]

    def _requests(self, calls: Sequence[Call]) -> list[slurm.Request]:
        families = self.hydra_context.config_loader.get_group_options("model")
        found = []
        for config in (call.configs[0] for call in calls):
            family = config.hydra.runtime.choices.get("model")
            options = as_plain(config.hydra.launcher, resolve=True)
            of_job = {name: _of_family(name, value, family, families) for name, value in options.items()}
            del of_job["_target_"], of_job["dry_run"]
            found.append(slurm.request(of_job, _devices(config)[0]))
        return found


def _devices(config: DictConfig) -> tuple[str, Any]:
    """The accelerator and the devices that a job asks for."""
    asked = config.get("trainer") or config  # evaluate has no trainer
    devices = asked.get("devices")
    return str(asked.get("accelerator", "auto")), list(devices) if OmegaConf.is_list(devices) else devices


def _of_family(name: str, value: Any, family: str | None, families: Collection[str]) -> Any:
    """The value itself, or the entry of a mapping for this family or for all unnamed ones."""
    if family is None or not isinstance(value, Mapping) or not {"default", *families} & value.keys():
        return value
    unknown = [key for key in value if key not in ("default", *families)]
    if unknown:
        raise JobError(f"hydra.launcher.{name}: there is no model={unknown[0]}; the models are {', '.join(families)}")
    if family not in value and "default" not in value:
        raise JobError(f"hydra.launcher.{name}: there is no value for model={family}; add default: …")
    return value.get(family, value.get("default"))
