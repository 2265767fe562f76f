"""Building the trackers of trainings, scores and reports from a config."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig

from diffusion_lab.config.build import entries
from diffusion_lab.config.mistakes import MistakeError, mistake_in_job
from diffusion_lab.config.naming import plain_config
from diffusion_lab.report.panels import SERIES, series
from diffusion_lab.store import Directory, RunDirectory, SweepDirectory
from diffusion_lab.training.trackers import About, OfLightning, Tracker


def build_trackers(cfg: DictConfig, place: Directory | None = None) -> list[Tracker]:
    """The trackers that `logger` chooses, in order; MistakeError for a class that is not a logger.

    place: the folder of a training or a score, where Lightning's loggers write; their runs have its name. None: these loggers are
    checked, but not built.
    """
    trackers: list[Tracker] = []
    for name, node in entries(cfg, "logger"):
        kind = instantiate(node, _partial_=True).func
        if isinstance(kind, type) and issubclass(kind, Tracker):
            trackers.append(instantiate(node))
            continue
        from lightning.pytorch.loggers import Logger

        if not (isinstance(kind, type) and issubclass(kind, Logger)):
            raise MistakeError(f"logger.{name}._target_={node['_target_']} is not one of Lightning's loggers")
        if place is not None:
            usual = {"save_dir": str(place.logs), "run_name": place.home.name}
            unsaid = {key for key in usual.keys() & signature(kind).parameters.keys() if node.get(key) is None}
            trackers.append(OfLightning(instantiate(node, **{key: usual[key] for key in unsaid})))
    return trackers


def track_report(cfg: DictConfig, sweep: SweepDirectory, folder: Path) -> None:
    """Send a sweep's report to the trackers."""
    with _only_warned(f"the report was written to {folder}"):
        about = {key: value for key, value in sweep.read_sweep().items() if key != "cells"}
        name = sweep.path.name
        for tracker in build_trackers(cfg):
            tracker.report(About(name, sweep.logs, sweep.tracked_as, name, (), about), folder)


def track_score(
    trackers: Iterable[Tracker], cfg: DictConfig, run: RunDirectory, choices: Mapping[str, str | None]
) -> None:
    """Send a score to the trackers. choices: of the groups."""
    with _only_warned(f"the score was written to {run.path}"):
        for tracker in trackers:
            tracker.score(described(cfg, run, choices), run.read_metrics(), run.samples_png)


@contextmanager
def _only_warned(written: str) -> Iterator[None]:
    """A failure of a tracker is only a warning, because the files are already written."""
    try:
        yield
    except Exception as error:
        message = mistake_in_job(error) or " ".join(f"{type(error).__name__}: {error}".split())
        print(f"warning: {written}, but not sent to the loggers: {message}", file=sys.stderr)


def described(cfg: DictConfig, place: Directory, choices: Mapping[str, str | None]) -> About:
    """Description of a training or a score for trackers. choices: of the groups."""
    hydra = HydraConfig.get()
    sweep = hydra.sweeper.get("name") if hydra.mode is RunMode.MULTIRUN else None
    chosen = (f"{group}={option}" for group, option in choices.items() if option not in (None, "default"))
    tags = (*cfg.get("tags", ()), *chosen)
    config = {**plain_config(cfg), SERIES: series(choices)}
    return About(place.home.name, place.logs, place.tracked_as, sweep, tags, config)
