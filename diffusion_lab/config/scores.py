"""Scores of a config: whether they can be computed, their folders, and their plans."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torchmetrics
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict

from diffusion_lab.conditions.condition import has_classes
from diffusion_lab.config.build import build_each, choices_made
from diffusion_lab.config.loading import Load, load_module, trained_config, trained_data
from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.config.naming import files_of_model, measuring_identity, name_of_score, sampling_identity
from diffusion_lab.config.overrides import TRAINED, as_plain
from diffusion_lab.config.weight_files import (
    check_buildable,
    check_moments,
    last_weights,
    plan_of_average,
    read_training_progress,
)
from diffusion_lab.data.module import DataModule
from diffusion_lab.metrics.drawer import Generated
from diffusion_lab.metrics.features import Features
from diffusion_lab.metrics.metric import Metric
from diffusion_lab.metrics.network_measurements import Measurements, check_classes
from diffusion_lab.metrics.reference import Need
from diffusion_lab.metrics.samples import NO_TRUTH
from diffusion_lab.metrics.score import ScorePlan, check_measures
from diffusion_lab.metrics.torch_metric import column
from diffusion_lab.models.diffusion import DiffusionModel
from diffusion_lab.models.diffusion_generator import DiffusionGenerator
from diffusion_lab.models.generator import Generator
from diffusion_lab.models.trainable import GenerativeModel
from diffusion_lab.store import FINGERPRINT_LENGTH, ModelDirectory, RunDirectory, cache_directory, run_directory
from diffusion_lab.store.option_names import check_at_least
from diffusion_lab.store.own_files import sha256_of
from diffusion_lab.store.provenance import SCORING, made_by
from diffusion_lab.store.weight_names import Moment, is_snapshot, read_moments, snapshot_name
from diffusion_lab.training.devices import DeviceRequest
from diffusion_lab.training.profiles import wanted_length
from diffusion_lab.training.ranks import device_of
from diffusion_lab.training.speed import check_compile

END = "end"  # the finished model
_AUTO = "auto"


@dataclass(frozen=True)
class PlannedScore:
    """A planned score: plan, folder, and record.

    plan: the computation. run: the folder of the score. cfg: its config. choices: the option of each group. read: the files that
    determine it, by name, with their digests, and under `files` and `options` the user's own that the model's config names.
    anew: whether an existing score is computed again. about: the line that names the model in the terminal. model: the folder of
    the scored model; None for given images.
    """

    plan: ScorePlan
    run: RunDirectory
    cfg: DictConfig
    choices: Mapping[str, str | None]
    read: Mapping[str, Any]
    anew: bool
    about: str
    model: ModelDirectory | None = None

    @property
    def other_code(self) -> str | None:
        """One sentence if the score exists and other code computed it."""
        made = made_by(self.run.read_metrics(), SCORING)
        return made and f"{self.run.path} was scored by {made}: rescore=true scores again"

    @property
    def is_scored(self) -> bool:
        """Whether the score exists, was computed from the files as they are now, and is not to be computed again."""
        return (
            not self.anew
            and self.run.metrics.is_file()
            and self.run.read_metrics().get("protocol", {}).get("read") == self.read
        )


def planned_scores(
    cfg: DictConfig, request: DeviceRequest, load: Load = load_module, data: DataModule | None = None
) -> list[PlannedScore]:
    """The scores that a config of `evaluate` requests, one per moment. MistakeError or ValueError if one cannot be computed.

    load: as in `drawing_of`. data: as in `trained_data`.
    """
    directory, saved = trained_config(cfg)
    data, scores = trained_data(saved, data), requested_scores(saved)
    module = load(directory, saved, *(score.evaluation.weights for score in scores))
    for score in scores:
        _check_weights(score.evaluation.weights, module.weight_names, f"{directory.path} has")
    check_compile(cfg.compile, request.on_gpu, None, module)
    since = time.time() if cfg.rescore else 0.0  # of all scores, which share the values of real images
    module.to(device_of(request))
    return [planned_score(module, data, score, directory, Path(cfg.outputs), since) for score in scores]


def planned_score(
    module: GenerativeModel, data: DataModule, cfg: DictConfig, directory: ModelDirectory, outputs: Path, since: float
) -> PlannedScore:
    """The score that `cfg` describes of a trained module, which has its weights and is on its device.

    data: the data set of its training. directory: the model's folder. outputs: where the score is written. since: as in
    `CacheDirectory`; 0 unless the score is computed again. MistakeError or ValueError if it cannot be computed.
    """
    training, wanted = directory.read_training(), cfg.evaluation.weights
    weights = last_weights(directory) if wanted == _AUTO else wanted
    cost, of_weights = _cost(directory, training, wanted, module.guiding_snapshots)
    generator, metrics, features = module.generator(weights), build_metrics(cfg), build_features(cfg)
    and_costs = any(Need.STEP_COSTS in metric.needs for metric in metrics)
    measured = measurements(generator, cfg, directory, weights, and_costs)
    unread = generator.protocol().keys() - generator.sampling_protocol().keys()
    unread |= {"measured_variance"} if "variance" in unread else set()
    source = Generated(
        generator=generator,
        weights=weights,
        identities=[sampling_identity(cfg, unread, name) for name in features],
        cache=cache_directory(outputs, since),
        training=cost,
        measure=None if measured is None else measured.applied,
    )
    read = {**digests(directory, weights, *map(snapshot_name, module.guiding_snapshots)), **own_files_read(directory)}
    identity = {"model_directory": directory.path.name, "fingerprint": training["fingerprint"]}
    recorded = {**identity, "read": read, **of_weights}
    return PlannedScore(
        ScorePlan(source, data, [*features.values()], metrics, instantiate(cfg.evaluation), recorded),
        run_of(directory, cfg, outputs),
        cfg,
        scored_choices(directory.read_choices()),
        read,
        since > 0,
        about_model(directory),
        directory,
    )


def about_model(directory: ModelDirectory) -> str:
    """The line that names a model's folder in the terminal."""
    return f"model  {directory.path}  (weights, config{', metrics.csv' if directory.metrics_csv.is_file() else ''})"


def measurements(
    generator: Generator, cfg: DictConfig, directory: ModelDirectory, weights: str, and_costs: bool = False
) -> Measurements | None:
    """The measurements that `generator` needs before it draws with the options `cfg`; None if it needs none.

    directory, weights: the model's folder, and the name of its weights. and_costs: whether a metric needs the costs of steps.
    """
    check_at_least(1, cfg, "evaluation.statistics_images")
    if not isinstance(generator, DiffusionGenerator):
        return None
    variance = cfg.get("measured_variance")
    found = Measurements(
        data_moments=generator.start.needs_data_moments,
        variance=None if variance is None else instantiate(variance),
        step_costs=and_costs or generator.sampler.spacing.needs_costs,
        num_images=cfg.evaluation.statistics_images,
        identity=measuring_identity(cfg),
        about=f"{directory.path.name}-{weights}",
    )
    return found if found.any else None


def own_files_read(directory: ModelDirectory) -> dict[str, dict[str, str]]:
    """The user's own files that a model's config names, as they are now, for `PlannedScore.read`."""
    return {kind: files for kind, files in files_of_model(directory).items() if files}


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


def _check_weights(chosen: str, weights: Sequence[str], whose: str) -> None:
    """MistakeError for evaluation.weights that are not among `weights`. whose: the start of the message, "… has"."""
    known = [_AUTO, *weights]
    if chosen not in known:
        if is_snapshot(chosen):
            check_moments([chosen], weights, whose)
        raise MistakeError(f"evaluation.weights={chosen}: choose one of {', '.join(known)}")


def check_planned_score(cfg: DictConfig, data: DataModule, module: GenerativeModel, directory: ModelDirectory) -> None:
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
    _check_weights(chosen, weights, whose)
    instantiate(cfg.evaluation).check(data)
    metrics = _metrics_by_name(cfg)
    check_measures([*build_features(cfg).values()], [*metrics.values()], data)
    if cfg.score:
        if all(map(has_classes, module.conditions)):
            for name, metric in metrics.items():
                if Need.TRUTH in metric.needs:
                    raise MistakeError(f"metrics.{name} {NO_TRUTH}")
        if isinstance(module, DiffusionModel) and module.start.needs_data_moments and module.num_classes is not None:
            check_classes(data)
        check_moments(map(snapshot_name, module.guiding_snapshots), weights, whose)


def build_features(cfg: DictConfig) -> dict[str, Features]:
    return build_each(cfg, "features", Features)


def build_metrics(cfg: DictConfig) -> list[Metric]:
    return [*_metrics_by_name(cfg).values()]


def _metrics_by_name(cfg: DictConfig) -> dict[str, Metric]:
    """The metrics of cfg.metrics; those of torchmetrics as columns, with their arguments for the record."""
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


def requested_weights(at: Sequence[Any] | None) -> list[str]:
    """[1m, end] -> ["at_1m", "end"]. ValueError for an invalid moment or a repeated one."""
    return [*map(snapshot_name, scored_moments(at)), *([END] if END in (at or ()) else [])]


def scored_moments(at: Sequence[Any] | None) -> list[Moment]:
    """The moments before the end of training."""
    return read_moments("evaluation.at", [written for written in at or () if written != END])


def _with_weights(cfg: DictConfig, name: str) -> DictConfig:
    one = copy.deepcopy(cfg)
    with open_dict(one):
        one.evaluation.at = None
        one.evaluation.weights = _AUTO if name == END else name
    return one
