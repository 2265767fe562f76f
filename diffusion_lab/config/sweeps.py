"""From the command line of a multirun to its plan: every cell composed, with the folders of its model and score."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import ConfigCompositionException
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import ConfigAttributeError, ConfigKeyError

from diffusion_lab.config.build import build_training_data
from diffusion_lab.config.composing import drop_leftovers
from diffusion_lab.config.duration import in_a_sentence, operations
from diffusion_lab.config.mistakes import MistakeError, refused_option, users_mistakes
from diffusion_lab.config.naming import differences_of
from diffusion_lab.config.options import check_options
from diffusion_lab.config.overrides import as_plain
from diffusion_lab.config.scores import build_features, build_metrics, own_files_read, requested_weights, run_of
from diffusion_lab.config.training import Training, training_of
from diffusion_lab.data.module import DataModule
from diffusion_lab.metrics.score import check_measures
from diffusion_lab.models.trainable import GenerativeModel, TrainableModel
from diffusion_lab.store.option_names import canonical_json
from diffusion_lab.store.provenance import first_of
from diffusion_lab.sweeps.axes import Axis, Combination, MissingOptionError, combinations
from diffusion_lab.sweeps.decide import OPEN, SEED, Key, Question, key_of
from diffusion_lab.sweeps.plan import Plan, PlannedCell, plan
from diffusion_lab.training import ranks
from diffusion_lab.training.devices import requested, visible_gpus
from diffusion_lab.training.trainer_options import checked_precision

_AT, _WEIGHTS = "evaluation.at", "evaluation.weights"
_DECIDE, _MEASURE = "sweep.decide", "sweep.decide.measure"
# Options of the whole sweep, as are all below _DECIDE.
ASKED_ONCE = ("outputs", "score", "retrain", "rescore", "tags", "debug", _AT)


@dataclass(frozen=True)
class Composed:
    """A cell's config. cfg: without Hydra's part. hydra: that part."""

    cfg: DictConfig
    hydra: DictConfig


def read_axes(arguments: Sequence[str], loader: ConfigLoader) -> list[Axis]:
    """Axes in Hydra's grammar: schedule=linear,cosine; seed=range(1,4); sampler=glob(*). A fixed option has one value."""
    axes = {}
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(arguments))
    for argument, override in zip(arguments, parsed, strict=True):
        key = _key(override)
        if not override.is_sweep_override():
            axes[key] = Axis(key, {override.get_value_element_as_str(): argument}, swept=False)
            continue
        if not override.is_discrete_sweep():
            raise MistakeError(f"{argument}: an interval has no values to try; write {key}=value,value")
        if key in ASKED_ONCE or key.startswith(_DECIDE):
            raise MistakeError(f"{argument}: {key} cannot differ between the cells of a sweep: give one value or list")
        element = override.get_key_element()
        listed = list(override.sweep_string_iterator())
        values = {value: f"{element}={value}" for value in listed}
        if not listed:
            raise MistakeError(f"{argument}: it names no value; write {key}=value,value")
        if len(values) < len(listed):
            raise MistakeError(f"{argument}: remove the repeated value")
        axes[key] = Axis(key, values, swept=len(values) > 1)
    return list(axes.values())


def with_moments(axes: Sequence[Axis], master: DictConfig) -> list[Axis]:
    """The axes, with one more for evaluation.at, whose moments are cells. MistakeError if the weights are an axis, too."""
    with users_mistakes():
        wanted = requested_weights(master.evaluation.get("at"))
    if not wanted:
        return list(axes)
    if any(axis.key == _WEIGHTS for axis in axes):
        raise MistakeError(f"{_WEIGHTS}: {_AT} already chooses the weights; remove one of the two")
    return [*axes, Axis(_WEIGHTS, {name: f"{_WEIGHTS}={name}" for name in wanted}, swept=len(wanted) > 1)]


def question_of(axes: Sequence[Axis], master: DictConfig) -> Question | None:
    """The question of the options sweep.decide; None without a measure. MistakeError for those that have no effect."""
    asked, typed = master.sweep.decide, {axis.key: next(iter(axis.overrides.values())) for axis in axes}
    if asked.measure is None:
        if idle := [word for key, word in typed.items() if key.startswith(_DECIDE) and key != _MEASURE]:
            raise MistakeError(f"{idle[0]} has no effect without {_MEASURE}=…: add that, or remove {idle[0]}")
        return None
    if not master.score:
        raise MistakeError(f"{_MEASURE}={asked.measure} is a value of the score: remove score=false")
    (seeds,) = [axis for axis in axes if axis.key == SEED] or [Axis(SEED, {str(master.seed): ""})]
    if len(seeds.overrides) > 1:
        fix = "remove it, or give the first one"
        raise MistakeError(f"{typed[SEED]}, …: with {_MEASURE} each round has a seed of its own; {fix}")
    with users_mistakes():
        first = int(next(iter(seeds.overrides)))
        return Question(first_seed=first, **{name: value for name, value in as_plain(asked).items() if name != "wait"})


def named_axes(axes: Sequence[Axis], question: Question | None) -> list[Axis]:
    """The axes that name a sweep: the open rule may be given more seeds later."""
    may_grow = question is not None and question.rule == OPEN
    return [axis for axis in axes if not (may_grow and axis.key == "sweep.decide.most_seeds")]


def without_options(axes: Sequence[Axis]) -> list[Axis]:
    """The axes without the options sweep.decide, which do not change a cell."""
    return [axis for axis in axes if not axis.key.startswith(_DECIDE)]


def make_plan(
    axes: Sequence[Axis], composer: Composer, master: DictConfig, reads: Collection[Key] | None = None
) -> tuple[Plan, list[str]]:
    """The plan, and notes on it. Every model is built.

    master: the command's config without the swept options. reads: the keys of the cells that are planned; None: all.
    """
    found, count = combinations(axes, composer)
    if reads is not None:
        found = [each for each in found if key_of(each.choices) in reads]
        count = len(found)
    data_of, gpus = _data_sets(), _gpus(master)
    cells, built = [], None
    for combination in found:
        cell, trained = _cell(combination, data_of, Path(master.outputs), gpus, master.sweep.decide.measure)
        cells.append(cell)
        built = built or trained
    planned = plan(cells, count, master.retrain, master.rescore, master.score)
    takes = None if built is None else in_a_sentence(planned, *built)
    new = {work.folder for work in planned.work}
    reused = dict.fromkeys(cell.model for cell in planned.cells if cell.model.path not in new)
    return planned, [*filter(None, [takes]), *first_of(differences_of(reused)), *_notes(axes, found)]


def _notes(axes: Sequence[Axis], found: Sequence[Combination[Composed]]) -> list[str]:
    """A note if the variance is swept but no sampler uses it."""
    if not any(axis.swept and axis.key == "variance" for axis in axes):
        return []
    with users_mistakes():
        samplers = {get_class(each.config.cfg.sampler._target_) for each in found if "sampler" in each.config.cfg}
    if any(getattr(sampler, "reads_variance", True) for sampler in samplers):
        return []
    return ["no sampler here uses the variance, so it changes bits/dim but not the samples; sampler=strided uses it"]


def _gpus(master: DictConfig) -> tuple[str, ...] | None:
    """The GPUs of this machine if the jobs run here; None if they run on a cluster."""
    return None if getattr(get_class(master.hydra.launcher._target_), "on_cluster", False) else visible_gpus()


def _on_gpu(trainer: DictConfig, gpus: tuple[str, ...] | None) -> bool:
    """Whether a job trains on a GPU. ValueError, in one sentence, if the jobs run here and cannot use cfg.trainer."""
    if gpus is None:
        return trainer.accelerator in ("gpu", "cuda")
    on_gpu = requested(trainer.accelerator, trainer.devices, gpus, ranks.num_cores()).on_gpu
    if trainer.precision != "auto":
        checked_precision(trainer.precision, on_gpu)
    return on_gpu


class Composer:
    """Composes overrides into configs: the config files once per set of choices, the values in copies of the result.

    Hydra reads some twenty files per config. MissingOptionError for the first override whose key the config lacks.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self._loader, self._master = loader, master
        parser = OverridesParser.create(config_loader=loader)
        self._parsed = cache(parser.parse_override)
        self._is_value = cache(self._names_value)
        self._base = cache(self._compose)

    def __call__(self, overrides: Sequence[str]) -> Composed:
        base = self._base(tuple(line for line in overrides if not self._is_value(line)))
        cfg = copy.deepcopy(base.cfg)
        for override in map(self._parsed, filter(self._is_value, overrides)):
            try:
                OmegaConf.update(cfg, override.key_or_group, override.value(), merge=True)
            except (ConfigAttributeError, ConfigKeyError):
                raise MissingOptionError(_key(override)) from None
        self._check_references(cfg, {_key(self._parsed(line)) for line in overrides})
        return Composed(cfg, base.hydra)

    def with_hydra(self, overrides: Sequence[str]) -> DictConfig:
        """The config of a job with Hydra's part, as Hydra would compose it from these overrides."""
        found = self(overrides)
        with open_dict(found.cfg):
            found.cfg.hydra = copy.deepcopy(found.hydra)
        with read_write(found.cfg.hydra):
            found.cfg.hydra.overrides.task = [*overrides]
        return found.cfg

    def _check_references(self, cfg: DictConfig, chosen: Collection[str]) -> None:
        """MissingOptionError if the choice lacks an option that the model needs: sampling=draws does not fit a flow."""
        for value in as_plain(cfg.model).values():
            wanted = re.fullmatch(r"\$\{(\w+)\.(\w+)\}", value) if isinstance(value, str) else None
            if wanted and wanted[1] in chosen and wanted[2] not in cfg[wanted[1]]:
                message = f"{wanted[1]}: no model of this sweep uses this choice"
                raise MissingOptionError(wanted[1]) from MistakeError(message)

    def _names_value(self, line: str) -> bool:
        """Whether the override changes a plain value: not a group's choice, no key added or deleted."""
        override = self._parsed(line)
        # A group of folders alone, such as network, has choices too.
        is_group = bool(self._loader.get_group_options(override.key_or_group, results_filter=None))
        return override.type is OverrideType.CHANGE and override.package is None and not is_group

    def _compose(self, overrides: tuple[str, ...]) -> Composed:
        parsed = list(map(self._parsed, overrides))
        try:
            cfg = self._loader.load_sweep_config(self._master, list(overrides))
        except ConfigCompositionException as error:
            refused = refused_option(error)
            if refused is None or refused not in map(_key, parsed):
                raise
            raise MissingOptionError(refused) from None
        hydra = cfg.hydra
        if hydra.runtime.choices.get("experiment"):
            drop_leftovers(cfg, parsed)
        with open_dict(cfg):
            del cfg["hydra"]
        return Composed(cfg, hydra)


def _key(override: Override) -> str:
    return override.get_key_element().lstrip("+~")


def _data_sets() -> Callable[[DictConfig], DataModule]:
    """A function from cfg to its data set, which reads each data set once."""
    known: dict[str, DataModule] = {}

    def data_of(cfg: DictConfig) -> DataModule:
        groups = [as_plain(cfg[group], resolve=True) for group in ("data", "condition") if cfg.get(group)]
        options = canonical_json([groups, cfg.get("train_images")])  # clusters depend on train_images
        if options not in known:
            known[options] = build_training_data(cfg)
        return known[options]

    return data_of


def _cell(
    combination: Combination[Composed],
    data_of: Callable[[DictConfig], DataModule],
    outputs: Path,
    gpus: tuple[str, ...] | None,
    measure: str | None,
) -> tuple[PlannedCell, tuple[Training, TrainableModel] | None]:
    """The folders of a cell's model and score, and the model itself if this CPU trains it.

    MistakeError for options that would fail, and if the score will have no such measure.
    """
    cfg, family = combination.config.cfg, combination.config.hydra.runtime.choices.model
    check_options(cfg, hydra=combination.config.hydra)
    overrides = combination.overrides
    with users_mistakes():
        on_gpu = _on_gpu(cfg.trainer, gpus)
        training = training_of(cfg, family, on_gpu, data_of)
        model = training.build(request=None).model
        if not isinstance(model, GenerativeModel) and cfg.score:
            raise MistakeError(f"model={family} generates no samples, so it cannot be scored; add score=false")
        (score,) = training.scores  # evaluation.at was split into cells
        if measure is not None:
            _check_measure(measure, score, training.data)
        run = run_of(training.directory, score, outputs)
        here = None if gpus is None or on_gpu else (training, model)
    counted = None if here is None else operations(*here)
    own = own_files_read(training.directory) if training.directory.finished else {}
    return PlannedCell(combination.choices, overrides, training.directory, run, counted, own), here


def _check_measure(name: str, score: DictConfig, data: DataModule) -> None:
    """MistakeError unless a score with this config has values of this name that may be better or worse."""
    found = {one.name: one for one in check_measures([*build_features(score).values()], build_metrics(score), data)}
    able = ", ".join(sorted(one.name for one in found.values() if one.better is not None))
    if name not in found:
        raise MistakeError(f"{_MEASURE}={name}: the score has no such value; choose one of {able}")
    if found[name].better is None:
        raise MistakeError(f"{_MEASURE}={name} has no better direction; choose one of {able}")
