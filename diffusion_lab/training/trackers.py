"""Trackers of trainings, scores and reports: Weights & Biases, or any Lightning logger. Our own files are the record.

Whatever trackers lose (a connection, the last records before a kill) is still in metrics.csv and metrics.json. Lightning is
imported only for training, because reports do not need it.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusion_lab.store.files import make_folders, write_whole
from diffusion_lab.store.measures import read_measures
from diffusion_lab.store.option_names import flat

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger
    from wandb import Run

# Keys that W&B's panels use, besides the names of losses and measures.
SAMPLES, BOUND_BY_T, STEP = "samples", "L_t", "trainer/global_step"


@dataclass(frozen=True)
class About:
    """The description of a training, a score or a report for a tracker.

    name: of its directory. folder: for the tracker's files. id_file: the file with the id of its run. group: its sweep, if any.
    tags: those of the user, and choices such as schedule=cosine. config: the whole config, nested.
    """

    name: str
    folder: Path
    id_file: Path
    group: str | None
    tags: tuple[str, ...]
    config: Mapping[str, Any] = field(repr=False)


class Tracker(ABC):
    """An entry of `logger`. It records trainings; subclasses may also record scores and reports."""

    @abstractmethod
    def training(self, about: About) -> AbstractContextManager[Logger]:
        """A context with Lightning's logger of a training; an exception in it marks the run as failed.

        Sample grids go to the logger's `log_image`, if it has one.
        """

    def score(self, about: About, metrics: Mapping[str, Any], samples_png: Path) -> None:  # noqa: B027 - does nothing by default
        """Show a finished score. metrics: the content of metrics.json. samples_png: a file that may not exist."""

    def report(self, about: About, folder: Path) -> None:  # noqa: B027 - as above
        """Store the files of a sweep's report; earlier versions are kept."""


class OfLightning(Tracker):
    """One of Lightning's loggers, with the config as hyperparameters. A score is one row of metrics."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger

    @contextmanager
    def training(self, about: About) -> Iterator[Logger]:
        make_folders(about.folder)
        self._logger.log_hyperparams(flat(about.config))
        yield self._logger

    def score(self, about: About, metrics: Mapping[str, Any], samples_png: Path) -> None:
        with self.training(about) as logger:
            logger.log_metrics(_numbers(metrics))
        self._logger.finalize("success")


class WeightsAndBiases(Tracker):
    """One W&B run for each training, score and report. Its id is in the folder, so a resumed training continues its run.

    project, entity: of the runs; entity None: the account's default entity. ValueError if W&B requires a login.
    """

    def __init__(self, project: str, entity: str | None) -> None:
        import wandb

        online = os.environ.get("WANDB_MODE", "online") == "online"
        if online and not wandb.login(prompt=False, verify=False):
            raise ValueError(
                "you are not logged in to Weights & Biases: run `wandb login`, or set WANDB_MODE=offline "
                "and upload the runs later"
            )
        self.project, self.entity = project, entity

    @contextmanager
    def training(self, about: About) -> Iterator[Logger]:
        from lightning.pytorch.loggers import WandbLogger

        with self._run(about, "train") as run:
            run.define_metric(STEP)
            run.define_metric("*", step_metric=STEP, step_sync=True)
            yield WandbLogger(experiment=run)

    def score(self, about: About, metrics: Mapping[str, Any], samples_png: Path) -> None:
        import wandb

        labels = {measure.name: measure.axis for measure in read_measures(metrics) if measure.column}
        picture = {SAMPLES: wandb.Image(str(samples_png))} if samples_png.is_file() else {}
        bound = metrics["curves"].get("bits_per_dim", {})
        with self._run(about, "evaluate") as run:
            run.config.update({"measures": labels}, allow_val_change=True)
            run.log({**_numbers(metrics), **picture})  # one row, so that values can be plotted against each other
            if bound:
                table = wandb.Table(columns=list(bound), data=[list(row) for row in zip(*bound.values(), strict=True)])
                run.log({BOUND_BY_T: wandb.plot.line(table, "t", "bits_per_dim", title="L_t (bits/dim)")})

    def report(self, about: About, folder: Path) -> None:
        """Log a new version of the artifact named after the sweep, unless nothing has changed. W&B copies the files."""
        import wandb

        artifact = wandb.Artifact(re.sub(r"[^A-Za-z0-9_.-]", "-", about.name), type="report")
        for file in sorted(file for file in folder.rglob("[!.]*") if file.is_file()):
            artifact.add_file(str(file), name=str(file.relative_to(folder)))
        with self._run(about, "report") as run:
            run.log_artifact(artifact)

    @contextmanager
    def _run(self, about: About, job_type: str) -> Iterator[Run]:
        """A run that ends with the block, as finished or failed."""
        import wandb

        make_folders(about.folder)
        if not about.id_file.is_file():
            write_whole(about.id_file, secrets.token_hex(8).encode())
        options: dict[str, Any] = {
            "project": self.project,
            "entity": self.entity,
            "id": about.id_file.read_text(),
            "resume": "allow",
            "dir": about.folder.absolute(),  # W&B's service may run in another folder
            "name": about.name,
            "group": about.group,
            "job_type": job_type,
            "tags": about.tags,
            "config": flat(about.config),
            "settings": wandb.Settings(silent=True),
        }
        try:
            run = wandb.init(**options)
        except wandb.errors.CommError as error:
            reason = " ".join(str(error).split())
            print(f"cannot reach W&B ({reason}); the work continues and is recorded offline", file=sys.stderr)
            wandb.teardown()  # its service would report that the id is in use
            run = wandb.init(**options, mode="offline")
        code = 1
        try:
            yield run
            code = 0
        finally:
            run.finish(exit_code=code)  # W&B's own context manager prints tracebacks
            if run.offline:
                print(f"W&B is offline; to upload this run: wandb sync {Path(run.dir).parent}", file=sys.stderr)


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in metrics["values"].items() if value is not None}
