"""Scores of a config: their measures, their folders, and whether they can be computed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict

from diffusion_lab.config.build import build_each, choices_made
from diffusion_lab.config.composing import TRAINED
from diffusion_lab.config.identity import scoring_fingerprint
from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.config.weight_files import check_buildable, check_moments
from diffusion_lab.store import FINGERPRINT_LENGTH, ModelDirectory, RunDirectory, run_directory
from diffusion_lab.store.weight_names import IMAGES, SECONDS, STEPS, Moment, is_snapshot, read_moments, snapshot_name
from diffusion_lab.training.profiles import wanted_length

if TYPE_CHECKING:
    from diffusion_lab.data.module import DataModule
    from diffusion_lab.metrics.features import Features
    from diffusion_lab.metrics.metric import Metric
    from diffusion_lab.models.base import GenerativeModel

END = "end"  # the finished model
_AUTO = "auto"


def run_of(directory: ModelDirectory, model_fingerprint: str, cfg: DictConfig, outputs: Path) -> RunDirectory:
    """The folder of this score. It is known before training, because weights "auto" are recorded as "auto"."""
    run_id = scoring_fingerprint(model_fingerprint, cfg)[:FINGERPRINT_LENGTH]
    return run_directory(outputs, f"{directory.path.name}-{run_id}")


def scored_choices(trained: Mapping[str, str | None]) -> dict[str, str | None]:
    """The chosen option of each group in a score: this command's, else training's. Empty for a call from Python."""
    if not HydraConfig.initialized():
        return {}
    made = {group: option for group, option in choices_made().items() if option not in (None, TRAINED)}
    return {**trained, **made}


def check_scoring(cfg: DictConfig, data: DataModule, weights: Sequence[str], whose: str) -> None:
    """MistakeError or ValueError for scoring options that would fail later. whose: the start of the message, "… has"."""
    from diffusion_lab.metrics.score import check_measures

    check_measures(list(build_features(cfg).values()), build_metrics(cfg), data)
    settings = instantiate(cfg.evaluation)
    settings.check(data)
    chosen, known = settings.weights, ["auto", *weights]
    if chosen not in known:
        if is_snapshot(chosen):
            check_moments([chosen], weights, whose)
        raise MistakeError(f"evaluation.weights={chosen}: choose one of {', '.join(known)}")


def check_planned_score(cfg: DictConfig, data: DataModule, model: GenerativeModel, directory: ModelDirectory) -> None:
    """MistakeError or ValueError for scoring options that would fail after training."""
    if cfg.objective_metric is not None and not cfg.score:
        raise MistakeError(f"objective_metric={cfg.objective_metric} is a value of the score: remove score=false")
    there = directory.weight_names if directory.finished and not cfg.retrain else []
    kept = map(snapshot_name, read_moments("snapshots.at", cfg.snapshots.at))
    weights = there or ["raw", *instantiate(cfg.ema).decays, *kept]
    whose = f"{directory.path} {'has' if there else 'will have'}"
    chosen = cfg.evaluation.weights
    if wanted_length(chosen) is not None:
        check_buildable(chosen, len(directory.kept_averages) if there else cfg.snapshots.averages, whose)
        weights = [*weights, chosen]
    check_scoring(cfg, data, weights, whose)
    if cfg.score:
        if model.denoiser and model.denoiser.start.needs_data_moments and model.num_classes is not None:
            from diffusion_lab.metrics.measuring import check_classes

            check_classes(data)
        check_moments(map(snapshot_name, model.moments), weights, whose)


def build_features(cfg: DictConfig) -> dict[str, Features]:
    from diffusion_lab.metrics.features import Features

    return build_each(cfg, "features", Features)


def build_metrics(cfg: DictConfig) -> list[Metric]:
    from diffusion_lab.metrics.metric import Metric

    return list(build_each(cfg, "metrics", Metric).values())


def requested_scores(cfg: DictConfig) -> list[DictConfig]:
    """One copy of `cfg` per moment of evaluation.at, with that moment in evaluation.weights; only `cfg` without evaluation.at.

    evaluation.weights selects one of them. ValueError for an invalid moment.
    """
    wanted, weights = requested_weights(cfg.evaluation.get("at")), cfg.evaluation.weights
    if wanted and weights not in (_AUTO, *wanted):
        raise MistakeError(f"evaluation.weights={weights}: evaluation.at already chooses the weights: remove one")
    return [_with_weights(cfg, name) for name in ([weights] if weights != _AUTO else wanted or [_AUTO])]


def add_scored_moments(cfg: DictConfig) -> None:
    """Add the moments of evaluation.at to snapshots.at. ValueError for a moment after the end of training."""
    at = {
        "snapshots.at": read_moments("snapshots.at", cfg.snapshots.at),
        "evaluation.at": _scored_moments(cfg.evaluation.get("at")),
    }
    for option, moments in at.items():
        for moment in moments:
            ends = _end(cfg, moment)
            if ends is not None:
                raise ValueError(f"{option}: training ends before {moment} ({ends}); remove it, or train for longer")
    new = [moment for moment in at["evaluation.at"] if moment not in at["snapshots.at"]]
    with open_dict(cfg):
        cfg.snapshots.at = [*cfg.snapshots.at, *map(_written, new)]


def requested_weights(at: Sequence[Any] | None) -> list[str]:
    """[1m, end] -> ["at_1m", "end"]. ValueError for an invalid moment or a repeated one."""
    return [*map(snapshot_name, _scored_moments(at)), *([END] if END in (at or ()) else [])]


def _scored_moments(at: Sequence[Any] | None) -> list[Moment]:
    """The moments before the end of training."""
    return read_moments("evaluation.at", [written for written in at or () if written != END])


def _with_weights(cfg: DictConfig, name: str) -> DictConfig:
    one = copy.deepcopy(cfg)
    with open_dict(one):
        one.evaluation.at = None
        one.evaluation.weights = _AUTO if name == END else name
    return one


def _written(moment: Moment) -> float | str:
    return str(moment) if moment.unit in (SECONDS, STEPS, IMAGES) else moment.amount


def _end(cfg: DictConfig, moment: Moment) -> str | None:
    """The option that ends training before a moment, if this is known in advance."""
    from diffusion_lab.models.budget import seconds_of

    steps, time = cfg.trainer.max_steps, cfg.trainer.get("max_time")
    if time is not None and moment.unit == SECONDS and moment.amount > seconds_of(time):
        return f"trainer.max_time={time}"
    needed = {STEPS: moment.amount, IMAGES: moment.amount / max(cfg.data.batch_size, 1)}.get(moment.unit, 0)
    return f"trainer.max_steps={steps}" if 0 < steps < needed else None
