"""What makes two models, two trainings or two scores the same: digests of configs, of weights and of code. Builds nothing.

Another model, such as one that guides, is identified by its content and not by its folder, so a moved folder is the same score.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.config.overrides import as_plain
from diffusion_lab.config.strangers import REFERENCE
from diffusion_lab.config.weight_files import weight_file
from diffusion_lab.store import ModelDirectory
from diffusion_lab.store.fingerprints import (
    DRAWING,
    MEASURING,
    SCORED_GROUPS,
    SCORING,
    TRAINING,
    Code,
    fingerprint,
    named_in,
    scored_part,
    training_part,
)
from diffusion_lab.store.options import canonical_json
from diffusion_lab.store.records import inside, read_yaml
from diffusion_lab.store.weights import snapshot_name

CODE = Code()  # of this process
RAW = "raw"
_CARDS = Path(__file__).parents[1] / "metrics" / "weights"  # of shipped weights, with their digests
_MAY_HOLD_SECRETS = {"logger", "callbacks"}  # no file is read again for what these hold
_FOLDERS = ("classifier", "model")  # options of a guidance that name one
_GROUPS = ("model", "network", "schedule", "prediction")


def plain_config(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config in plain containers. `model` keeps its references ${a.b} to the groups, which stand beside it.

    Other interpolations are resolved there too: the environment may be another one when the config is read. But a logger or a
    callback may be given a password by ${oc.env:NAME}, so their texts are recorded as they were written, as {oc.env:NAME}.
    """
    resolved, written = as_plain(cfg, resolve=True), as_plain(cfg)
    for group in {"model", *_MAY_HOLD_SECRETS} & resolved.keys():
        resolved[group] = _recorded(written[group], resolved[group], secret=group in _MAY_HOLD_SECRETS)
    return resolved


def _recorded(written: Any, resolved: Any, secret: bool) -> Any:
    if isinstance(written, dict):
        return {key: _recorded(child, resolved[key], secret) for key, child in written.items()}
    if isinstance(written, list):
        return [_recorded(*pair, secret) for pair in zip(written, resolved, strict=True)]
    if not isinstance(written, str):
        return resolved
    if secret and (isinstance(resolved, str) or "oc.env" in written):
        return written.replace("${", "{")
    return written if not secret and REFERENCE.fullmatch(written) else resolved


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
    if config.get("condition"):
        config["condition"] = [*config["condition"].items()]  # y has them in this order
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
                found[name] = {**options, "weights": sha256_of(Path(weights))}
    return found


def measuring_identity(model_fingerprint: str, cfg: DictConfig) -> str:
    """What decides the statistics of a network beside its weights: how it was built, and the code that measures."""
    model = as_plain(cfg.model, resolve=True)
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


def by_content(guidance: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a guidance, with each model folder replaced by what identifies the model in it."""
    moment, worse = guidance.get("moment"), guidance.get("worse")
    weights = None if moment is None else snapshot_name(moment)
    found = {
        option: identity_of(ModelDirectory(Path(value)), weights) if option in _FOLDERS and value is not None else value
        for option, value in guidance.items()
    }
    return found | {"worse": by_content(worse)} if isinstance(worse, Mapping) else found


def identity_of(directory: ModelDirectory, name: str | None = None) -> dict[str, Any]:
    """Fingerprint of a model, digest of the weights called `name` (None: those that suit its training), and its classes.

    RunError if it is not finished.
    """
    training, weights = directory.read_training(), weight_file(directory, name)
    parts = read_yaml(inside(directory.path, directory.config))
    return {
        "fingerprint": training.get("fingerprint"),
        "weights": sha256_of(weights),
        "parts": sorted(set(named_in([parts[group] for group in _GROUPS if group in parts]))),
    }


def sha256_of(file: Path) -> str:
    """Of the content of a file, which is read again only after a change."""
    return _sha256(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _sha256(file: Path, changed: int) -> str:
    """Of a file that was changed at that time."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def content_of_start(cfg: DictConfig) -> str | None:
    """Digests of the files that training starts from; None where it starts from fresh weights. RunError if they are not there."""
    files = start_files(cfg)
    return " ".join(map(sha256_of, files)) or None


def identity_of_base(cfg: DictConfig) -> dict[str, Any]:
    """The identity of the model that a head is trained on. MistakeError if init_from names none, RunError if it is not there."""
    if cfg.get("init_from") is None:
        raise MistakeError(
            "model=variance_head: set init_from=…, the folder of the diffusion model that the head is trained on"
        )
    return identity_of(ModelDirectory(Path(cfg.init_from)), start_files(cfg)[-1].stem)


def start_files(cfg: DictConfig) -> list[Path]:
    """The raw weights, which have everything, and then the average or the earlier moment of init_weights."""
    if cfg.get("init_from") is None:
        return []
    directory = ModelDirectory(Path(cfg.init_from))
    files = [weight_file(directory, name, "init_weights") for name in (RAW, cfg.init_weights)]
    return list(dict.fromkeys(files))
