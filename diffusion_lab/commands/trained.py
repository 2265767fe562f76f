"""A trained model as a command finds it: its own config, with the choices of scoring that the user changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from diffusion_lab.commands.build import variance_matters
from diffusion_lab.commands.mistakes import MistakeError
from diffusion_lab.commands.targets import check_targets
from diffusion_lab.runs import ModelDirectory, RunError, newest_model, read_json

if TYPE_CHECKING:
    from diffusion_lab.models.base import GenerativeModel

SCORING_GROUPS = ("sampler", "guidance", "sampling", "evaluation", "features")


def model_dir_of(options: list[str]) -> ModelDirectory | None:
    """The model directory that options name, or the newest under their `outputs`; None for a sweep over several."""
    named = {key: value for key, _, value in (option.partition("=") for option in options)}
    wanted = named.get("model_dir", "null").strip("'\"")
    if "," in wanted:
        return None
    if wanted != "null":
        return ModelDirectory(Path(wanted))
    return newest_model(Path(named.get("outputs", "outputs")))


def with_trained_choices(options: list[str], groups: tuple[str, ...]) -> list[str]:
    """`options`, after those that give each scoring group the value it had in training, unless the user picks that group.

    So `evaluate sampler.spacing.num_steps=25` changes the number of steps of the sampler that the model was trained with.
    """
    directory = None if "--help" in options or "-h" in options else model_dir_of(options)
    if directory is None:
        return options
    saved = load_config(directory)
    choices = read_json(directory.choices)
    picked = {option.partition("=")[0].lstrip("+~").split("@")[0] for option in options}
    _refuse_unknown_groups(directory, saved, picked, groups)
    before = []
    for group in groups:
        if group in picked or group not in choices or any(key.startswith(f"{group}/") for key in picked):
            continue
        before.append(f"{group}={choices[group]}")
        before += [f"++{group}.{key}={_quoted(value)}" for key, value in _leaves(saved[group]).items()]
    # Behind flags such as -m: Hydra wants all options in one piece.
    first = next((i for i, option in enumerate(options) if "=" in option and not option.startswith("-")), len(options))
    return [*options[:first], *before, *options[first:]]


def _refuse_unknown_groups(
    directory: ModelDirectory, saved: DictConfig, picked: set[str], groups: tuple[str, ...]
) -> None:
    """MistakeError for a choice that means nothing to the model: a temperature of a diffusion model, a sampler of a flow."""
    for option in sorted(picked):
        group = option.partition(".")[0].partition("/")[0]
        if group in groups and group not in saved:
            known = ", ".join(name for name in groups if name in saved)
            raise MistakeError(f"{option}: the model in {directory.path} has no {group} to choose; it has {known}")


def load_config(directory: ModelDirectory) -> DictConfig:
    """The config that a model was trained with. RunError if there is none, or if it would build what no file may."""
    if "://" in str(directory.path) or str(directory.path).startswith(("http:", "https:", "s3:", "gs:", "hf:")):
        raise RunError(f"model_dir={directory.path}: models are not loaded from addresses; fetch the folder first")
    if not directory.config.is_file():
        raise RunError(f"{directory.path} is no model directory: it has no {directory.config.name}")
    try:
        config = OmegaConf.load(directory.config)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise RunError(f"{directory.config} is not a config: {' '.join(str(error).split())}") from None
    if not isinstance(config, DictConfig) or not {"model", "data"} <= set(config):
        raise RunError(f"{directory.config} is not the config of a model: it says nothing of model and data")
    check_targets(config, directory.config)
    return config


def trained_config(cfg: DictConfig) -> tuple[ModelDirectory, DictConfig]:
    """The model directory that `cfg` names, and its config with the scoring choices of `cfg`.

    MistakeError where a choice shaped training, so that it cannot be changed any more.
    """
    directory = ModelDirectory(Path(cfg.model_dir)) if cfg.model_dir else newest_model(Path(cfg.outputs))
    saved = load_config(directory)
    directory.read_training()
    for group in SCORING_GROUPS:
        if group in cfg and group in saved:
            saved[group] = cfg[group]
    if cfg.get("variance") is not None:
        _swap_variance(saved, cfg.variance, directory)
    return directory, saved


def load_model(directory: ModelDirectory, saved: DictConfig) -> GenerativeModel:
    """The model of a config with all the weights that lie in the directory, on the CPU."""
    from diffusion_lab.models.base import GenerativeModel
    from diffusion_lab.networks.memory import keep_freed_memory

    keep_freed_memory()
    model = instantiate(saved.model)
    if not isinstance(model, GenerativeModel):
        raise MistakeError(
            f"{directory.path} holds a {type(model).__name__}, which draws nothing; name a generative model with model_dir=…"
        )
    model.load_weights(directory.weight_files())
    return model.eval()


def _swap_variance(saved: DictConfig, variance: DictConfig, directory: ModelDirectory) -> None:
    if "variance" not in saved:
        raise MistakeError(f"{directory.path} is no diffusion model and has no variance")
    old, new = instantiate(saved.variance), instantiate(variance)
    if old == new:
        return
    if variance_matters(saved) or old.outputs_per_channel != new.outputs_per_channel:
        raise MistakeError(
            f"variance={type(new).__name__}: this model was trained with {type(old).__name__}, which its objective or its network "
            "depends on; train another model to compare the two"
        )
    saved.variance = variance


def _leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value, for everything below a node."""
    container = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node
    leaves = {}
    for key, value in container.items():
        leaves |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves


def _quoted(value: Any) -> str:
    """A value in Hydra's override grammar; JSON's quoting is a part of it."""
    return json.dumps(value)
