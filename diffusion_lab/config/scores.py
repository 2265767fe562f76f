"""Scores of a config: their plans, their folders, and whether they can be computed."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict

from diffusion_lab.config.build import build_each, choices_made
from diffusion_lab.config.composing import TRAINED
from diffusion_lab.config.identity import name_of_score, sampling_identity
from diffusion_lab.config.measured_variance import measurements
from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.config.overrides import as_plain
from diffusion_lab.config.weight_files import (
    check_buildable,
    check_moments,
    last_weights,
    plan_of_average,
    read_training_progress,
)
from diffusion_lab.store import FINGERPRINT_LENGTH, ModelDirectory, RunDirectory, cache_directory, run_directory
from diffusion_lab.store.identity import SCORING_ROOMS, code_now, made_by
from diffusion_lab.store.own_files import sha256_of
from diffusion_lab.store.weight_names import IMAGES, SECONDS, STEPS, Moment, is_snapshot, read_moments, snapshot_name
from diffusion_lab.training.profiles import wanted_length

if TYPE_CHECKING:
    from torch import nn

    from diffusion_lab.data.module import DataModule
    from diffusion_lab.metrics.features import Features
    from diffusion_lab.metrics.metric import Metric
    from diffusion_lab.metrics.score import ScorePlan
    from diffusion_lab.models.trainable import GenerativeModel

END = "end"  # the finished model
_AUTO = "auto"


@dataclass(frozen=True)
class PlannedScore:
    """A score, planned: what is measured, the folder for it, and what is recorded beside the numbers.

    cfg: its config. choices: the option of each group. read: the files that decide it, by name, with their digests. anew: it is
    computed although it is there. about: the last line but one in the terminal.
    """

    plan: ScorePlan
    run: RunDirectory
    cfg: DictConfig
    choices: Mapping[str, str | None]
    read: Mapping[str, str]
    anew: bool
    about: str

    @property
    def other_code(self) -> str | None:
        """A sentence if the score is there and other code computed it."""
        made = made_by(self.run.read_metrics(), code_now(SCORING_ROOMS))
        return made and f"{self.run.path} was scored by {made}: rescore=true scores again"

    @property
    def is_scored(self) -> bool:
        """Whether the score is there, was computed from the files as they are, and is not to be computed anew."""
        return (
            not self.anew
            and self.run.metrics.is_file()
            and self.run.read_metrics()["protocol"].get("read") == self.read
        )

    @property
    def network(self) -> nn.Module:
        """The network of the generator; given images have none."""
        assert self.plan.source.generator is not None
        return self.plan.source.generator.networks["network"]


def planned_score(
    module: GenerativeModel, data: DataModule, cfg: DictConfig, directory: ModelDirectory, outputs: Path, since: float
) -> PlannedScore:
    """The score that `cfg` describes of a trained module, which has its weights and is on its device.

    MistakeError or ValueError if it cannot be computed. since: as in `CacheDirectory`; 0 unless the score is computed anew.
    """
    from diffusion_lab.metrics.reference import Need
    from diffusion_lab.metrics.samples import Generated
    from diffusion_lab.metrics.score import ScorePlan
    from diffusion_lab.models.diffusion_generator import DiffusionGenerator

    training, wanted = directory.read_training(), cfg.evaluation.weights
    run = run_of(directory, cfg, outputs)
    weights = last_weights(directory) if wanted == _AUTO else wanted
    cost, of_weights = _cost(directory, training, wanted, module.guiding_snapshots)
    generator, metrics = module.generator(weights), build_metrics(cfg)
    measured = None
    if isinstance(generator, DiffusionGenerator):
        and_costs = any(Need.STEP_COSTS in metric.needs for metric in metrics)
        measured = measurements(generator, cfg, directory, weights, and_costs)
    unread = generator.protocol().keys() - generator.sampling_protocol().keys()
    unread |= {"measured_variance"} if "variance" in unread else set()
    features = build_features(cfg)
    source = Generated(
        generator=generator,
        weights=weights,
        identities=[sampling_identity(cfg, unread, name) for name in features],
        cache=cache_directory(outputs, since),
        training=cost,
        measurements=measured,
    )
    read = digests(directory, weights, *map(snapshot_name, module.guiding_snapshots))
    recorded = {
        "model_directory": directory.path.name,
        "fingerprint": training["fingerprint"],
        "read": read,
        **of_weights,
    }
    return PlannedScore(
        ScorePlan(source, data, [*features.values()], metrics, instantiate(cfg.evaluation), recorded),
        run,
        cfg,
        scored_choices(directory.read_choices()),
        read,
        since > 0,
        f"model  {directory.path}  (weights, config{', metrics.csv' if directory.metrics_csv.is_file() else ''})",
    )


def digests(directory: ModelDirectory, *weights: str) -> dict[str, str]:
    """SHA-256 of the files of a model that a score of these weights reads, by name: config and weights."""
    names = {name for name in weights if wanted_length(name) is None}
    files = [directory.config, *(directory.weights(name) for name in sorted(names))]
    files += directory.kept_averages if len(names) < len({*weights}) else []  # from which others are built
    return {file.name: sha256_of(file) for file in files}


def _cost(
    directory: ModelDirectory, training: Mapping[str, Any], weights: str, guided_by: Iterable[float | str]
) -> tuple[dict[str, float | None], dict[str, str]]:
    """The cost of training up to these weights, and the entry of the weights in the protocol.

    guided_by: earlier snapshots that guide the model. MistakeError if one of them is not earlier than the weights.
    """
    whole = {fact: training[fact] for fact in ("steps", "seconds", "images")}
    if wanted_length(weights) is not None:
        *_, error = plan_of_average(directory, weights)
        text = f"built from averages of {len(directory.kept_averages)} moments, with an error of {error:.1%} of its profile"
        return whole, {"average": text}
    if not is_snapshot(weights):
        return whole, {}
    moment, steps = read_training_progress(directory, weights), training["steps"]
    step = int(moment["step"])
    for guiding in guided_by:
        later = int(read_training_progress(directory, snapshot_name(guiding))["step"])
        if later >= step:
            raise MistakeError(
                f"guidance.moment={guiding} (step {later}) is not before {weights}; choose an earlier one"
            )
    text = f"the training as it was at step {step} of {steps}"
    return {"steps": step, "seconds": moment["seconds"], "images": int(moment["images"])}, {"moment": text}


def run_of(directory: ModelDirectory, cfg: DictConfig, outputs: Path) -> RunDirectory:
    """The folder of this score. It is known before training, because weights "auto" are recorded as "auto"."""
    return run_directory(outputs, f"{directory.path.name}-{str(name_of_score(cfg))[:FINGERPRINT_LENGTH]}")


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


def check_planned_score(cfg: DictConfig, data: DataModule, module: GenerativeModel, directory: ModelDirectory) -> None:
    """MistakeError or ValueError for scoring options that would fail after training."""
    from diffusion_lab.conditions.condition import has_classes
    from diffusion_lab.metrics.measuring import check_classes
    from diffusion_lab.metrics.reference import Need
    from diffusion_lab.metrics.samples import NO_TRUTH
    from diffusion_lab.models.diffusion import DiffusionModel

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
        if all(map(has_classes, module.conditions)):
            for name, metric in _metrics_by_name(cfg).items():
                if Need.TRUTH in metric.needs:
                    raise MistakeError(f"metrics.{name} {NO_TRUTH}")
        if isinstance(module, DiffusionModel) and module.start.needs_data_moments and module.num_classes is not None:
            check_classes(data)
        check_moments(map(snapshot_name, module.guiding_snapshots), weights, whose)


def build_features(cfg: DictConfig) -> dict[str, Features]:
    from diffusion_lab.metrics.features import Features

    return build_each(cfg, "features", Features)


def build_metrics(cfg: DictConfig) -> list[Metric]:
    return [*_metrics_by_name(cfg).values()]


def _metrics_by_name(cfg: DictConfig) -> dict[str, Metric]:
    """The metrics of cfg.metrics; those of torchmetrics as columns, with their arguments for the record."""
    import torchmetrics

    from diffusion_lab.metrics.metric import Metric
    from diffusion_lab.metrics.torch_metric import column

    found: dict[str, Metric] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Metric `.*` will save all", category=UserWarning)
        for name, metric in build_each(cfg, "metrics", Metric, torchmetrics.Metric).items():
            arguments = {
                key: value for key, value in as_plain(cfg.metrics[name], resolve=True).items() if key != "_target_"
            }
            found[name] = metric if isinstance(metric, Metric) else column(name, metric, arguments)
    return found


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
