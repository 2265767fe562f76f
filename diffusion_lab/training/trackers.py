"""Trackers that show trainings, scores and reports besides our own files, which are the record: TensorBoard, Weights & Biases.

Whatever trackers lose (a connection, the last records before a kill) is still in metrics.csv and metrics.json. Lightning is
imported only for training, because reports do not need it.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from diffusion_lab.store.files import make_folders, write_whole
from diffusion_lab.store.option_names import flat
from diffusion_lab.store.records import inside
from diffusion_lab.training.interruption import Interrupted

if TYPE_CHECKING:
    from types import ModuleType

    from lightning.pytorch.loggers import Logger
    from wandb import Run, Settings

# Keys that W&B's panels use, besides the names of losses and measures.
SAMPLES, BOUND_BY_T, STEP = "samples", "L_t", "trainer/global_step"

_PATIENCE_SECONDS = 30.0
_LONGEST_NAME = 128  # of an artifact


@dataclass(frozen=True)
class About:
    """The description of a training, a score or a report for a tracker.

    name: of its directory. folder: for the tracker's files. id_file: for the id of its run.
    group: its sweep, if any. tags: the user's, and choices such as schedule=cosine. config: the whole
    config, nested.
    """

    name: str
    folder: Path
    id_file: Path
    group: str | None
    tags: tuple[str, ...]
    config: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Score:
    """The shown part of a score. labels: names of the values with units. bound: columns of the bound by t, or empty."""

    values: Mapping[str, float | None]
    labels: Mapping[str, str]
    bound: Mapping[str, list[float]]
    samples_png: Path


class Tracker(ABC):
    """One of the entries of `logger`. It shows trainings; subclasses may also show scores and reports."""

    @abstractmethod
    def training(self, about: About) -> AbstractContextManager[Logger]:
        """Lightning's logger of a training; the context is told how training ended. Sample grids go to its `log_image`, if any."""

    def scoring(self, about: About) -> AbstractContextManager[Callable[[Score], None]]:
        """A function that shows a `Score`; the context is told how scoring ended."""
        return nullcontext(lambda score: None)

    def report(self, about: About, files: Mapping[str, Path]) -> None:  # noqa: B027 - does nothing by default
        """Store the files of a sweep's report, name -> file; earlier versions are kept."""


class TensorBoard(Tracker):
    """TensorBoard, which shows trainings only: it has no place for scores of many measures, or for files."""

    @contextmanager
    def training(self, about: About) -> Iterator[Logger]:
        from lightning.pytorch.loggers import TensorBoardLogger

        class WithImages(TensorBoardLogger):
            def log_image(self, key: str, images: list[str], step: int) -> None:
                for file in images:
                    self.experiment.add_image(key, np.asarray(Image.open(file).convert("RGB")), step, dataformats="HWC")

        make_folders(about.folder)
        yield WithImages(save_dir=about.folder, name="", version="")


class OfLightning(Tracker):
    """One of Lightning's own loggers, with the config as hyperparameters. A score is one row of metrics."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger

    @contextmanager
    def training(self, about: About) -> Iterator[Logger]:
        make_folders(about.folder)
        self._logger.log_hyperparams(flat(about.config))
        yield self._logger

    @contextmanager
    def scoring(self, about: About) -> Iterator[Callable[[Score], None]]:
        ended = "failed"
        try:
            with self.training(about) as logger:
                yield lambda score: logger.log_metrics({name: x for name, x in score.values.items() if x is not None})
            ended = "success"
        finally:
            self._logger.finalize(ended)


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

    @contextmanager
    def scoring(self, about: About) -> Iterator[Callable[[Score], None]]:
        with self._run(about, "evaluate") as run:
            yield lambda score: _show(run, score)

    def report(self, about: About, files: Mapping[str, Path]) -> None:
        """Log a new version of the artifact named after the sweep, unless nothing has changed."""
        import wandb

        with self._run(about, "report") as run:
            artifact = wandb.Artifact(re.sub(r"[^A-Za-z0-9_.-]", "-", about.name)[:_LONGEST_NAME], type="report")
            for name, file in files.items():
                # A copy, because `wandb sync` may run later, when a newer report has replaced the files.
                copy = Path(run.dir).parent / "report" / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
                artifact.add_file(str(copy), name=name, policy="immutable", skip_cache=True)
            run.log_artifact(artifact)

    @contextmanager
    def _run(self, about: About, job_type: str) -> Iterator[Run]:
        """A run that ends with the block, in every case: finished, failed, or preempted and to be continued."""
        import wandb

        make_folders(about.folder)
        if not about.id_file.is_file():
            write_whole(about.id_file, secrets.token_hex(8).encode())
        options: dict[str, Any] = {
            "project": self.project,
            "entity": self.entity,
            "id": read_id(about.id_file),
            "resume": "allow",
            "dir": about.folder.absolute(),  # W&B's service may run in another folder
            "name": about.name,
            "group": about.group,
            "job_type": job_type,
            "tags": about.tags,
            "config": flat(about.config),
        }
        try:
            run = wandb.init(**options, settings=_settings(wandb))
        except wandb.errors.CommError as error:
            reason = " ".join(str(error).split())
            print(f"cannot reach W&B ({reason}); the work continues and is recorded offline", file=sys.stderr)
            wandb.teardown()  # its service would report that the id is in use
            run = wandb.init(**options, mode="offline", settings=_settings(wandb))
        code = 1
        try:
            yield run
            code = 0
        except Interrupted:
            run.mark_preempting()
            raise
        finally:
            run.finish(exit_code=code)
            if run.offline:
                print(f"W&B is offline; to upload this run: wandb sync {Path(run.dir).parent}", file=sys.stderr)


def read_id(file: Path) -> str:
    """The id of a run. ValueError for text that W&B or a path could misread, because the folder may be a stranger's."""
    written = inside(file.parent, file).read_text(errors="replace")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", written):
        raise ValueError(f"{file} does not contain a run id; remove it to start a new run")
    return written


def _settings(wandb: ModuleType) -> Settings:
    """W&B's settings with timeouts of at most half a minute for an unavailable service, unless WANDB_…_TIMEOUT are set."""
    waits = [name for name in ("init_timeout", "finish_timeout") if f"WANDB_{name.upper()}" not in os.environ]
    return wandb.Settings(silent=True, **dict.fromkeys(waits, _PATIENCE_SECONDS))


def _show(run: Run, score: Score) -> None:
    import wandb

    run.config.update({"measures": dict(score.labels)}, allow_val_change=True)
    values = {name: value for name, value in score.values.items() if value is not None}
    picture = {SAMPLES: wandb.Image(str(score.samples_png))} if score.samples_png.is_file() else {}
    run.log({**values, **picture})  # one row, so that values can be plotted against each other
    if score.bound:
        table = wandb.Table(
            columns=list(score.bound), data=[list(row) for row in zip(*score.bound.values(), strict=True)]
        )
        run.log({BOUND_BY_T: wandb.plot.line(table, "t", "bits_per_dim", title="L_t (bits/dim)")})
