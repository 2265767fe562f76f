"""From a config to a score: what it measures, where it lies or will lie, and whether it can be made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.utils import instantiate
from omegaconf import DictConfig

from diffusion_lab.config.build import build_each
from diffusion_lab.config.identity import scoring_fingerprint
from diffusion_lab.config.measured_variance import needed_head
from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.config.power_averages import check_buildable
from diffusion_lab.config.trained import check_moments
from diffusion_lab.store import FINGERPRINT_LENGTH, ModelDirectory, RunDirectory, run_directory
from diffusion_lab.store.weights import is_snapshot, snapshot_name
from diffusion_lab.training.profiles import wanted_length

if TYPE_CHECKING:
    from diffusion_lab.data.module import DataModule
    from diffusion_lab.metrics import Metric
    from diffusion_lab.metrics.features import Features
    from diffusion_lab.models.base import GenerativeModel


def run_of(directory: ModelDirectory, model_fingerprint: str, cfg: DictConfig, outputs: Path) -> RunDirectory:
    """Where this score of this model lies or will lie; known before the model is trained, because weights "auto" stay "auto"."""
    head = needed_head(directory, cfg, cfg.evaluation.weights)
    run_id = scoring_fingerprint(model_fingerprint, cfg, head)[:FINGERPRINT_LENGTH]
    return run_directory(outputs, f"{directory.path.name}-{run_id}")


def is_scored(directory: ModelDirectory, cfg: DictConfig, outputs: Path) -> bool:
    """Whether this score of a trained model is there already."""
    return run_of(directory, directory.read_training()["fingerprint"], cfg, outputs).metrics.is_file()


def check_scoring(cfg: DictConfig, data: DataModule, weights: Sequence[str], whose: str) -> None:
    """MistakeError or ValueError for choices of scoring that would fail once there is something to score. whose: "… has" """
    from diffusion_lab.metrics.score import check_measures

    check_measures(list(build_features(cfg).values()), build_metrics(cfg), data)
    settings = instantiate(cfg.evaluation)
    settings.check(data)
    chosen, known = settings.weights, ["auto", *weights]
    if chosen not in known:
        if is_snapshot(chosen):
            check_moments([chosen], weights, whose)
        raise MistakeError(f"evaluation.weights={chosen}: choose one of {', '.join(known)}")


def check_planned_score(
    cfg: DictConfig, data: DataModule, model: GenerativeModel, directory: ModelDirectory, kept: list[str]
) -> None:
    """MistakeError or ValueError for what would fail after training. kept: snapshots that training keeps."""
    if cfg.objective_metric is not None and not cfg.score:
        raise MistakeError(f"objective_metric={cfg.objective_metric} is a value of the score: remove score=false")
    there = directory.weight_names if directory.finished and not cfg.retrain else []
    weights, whose = (
        there or ["raw", *instantiate(cfg.ema).decays, *kept],
        f"{directory.path} {'has' if there else 'will have'}",
    )
    chosen = cfg.evaluation.weights
    if wanted_length(chosen) is not None:
        check_buildable(chosen, len(directory.kept_averages) if there else cfg.snapshots.averages, whose)
        weights = [*weights, chosen]
    check_scoring(cfg, data, weights, whose)
    if cfg.score:
        if model.needs_data_moments and model.num_classes is not None:
            from diffusion_lab.metrics.measuring import check_classes

            check_classes(data)
        check_moments(map(snapshot_name, model.moments), weights, whose)


def build_features(cfg: DictConfig) -> dict[str, Features]:
    from diffusion_lab.metrics.features import Features

    return build_each(cfg, "features", Features)


def build_metrics(cfg: DictConfig) -> list[Metric]:
    from diffusion_lab.metrics import Metric

    return list(build_each(cfg, "metrics", Metric).values())
