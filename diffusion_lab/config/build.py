"""Build the objects that a config describes. The objects are given their parts and never see the config."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict

from diffusion_lab.conditions import Condition
from diffusion_lab.conditions.condition import Size
from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.config.naming import content_of_start
from diffusion_lab.config.options import check_kind
from diffusion_lab.config.overrides import as_plain
from diffusion_lab.data.module import DataModule
from diffusion_lab.models.trainable import TrainableModel
from diffusion_lab.store.option_names import check_at_least, flat
from diffusion_lab.store.records import FactsRecord, wrong_in
from diffusion_lab.training.speed import keep_freed_memory


def choices_made() -> dict[str, str | None]:
    """The chosen option of each config group."""
    made = HydraConfig.get().runtime.choices
    return {group: option for group, option in made.items() if not group.startswith("hydra")}


def family() -> str:
    """The model family of this command's config."""
    return HydraConfig.get().runtime.choices["model"]


def build_data(cfg: DictConfig) -> DataModule:
    """The data set with its own classes; its files are found and checked."""
    return _prepared(cfg, {})


def build_training_data(cfg: DictConfig) -> DataModule:
    """The data set as a model is trained on it, with the conditions of cfg.condition."""
    return _prepared(cfg, build_each(cfg, "condition", Condition) if cfg.get("condition") else {})


def _prepared(cfg: DictConfig, conditions: dict[str, Any]) -> DataModule:
    options = copy.deepcopy(cfg.data)
    with open_dict(options):
        # Options of every data set, but not parameters of its class.
        num_validation, on_device = options.pop("validation", 0), options.pop("on_device", "auto")
    check_kind("data", options.get("_target_"), DataModule)
    data = instantiate(options)
    data.hold_back(num_validation)
    data.hold_on_device(on_device)
    data.train_on(cfg.get("train_images"))
    data.condition_on(conditions)
    data.prepare()
    return data


def fill_in_facts(cfg: DictConfig, data: DataModule) -> None:
    """Fill in cfg.facts, which networks, objectives and models refer to.

    ValueError for a condition that the family does not support, and for facts with which a saved model could not be read.
    """
    sizes = [condition.size for condition in data.conditions.values()] if cfg.get("condition") else []
    state_shape(cfg, data.shape, data.num_levels, sizes)
    with open_dict(cfg):
        cfg.facts.units = None if data.units is None else asdict(data.units)
        cfg.facts.missing = data.masks_missing
    if wrong := wrong_in({"facts": as_plain(cfg.facts)}, FactsRecord):
        raise ValueError(f"{data.name}: {wrong}")
    options = flat(as_plain(cfg.network)) if "network" in cfg else {}
    if len(data.shape) == 1 and any(name.endswith("image_size") for name in options):
        raise ValueError(f"network: this one takes images, but {data.name} holds points; use network=…/points")
    if data.masks_missing and "missing" not in cfg.model:
        raise ValueError("data.missing=mask: only model=diffusion leaves missing values out of its loss; fill them in")
    if cfg.facts.conditions and "conditions" not in cfg.model:
        fix = "use condition=classes, condition=clusters or model=diffusion"
        raise ValueError(f"condition=[{','.join(data.conditions)}]: this family takes classes or clusters only; {fix}")
    with open_dict(cfg):
        cfg.facts.identity = data.training_identity
        cfg.data.batch_size = data.batch_size  # the default may depend on the image size
        cfg.facts.end_shares = None if data.end_shares is None else list(data.end_shares)
        cfg.facts.init = content_of_start(cfg)


def state_shape(cfg: DictConfig, shape: Sequence[int], num_levels: int | None, conditions: Sequence[Size]) -> None:
    """The facts that determine the size of a network.

    size: the side of a square image, D for points (D,), else the length of each spatial axis. conditions: their sizes; for classes
    alone num_classes is set instead.
    """
    sides = list(shape[1:])
    is_square = len(sides) == 2 and sides[0] == sides[1]
    with open_dict(cfg):
        cfg.facts.shape, cfg.facts.channels = list(shape), shape[0]
        cfg.facts.size = sides[0] if is_square else sides or shape[0]
        cfg.facts.num_levels, cfg.facts.bounded = num_levels, num_levels is not None
        alone = len(conditions) == 1 and isinstance(conditions[0], int)
        cfg.facts.num_classes = conditions[0] if alone else None
        cfg.facts.conditions = [] if alone else [size if isinstance(size, int) else list(size) for size in conditions]
        cfg.facts.missing = False


def check_budget(cfg: DictConfig) -> None:
    """ValueError for an invalid seed or invalid numbers of steps, batches and averages."""
    counts = ("num_nodes", "accumulate_grad_batches", "log_every_n_steps", "peak_flops")
    check_at_least(1, cfg.trainer, *counts, prefix="trainer.")
    check_at_least(0, cfg, "seed", "trainer.gradient_clip_val", "val.every_n_steps", "snapshots.averages")


def settle_budget(cfg: DictConfig) -> None:
    """Fill in trainer.max_steps where it is null: no limit if the user sets a time, else cfg.default_steps.

    A settled config states how long it trains and has no default left.
    """
    with open_dict(cfg):
        default = cfg.pop("default_steps", None)
        if cfg.trainer.get("max_steps") is None:
            cfg.trainer.max_steps = -1 if default is None or cfg.trainer.get("max_time") is not None else default


def build_model(cfg: DictConfig) -> TrainableModel:
    """The family's model with fresh weights, which depend only on cfg.seed."""
    keep_freed_memory()
    torch.manual_seed(cfg.seed)
    return instantiate(cfg.model)


def entries(cfg: DictConfig, group: str) -> Iterator[tuple[str, DictConfig]]:
    """Name and options of each entry of a group that holds several. MistakeError for an entry without a class."""
    for name, node in (cfg.get(group) or {}).items():
        if node is None:
            continue
        if not isinstance(node, DictConfig) or not isinstance(node.get("_target_"), str):
            raise MistakeError(f"{group}.{name} is not an object: set its class, as in {group}.mine._target_=…")
        yield name, node


def build_each(cfg: DictConfig, group: str, *kinds: type) -> dict[str, Any]:
    """The objects of a group that holds several, by name, in order. MistakeError for an object of another kind."""
    built = {}
    for name, node in entries(cfg, group):
        built[name] = instantiate(node)
        if not isinstance(built[name], kinds):
            wanted = " or ".join(f"{kind.__module__}.{kind.__name__}" for kind in kinds)
            raise MistakeError(f"{group}.{name}: its _target_ must name a class of {wanted}")
    if not built:
        raise MistakeError(f"{group}: choose at least one")
    return built
