"""Loading a trained model for a command: its own config, with the scoring options that the user changed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy

from diffusion_lab.conditions.condition import LacksConditionError
from diffusion_lab.config.build import build_training_data
from diffusion_lab.config.mistakes import MistakeError, mistake_in_job, out_of_memory
from diffusion_lab.config.naming import variance_matters
from diffusion_lab.config.options import OF_EVERY_CLASS, check_kinds, parameters_of
from diffusion_lab.config.overrides import as_plain
from diffusion_lab.config.unknown_names import unknown_option
from diffusion_lab.config.untrusted import load_config, settled
from diffusion_lab.config.weight_files import load_weights, opened, weight_file
from diffusion_lab.data.module import DataModule
from diffusion_lab.models.trainable import GenerativeModel, TrainableModel
from diffusion_lab.store import ModelDirectory, RunError, newest_model
from diffusion_lab.store.option_names import SCORING_GROUPS
from diffusion_lab.store.places import models_in
from diffusion_lab.training.speed import keep_freed_memory

Load = Callable[..., GenerativeModel]  # like `load_module`
_TOO_LARGE = "its config.yaml describes a larger model than its weights, or its weights are larger than memory"
_left: list[float] = []  # remaining parameters allowed, for each nested model from the outer to the guiding one


def trained_config(cfg: DictConfig) -> tuple[ModelDirectory, DictConfig]:
    """The model directory that `cfg` names, and its config with the scoring options of `cfg`, resolved and checked.

    MistakeError for an option that shaped training and therefore cannot be changed.
    """
    directory = ModelDirectory(Path(cfg.model_dir)) if cfg.model_dir else _newest_model(Path(cfg.outputs))
    saved = load_config(directory)
    if "fingerprint" not in directory.read_training():
        raise RunError(f"{directory.training} was written by another version of diffusion_lab: it has no fingerprint")
    if cfg.get("variance") is not None:
        _swap_variance(saved, cfg, directory)
    for group in SCORING_GROUPS:
        if group in cfg and group in saved:
            saved[group] = cfg[group]
    saved.logger = cfg.get("logger")  # a config file may not choose trackers
    for option, value in cfg.data.items():
        if value is not None:
            _check_data_named(saved)
            if f"data.{option}" not in OF_EVERY_CLASS and option not in (
                parameters_of(saved.data._target_) or [option]
            ):
                raise MistakeError(unknown_option(f"data.{option}", [f"data.{name}" for name in saved.data]))
            saved.data[option] = value
    check_worse(saved)
    check_kinds(as_plain(saved))
    return directory, settled(saved, directory)


def _newest_model(outputs: Path) -> ModelDirectory:
    """`newest_model`, with a warning if a later training is not finished."""
    found = newest_model(outputs)
    since = found.training.stat().st_mtime_ns
    unfinished = [model for model in models_in(outputs) if not model.finished and model.config.is_file()]
    if later := [model.path for model in unfinished if model.config.stat().st_mtime_ns > since]:
        logging.getLogger(__name__).warning(
            f"{later[0]} is not finished: using {found.path}, the newest finished model"
        )
    return found


def check_worse(cfg: DictConfig) -> None:
    """MistakeError if a guiding or teaching model was trained with other conditions. An unconditional one may guide any."""
    for option in ("guidance.model", "guidance.worse.model", "objective.teacher"):
        if (folder := OmegaConf.select(cfg, option)) is None:
            continue
        configs = load_config(ModelDirectory(Path(folder))), cfg
        theirs, own = ([*as_plain(c.condition, resolve=True).items()] if c.get("condition") else [] for c in configs)
        if theirs and own and theirs != own:
            raise MistakeError(
                f"{option}={folder} was trained with another condition: train it with the same, or with none"
            )


def trained_data(saved: DictConfig, given: DataModule | None = None) -> DataModule:
    """The data that the model was trained on. MistakeError if the folder in its config, or the user's, holds other data.

    given: the data, if already loaded.
    """
    _check_data_named(saved)
    try:
        data = build_training_data(saved) if given is None else given
        data.prepare()
    except LacksConditionError as error:
        where = f"data.root={saved.data.get('root')}"
        raise MistakeError(f"{where}: the model was trained on different data: {error}") from error
    if data.training_identity != saved.facts.get("identity"):
        if given is not None:
            raise MistakeError(f"data: the model was not trained on this {data.name}; pass the data of its training")
        where = f"data.root={saved.data.root}" if saved.data.get("root") else data.name
        clusters = "" if data.clusters is None else ", or use the scikit-learn that found its clusters"
        raise MistakeError(
            f"{where}: the model was trained on different data; set data.root=… to the folder of its data{clusters}"
        )
    sizes = [c.size if isinstance(c.size, int) else list(c.size) for c in data.conditions.values()]
    if saved.facts.get("conditions") and sizes != saved.facts.conditions:
        expected = f"{saved.facts.conditions}; pass the data of its training"
        raise MistakeError(f"{data.name}: its conditions have the sizes {sizes}, but the model needs {expected}")
    return data


def _check_data_named(saved: DictConfig) -> None:
    """MistakeError for an imported model whose training data were not recorded."""
    if saved.data is None:
        raise MistakeError("the data of this model are not recorded: import its checkpoint again with data=…")


def load_module(directory: ModelDirectory, saved: DictConfig, *weights: str) -> GenerativeModel:
    """The module of a config with its saved weights, on the CPU. `weights`: the ones to be used."""
    keep_freed_memory()
    with out_of_memory(str(directory.path), _TOO_LARGE):
        model = build_trained(directory, saved)
    if not isinstance(model, GenerativeModel):
        fix = "choose another model_dir"
        raise MistakeError(f"{directory.path} holds a {type(model).__name__}, which generates no samples; {fix}")
    with out_of_memory(str(directory.path), _TOO_LARGE):
        load_weights(model, directory, *weights)
    return model.eval()


def build_trained(directory: ModelDirectory, saved: DictConfig) -> TrainableModel:
    """The model of a config from `settled`. RunError if its parts do not fit together, whatever the error."""
    weights = directory.weight_files()["raw"]
    try:
        with opened(weights), no_larger_than(weights):  # a file that is longer than its tensors would allow more
            return instantiate(saved.model)
    except InstantiationException as error:
        if mistake_in_job(error) is not None:
            raise
        raise RunError(f"{directory.config} describes a model that cannot be built: {error.__cause__}") from error


@contextmanager
def no_larger_than(weights: Path) -> Iterator[None]:
    """Around building a model: ValueError as soon as it has many more parameters than its file of weights.

    Parameters are registered before they are filled, so the reserved memory is not yet used. A build on the meta device would
    need no hook, but the tables of a schedule are computed while it is built.
    """
    _left.append(weights.stat().st_size + 2**20)  # allows parameters that a layer registers twice
    depth = len(_left)

    def spend(module: object, name: str, parameter: Any) -> None:
        if parameter is not None and not is_lazy(parameter) and len(_left) == depth:
            _left[-1] -= parameter.numel()
            if _left[-1] < 0:
                raise ValueError(f"the model has many more parameters than {weights}")

    handle = register_module_parameter_registration_hook(spend)
    try:
        yield
    finally:
        handle.remove()
        _left.pop()


def use_last_weights(model: TrainableModel, directory: ModelDirectory) -> Path:
    """Give a model that is not trained further its default weights; returns their file."""
    file = weight_file(directory, "auto")
    model.load_weights({"raw": file})
    model.requires_grad_(False).eval()
    return file


def _swap_variance(saved: DictConfig, cfg: DictConfig, directory: ModelDirectory) -> None:
    """The variance of `cfg` in place of the trained one, if training allows it; a measured variance is always allowed."""
    if "variance" not in saved:
        raise MistakeError(f"{directory.path} is not a diffusion model and has no variance")
    saved.measured_variance = cfg.get("measured_variance")
    if saved.measured_variance is not None:
        return
    variance = cfg.variance
    old, new = instantiate(saved.variance), instantiate(variance)
    if old == new:
        return
    if variance_matters(saved) or old.outputs_per_channel != new.outputs_per_channel:
        raise MistakeError(
            f"variance={type(new).__name__}: this model was trained with {type(old).__name__}, which its objective or its network "
            "depends on; train another model to compare the two"
        )
    saved.variance = variance
