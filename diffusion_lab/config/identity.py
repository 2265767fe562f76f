"""Identity of models, trainings and scores: digests of configs, weights and code. Builds nothing.

Other models, such as a guiding one, are identified by content, so a score stays the same when their folder is moved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from diffusion_lab.config.overrides import as_plain
from diffusion_lab.config.untrusted import REFERENCE
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
from diffusion_lab.store.option_names import canonical_json
from diffusion_lab.store.records import inside, read_yaml
from diffusion_lab.store.weight_names import snapshot_name

CODE = Code()  # of this process
RAW = "raw"
_CARDS = Path(__file__).parents[1] / "metrics" / "weights"  # of shipped weights, with their digests
_MAY_HOLD_SECRETS = {"logger", "callbacks"}  # their files are not read again
_FOLDERS = ("classifier", "model")  # options of a guidance that name a folder
_GROUPS = ("model", "network", "schedule", "prediction")


def plain_config(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config in plain containers. In `model`, references ${a.b} to other groups are kept.

    Other interpolations in `model` are resolved, because the environment may differ when the config is read. Texts in `logger` and
    `callbacks`, which may take a password from ${oc.env:NAME}, are recorded unresolved, as {oc.env:NAME}.
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
    """A digest, 64 hex digits, of everything that shapes training and of nothing else. Facts must be filled in.

    A variance that the objective does not read counts only by its width: under L_simple, fixed small and fixed large are one model.
    """
    config = _shaping(cfg)
    return fingerprint(config, cfg.facts.identity, CODE.digest(named_in(config), TRAINING))


def code_of_training(cfg: DictConfig) -> dict[str, Any]:
    """The names that the config of a training refers to, and the digest of their code."""
    names = sorted(set(named_in(_shaping(cfg))))
    return {"names": names, "digest": CODE.digest(names, TRAINING)}


def _shaping(cfg: DictConfig) -> dict[str, Any]:
    config = training_part(plain_config(cfg))
    if config.get("condition"):
        config["condition"] = [*config["condition"].items()]  # the order of the parts of y
    if not variance_matters(cfg):
        config["variance"] = {"outputs_per_channel": instantiate(cfg.variance).outputs_per_channel}
    return config


def variance_matters(cfg: DictConfig) -> bool:
    """Whether training depends on the variance; False for families without one."""
    return "variance" not in cfg or instantiate(cfg.objective).reads_variance


def scoring_fingerprint(model_fingerprint: str, cfg: DictConfig) -> str:
    """Identity of a score: the model, the choices of scoring, and the code that scores."""
    parts = _scored_parts(cfg)
    choices = {key: parts[key] for key in SCORED_GROUPS if key in parts}
    return fingerprint(choices, model_fingerprint, CODE.digest(named_in(parts), SCORING))


def sampling_identity(model_fingerprint: str, cfg: DictConfig, unread: Iterable[str], features: str) -> str:
    """Identity of a model's samples and feature vectors, apart from weights and sampler: how the model was built,
    and the code that draws samples and computes features.

    unread: groups of `cfg` that do not affect the samples. features: the name of the features.
    """
    read = _scored_parts(cfg)
    read["model"] = {key: part for key, part in read["model"].items() if key not in unread}  # repeated in the model
    parts = {key: part for key, part in read.items() if key not in unread}
    parts["features"] = parts["features"][features]
    names = named_in({**parts, "metrics": None})  # metrics do not affect samples
    return f"{model_fingerprint} {CODE.digest(names, DRAWING)} {canonical_json(parts.get('guidance'))}"


def features_by_content(features: Mapping[str, Any]) -> dict[str, Any]:
    """The options of features, with the digest of their weights, from the user's file or from the card of shipped weights."""
    found = dict(features)
    for name, options in found.items():
        if isinstance(options, Mapping):
            weights = options.get("weights") or _CARDS / f"{options.get('name')}.json"
            if Path(weights).is_file():
                found[name] = {**options, "weights": sha256_of(Path(weights))}
    return found


def measuring_identity(model_fingerprint: str, cfg: DictConfig) -> str:
    """Identity of a network's statistics apart from its weights: how it was built, and the code that measures."""
    model = as_plain(cfg.model, resolve=True)
    parts = {name: model.get(name) for name in ("_target_", "network", "schedule", "prediction", "clip_x_0")}
    return f"{model_fingerprint} {CODE.digest(named_in(parts), MEASURING)}"


def _scored_parts(cfg: DictConfig) -> dict[str, Any]:
    """Everything that determines a score: what the model was trained with, and the choices of scoring."""
    parts = scored_part(plain_config(cfg))
    guidance = parts.get("guidance")
    if guidance is not None:
        parts["guidance"] = by_content(guidance)
    if parts.get("features") is not None:
        parts["features"] = features_by_content(parts["features"])
    return parts


def by_content(guidance: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a guidance, with each model folder replaced by the identity of the model in it."""
    moment, worse = guidance.get("moment"), guidance.get("worse")
    weights = None if moment is None else snapshot_name(moment)
    found = {
        option: identity_of(ModelDirectory(Path(value)), weights) if option in _FOLDERS and value is not None else value
        for option, value in guidance.items()
    }
    return found | {"worse": by_content(worse)} if isinstance(worse, Mapping) else found


def identity_of(directory: ModelDirectory, name: str | None = None) -> dict[str, Any]:
    """Fingerprint of a model, digest of the weights called `name` (None: the default ones), and its classes.

    RunError if training has not finished.
    """
    training, weights = directory.read_training(), weight_file(directory, name)
    parts = read_yaml(inside(directory.path, directory.config))
    return {
        "fingerprint": training.get("fingerprint"),
        "weights": sha256_of(weights),
        "parts": sorted(set(named_in([parts[group] for group in _GROUPS if group in parts]))),
    }


def sha256_of(file: Path) -> str:
    """SHA-256 of a file, cached until the file changes."""
    return _sha256(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _sha256(file: Path, changed: int) -> str:
    """SHA-256 of a file with this time of modification."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def content_of_start(cfg: DictConfig) -> str | None:
    """Digests of the files that training starts from; None for fresh weights. RunError if a file is missing."""
    files = start_files(cfg)
    return " ".join(map(sha256_of, files)) or None


def start_files(cfg: DictConfig) -> list[Path]:
    """The files of init_from that training reads: raw weights, then the average or earlier moment that init_weights names."""
    if cfg.get("init_from") is None:
        return []
    directory = ModelDirectory(Path(cfg.init_from))
    files = [weight_file(directory, name, "init_weights") for name in (RAW, cfg.init_weights)]
    return list(dict.fromkeys(files))
