"""From a config to objects. The config decides which; the objects get their parts and never see the config."""

from __future__ import annotations

import copy
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from diffusion_lab.config.guiding import by_content, identity_of
from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.config.starting import content_of_start, identity_of_base
from diffusion_lab.config.strangers import REFERENCE
from diffusion_lab.store.fingerprints import (
    DRAWING,
    MEASURING,
    SCORED_GROUPS,
    SCORING,
    TRAINING,
    canonical_json,
    fingerprint,
    named_in,
    scored_part,
    training_part,
)
from diffusion_lab.store.imports import Code
from diffusion_lab.store.records import FACTS, wrong_in

if TYPE_CHECKING:
    from diffusion_lab.data.clusters import Clusters
    from diffusion_lab.data.module import DataModule
    from diffusion_lab.models.trainable import TrainableModel
    from diffusion_lab.store import ModelDirectory

CODE = Code()  # of this process
_CARDS = Path(__file__).parents[1] / "evaluation" / "weights"  # of shipped weights, with their digests
_VARIABLE = re.compile(r"oc\.env:\s*(\w+)")
_MAY_HOLD_SECRETS = {"logger", "callbacks"}  # no file is read again for what these hold


def choices_made() -> dict[str, str | None]:
    """Which option of each group this command's config was composed from; what is so on this machine is no choice."""
    made = HydraConfig.get().runtime.choices
    return {group: option for group, option in made.items() if not group.startswith(("hydra", "local"))}


def build_data(cfg: DictConfig) -> DataModule:
    """The data set with its own classes, found and checked."""
    return _prepared(cfg, None)


def build_training_data(cfg: DictConfig) -> DataModule:
    """The data set as a model is trained on it: where cfg.labels is set, the class of an image is its cluster."""
    return _prepared(cfg, instantiate(cfg.get("labels")))


def _prepared(cfg: DictConfig, clusters: Clusters | None) -> DataModule:
    options = copy.deepcopy(cfg.data)
    with open_dict(options):
        num_validation = options.pop("validation", 0)  # an option of every data set, but no parameter of its class
    data = instantiate(options)
    data.hold_back(num_validation)
    data.train_on(cfg.get("train_images"))
    data.use_cluster_labels(clusters)
    data.prepare()
    return data


def settle_labels(cfg: DictConfig) -> None:
    """Set cfg.labels to null where conditional=true: the classes are then the data's own."""
    if cfg.conditional:
        with open_dict(cfg):
            cfg.labels = None


def fill_in_facts(cfg: DictConfig, data: DataModule) -> None:
    """Fill in cfg.facts, which networks, objectives and models refer to.

    ValueError for conditional=true without classes, and for facts that a saved model could not be read with.
    """
    if cfg.conditional and data.num_classes is None:
        raise ValueError(
            f"conditional=true: {data.name} has no classes to condition a model on; use conditional=false (also with "
            "labels=clusters), or other data (image_folder: data.classes=subfolders)"
        )
    facts = {"shape": list(data.shape), "num_levels": data.num_levels, "num_classes": data.num_classes}
    wrong = wrong_in({"facts": facts}, FACTS)
    if wrong:
        raise ValueError(f"{data.name}: {wrong}")
    with open_dict(cfg):
        cfg.facts.shape = list(data.shape)
        cfg.facts.channels = data.shape[0]
        cfg.facts.size = _side(data.shape)
        cfg.facts.num_levels = data.num_levels
        cfg.facts.num_classes = data.num_classes if cfg.conditional or data.clusters is not None else None
        cfg.facts.identity = data.training_identity
        cfg.facts.end_shares = None if data.end_shares is None else list(data.end_shares)
        cfg.facts.bounded = data.num_levels is not None
        cfg.facts.init = content_of_start(cfg)
        if "base" in cfg.facts:
            cfg.facts.base = identity_of_base(cfg)


def _side(shape: Sequence[int]) -> int | list[int]:
    """Of (C, H, W): the side of a square, else [H, W]. Of points (D,): D."""
    sides = list(shape[-2:]) if len(shape) == 3 else [shape[-1]]
    return sides[0] if len({*sides}) == 1 else sides


def settle_budget(cfg: DictConfig) -> None:
    """Fill in trainer.max_steps where it is null: no limit if the user sets a time, else cfg.default_steps.

    A settled config states how long it trains and has no default left.
    """
    with open_dict(cfg):
        default = cfg.pop("default_steps", None)
        if cfg.trainer.get("max_steps") is None:
            cfg.trainer.max_steps = -1 if default is None or cfg.trainer.get("max_time") is not None else default


def build_model(cfg: DictConfig) -> TrainableModel:
    """The family's model with fresh weights that depend on cfg.seed only."""
    import torch

    from diffusion_lab.networks.memory import keep_freed_memory

    keep_freed_memory()
    torch.manual_seed(cfg.seed)
    return instantiate(cfg.model)


def build_each(cfg: DictConfig, group: str, kind: type) -> dict[str, Any]:
    """What a group that holds several options names, by name, in its order. MistakeError for what is not of this kind."""
    built = {}
    for name, node in (cfg.get(group) or {}).items():
        if node is None:
            continue
        if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
            raise MistakeError(
                f"{group}.{name}: an entry of {group} needs a name, with _target_ and options below, such as {group}.mine._target_"
            )
        built[name] = instantiate(node)
        if not isinstance(built[name], kind):
            raise MistakeError(f"{group}.{name}: its _target_ must name a class of {kind.__module__}.{kind.__name__}")
    if not built:
        raise MistakeError(f"{group}: choose at least one")
    return built


def plain_config(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config in plain containers. `model` keeps its references ${a.b} to the groups, which stand beside it.

    Other interpolations are resolved there too: the environment may be another one when the config is read. But a logger or a
    callback may be given a password by ${oc.env:NAME}, and what is recorded holds the name only.
    """
    resolved = OmegaConf.to_container(cfg, resolve=True)
    written = OmegaConf.to_container(cfg, resolve=False)
    if "model" in resolved:
        resolved["model"] = _with_references(written["model"], resolved["model"])
    secrets = {os.environ[name]: name for name in _VARIABLE.findall(str(written)) if os.environ.get(name)}
    for group in _MAY_HOLD_SECRETS & resolved.keys():
        resolved[group] = _without_secrets(written[group], resolved[group], secrets)
    return resolved


def _without_secrets(written: Any, resolved: Any, secrets: Mapping[str, str]) -> Any:
    """`resolved`, with the names of variables of the environment where it holds their values."""
    if isinstance(written, dict):
        return {key: _without_secrets(child, resolved[key], secrets) for key, child in written.items()}
    if isinstance(written, list):
        return [_without_secrets(*pair, secrets) for pair in zip(written, resolved, strict=True)]
    if not (isinstance(written, str) and "${" in written):
        return resolved
    if not isinstance(resolved, str):  # decoded, or a whole node
        return written.replace("${", "{") if "oc.env" in written else resolved
    for value in sorted(secrets, key=len, reverse=True):
        resolved = resolved.replace(value, f"{{oc.env:{secrets[value]}}}")
    return resolved


def _with_references(node: Any, resolved: Any) -> Any:
    """`resolved`, but for plain references that `node` has in these places."""
    if isinstance(node, dict):
        return {key: _with_references(child, resolved[key]) for key, child in node.items()}
    if isinstance(node, list):
        return [_with_references(*pair) for pair in zip(node, resolved, strict=True)]
    return node if isinstance(node, str) and REFERENCE.fullmatch(node) else resolved


def training_fingerprint(cfg: DictConfig) -> str:
    """64 hex digits of everything that shapes training, and of nothing else. The facts must have been stated.

    A variance that the objective does not read counts only by its width: fixed small and fixed large under L_simple are one model.
    """
    config = _shaping(cfg)
    return fingerprint(config, cfg.facts.identity, CODE.digest(named_in(config), TRAINING))


def code_of_training(cfg: DictConfig) -> dict[str, Any]:
    """The record of the code of a training: the names that its config refers to, and the digest of their code."""
    names = sorted(set(named_in(_shaping(cfg))))
    return {"names": names, "digest": CODE.digest(names, TRAINING)}


def _shaping(cfg: DictConfig) -> dict[str, Any]:
    config = training_part(plain_config(cfg))
    if not variance_matters(cfg):
        config["variance"] = {"outputs_per_channel": instantiate(cfg.variance).outputs_per_channel}
    return config


def variance_matters(cfg: DictConfig) -> bool:
    """Whether the variance shaped training: families without one have nothing to swap."""
    return "variance" not in cfg or instantiate(cfg.objective).reads_variance


def scoring_fingerprint(model_fingerprint: str, cfg: DictConfig, head: ModelDirectory | None = None) -> str:
    """What makes two scores the same: the model, the choices of scoring, and the code that scores. head: of its variance."""
    parts = _scored_parts(cfg, head)
    choices = {key: parts[key] for key in SCORED_GROUPS if key in parts}
    return fingerprint(choices, model_fingerprint, CODE.digest(named_in(parts), SCORING))


def sampling_identity(
    model_fingerprint: str, cfg: DictConfig, unread: Iterable[str], features: str, head: ModelDirectory | None = None
) -> str:
    """What decides a model's samples and their feature vectors, apart from its weights and sampler: how it was built,
    and the code that draws samples and computes features.

    unread: groups of `cfg` that decide none of its samples. features: the name of these features. head: of its variance.
    """
    read = _scored_parts(cfg, head)
    read["model"] = {key: part for key, part in read["model"].items() if key not in unread}  # where it is held again
    parts = {key: part for key, part in read.items() if key not in unread}
    parts["features"] = parts["features"][features]
    names = named_in({**parts, "metrics": None})  # what is measured decides no sample
    return f"{model_fingerprint} {CODE.digest(names, DRAWING)} {canonical_json(parts.get('guidance'))}"


def features_by_content(features: Mapping[str, Any]) -> dict[str, Any]:
    """The options of features, with the digest of their weights: of the user's file, or of the card of shipped ones."""
    found = dict(features)
    for name, options in found.items():
        if isinstance(options, Mapping):
            weights = options.get("weights") or _CARDS / f"{options.get('name')}.json"
            if Path(weights).is_file():
                with open(weights, "rb") as file:
                    found[name] = {**options, "weights": hashlib.file_digest(file, "sha256").hexdigest()}
    return found


def measuring_identity(model_fingerprint: str, cfg: DictConfig) -> str:
    """What decides the statistics of a network beside its weights: how it was built, and the code that measures."""
    model = OmegaConf.to_container(cfg.model, resolve=True)
    parts = {name: model.get(name) for name in ("_target_", "network", "schedule", "prediction", "clip_x_0")}
    return f"{model_fingerprint} {CODE.digest(named_in(parts), MEASURING)}"


def _scored_parts(cfg: DictConfig, head: ModelDirectory | None) -> dict[str, Any]:
    """What a score is made of: what the model was trained with, and the choices of scoring; other models by their content."""
    parts = scored_part(plain_config(cfg))
    guidance = parts.get("guidance")
    if guidance is not None:
        parts["guidance"] = by_content(guidance)
    if parts.get("features") is not None:
        parts["features"] = features_by_content(parts["features"])
    if head is not None:
        parts["measured_variance"] = {**parts["measured_variance"], "head": identity_of(head)}
    return parts
