"""From a config to what its tracker, if any, is told of a training, of a score and of a report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig

from diffusion_lab.commands.build import plain_config
from diffusion_lab.commands.mistakes import mistake_in_job
from diffusion_lab.runs import Directory, ModelDirectory, RunDirectory, SweepDirectory
from diffusion_lab.sweeps.measures import measure
from diffusion_lab.sweeps.panels import SERIES, series

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

    from diffusion_lab.callbacks.tracking import About, Tracker


def build_tracker(cfg: DictConfig) -> Tracker | None:
    """What `logger` chooses; None without one."""
    return None if cfg.get("logger") is None else instantiate(cfg.logger)


@contextmanager
def tracked_training(
    tracker: Tracker | None, cfg: DictConfig, directory: ModelDirectory, choices: Mapping[str, str]
) -> Iterator[list[Logger]]:
    """Loggers for Lightning besides our own record: one or none."""
    if tracker is None:
        yield []
        return
    with tracker.training(_about(cfg, directory, choices)) as logger:
        yield [logger]


@contextmanager
def tracked_score(
    cfg: DictConfig, run: RunDirectory, choices: Mapping[str, str]
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A function that shows what metrics.json holds. choices: of the training; those of this command come before them."""
    tracker = build_tracker(cfg)
    if tracker is None:
        yield lambda metrics: None
        return
    from diffusion_lab.callbacks.tracking import Score

    own = HydraConfig.get().runtime.choices
    chosen = {**choices, **{group: option for group, option in own.items() if option and "hydra" not in group}}
    with tracker.scoring(_about(cfg, run, chosen)) as show:

        def show_metrics(metrics: Mapping[str, Any]) -> None:
            labels = {name: known.axis for name in metrics["values"] if (known := measure(name))}
            show(Score(metrics["values"], labels, metrics["curves"].get("bits_per_dim", {}), run.samples_png))

        yield show_metrics


def track_report(cfg: DictConfig, sweep: SweepDirectory, folder: Path) -> None:
    """Give the report on a sweep to the tracker. It is finished without that, so whatever goes wrong here is one warning."""
    try:
        tracker = build_tracker(cfg)
        if tracker is None:
            return
        from diffusion_lab.callbacks.tracking import About
        from diffusion_lab.sweeps.report import report_files

        asked = {key: value for key, value in sweep.read_sweep().items() if key != "cells"}
        name = sweep.path.name
        tracker.report(About(name, sweep.logs, sweep.tracked_as, name, (), asked), report_files(folder))
    except Exception as error:
        said = mistake_in_job(error) or " ".join(f"{type(error).__name__}: {error}".split())
        print(f"warning: the report lies in {folder} alone: {said}", file=sys.stderr)


def _about(cfg: DictConfig, place: Directory, choices: Mapping[str, str]) -> About:
    from diffusion_lab.callbacks.tracking import About

    hydra = HydraConfig.get()
    sweep = hydra.sweeper.get("name") if hydra.mode is RunMode.MULTIRUN else None
    tags = tuple(f"{group}={option}" for group, option in choices.items() if option not in (None, "default"))
    config = {**plain_config(cfg), SERIES: series(choices)}
    return About(place.home.name, place.logs, place.tracked_as, sweep, tags, config)
