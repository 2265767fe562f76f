"""From a config to what its tracker, if any, is told of a training and of a score."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig

from diffusion_lab.commands.build import plain_config
from diffusion_lab.runs import ModelDirectory, RunDirectory
from diffusion_lab.sweeps.measures import measure

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

    from diffusion_lab.callbacks.tracking import About, Tracker


@contextmanager
def tracked_training(cfg: DictConfig, directory: ModelDirectory, choices: Mapping[str, str]) -> Iterator[list[Logger]]:
    """Loggers for Lightning besides our own record: one or none."""
    tracker = _tracker(cfg)
    if tracker is None:
        yield []
        return
    with tracker.training(_about(cfg, directory, choices)) as logger:
        yield [logger]


@contextmanager
def tracked_score(
    cfg: DictConfig, run: RunDirectory, choices: Mapping[str, str]
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A function that shows what metrics.json holds."""
    from diffusion_lab.callbacks.tracking import Score

    tracker = _tracker(cfg)
    if tracker is None:
        yield lambda metrics: None
        return
    with tracker.scoring(_about(cfg, run, choices)) as show:

        def show_metrics(metrics: Mapping[str, Any]) -> None:
            labels = {name: known.axis for name in metrics["values"] if (known := measure(name))}
            show(Score(metrics["values"], labels, metrics["curves"].get("bits_per_dim", {}), run.samples_png))

        yield show_metrics


def _tracker(cfg: DictConfig) -> Tracker | None:
    return None if cfg.get("logger") is None else instantiate(cfg.logger)


def _about(cfg: DictConfig, place: ModelDirectory | RunDirectory, choices: Mapping[str, str]) -> About:
    from diffusion_lab.callbacks.tracking import About

    hydra = HydraConfig.get()
    sweep = hydra.sweeper.get("name") if hydra.mode is RunMode.MULTIRUN else None
    tags = tuple(f"{group}={option}" for group, option in choices.items() if option not in (None, "default"))
    return About(place.path.name, place.logs, place.tracked_as, sweep, tags, plain_config(cfg))
