"""The names of a training and of a score from their config (`store.identity`). Builds only a variance and an objective.

Other models, such as a guiding one, are identified by content, so a score keeps its name when their folder is moved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.config.overrides import as_plain
from diffusion_lab.config.untrusted import REFERENCE
from diffusion_lab.config.weight_files import weight_file
from diffusion_lab.store import ModelDirectory, RunError
from diffusion_lab.store.identity import (
    SCORED_GROUPS,
    SCORING_ROOMS,
    Name,
    asked_of_score,
    asked_of_training,
    code_now,
    name_of,
)
from diffusion_lab.store.option_names import canonical_json
from diffusion_lab.store.own_files import digests_of, sha256_of, users_files
from diffusion_lab.store.weight_names import snapshot_name

RAW = "raw"
_CARDS = Path(__file__).parents[1] / "metrics" / "weights"  # of shipped weights, with their digests
_MAY_HOLD_SECRETS = {"logger", "callbacks"}  # their files are not read again
_FOLDERS = ("classifier", "model")  # options of a guidance that name a folder


def plain_config(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config in plain containers. In `model`, references ${a.b} to other groups are kept.

    Other interpolations in `model` are resolved, because the environment may differ when the config is read. Texts in `logger` and
    `callbacks`, which may take a password from ${oc.env:NAME}, are recorded unresolved, as {oc.env:NAME}.
    """
    return _as_recorded(cfg, as_plain(cfg, resolve=True))


def _as_recorded(cfg: DictConfig, resolved: Mapping[str, Any]) -> dict[str, Any]:
    written = as_plain(cfg)
    groups = {"model", *_MAY_HOLD_SECRETS} & resolved.keys()
    return {
        **resolved,
        **{name: _recorded(written[name], resolved[name], name in _MAY_HOLD_SECRETS) for name in groups},
    }


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


def name_of_training(cfg: DictConfig) -> Name:
    """The name of a training: a digest of its options, its data and the files that it reads. Facts must be filled in.

    A variance that the objective does not read counts only by its width: under L_simple, fixed small and fixed large are one model.
    """
    resolved = as_plain(cfg, resolve=True)
    config = asked_of_training(_as_recorded(cfg, resolved))
    if config.get("condition"):
        config["condition"] = [*config["condition"].items()]  # the order of the parts of y
    if not variance_matters(cfg):
        config["variance"] = {"outputs_per_channel": instantiate(cfg.variance).outputs_per_channel}
    return name_of(config, cfg.facts.identity, users_files(asked_of_training(resolved), resolved))


def variance_matters(cfg: DictConfig) -> bool:
    """Whether training depends on the variance; False for families without one. No teacher is loaded."""
    untaught = {"teacher": None} if "teacher" in cfg.get("objective", {}) else {}
    return "variance" not in cfg or instantiate(cfg.objective, **untaught).reads_variance


def name_of_score(cfg: DictConfig) -> Name:
    """The choices of scoring, beside the model."""
    resolved = as_plain(cfg, resolve=True)
    parts = _choices_of_scoring(cfg, resolved)
    return name_of(parts, "", users_files(parts, resolved))


def sampling_identity(cfg: DictConfig, unread: Iterable[str], features: str) -> str:
    """A digest of everything besides weights and sampler that determines a model's samples and their features.

    These are the parts of the model, the code, and the user's files. unread: groups of `cfg` that do not affect the samples.
    features: the name of the features.
    """
    resolved = as_plain(cfg, resolve=True)
    choices = _choices_of_scoring(cfg, resolved)
    read = {key: part for key, part in choices.items() if key not in {*unread, "metrics", "evaluation"}}
    read["features"] = read["features"][features]
    files = _digest_of_files(resolved, {**asked_of_training(resolved), **read})
    return f"{_how_built(resolved)} {_code()} {files} {canonical_json(read.get('guidance'))}"


def measuring_identity(cfg: DictConfig) -> str:
    """A digest of everything besides its weights that determines a network's statistics: parts, code, the user's files."""
    resolved = as_plain(cfg, resolve=True)
    return f"{_how_built(resolved)} {_code()} {_digest_of_files(resolved, asked_of_training(resolved))}"


def _code() -> str:
    """A digest of the package's code that draws and scores; results in the cache are valid for one such digest."""
    return hashlib.sha256(canonical_json(code_now(SCORING_ROOMS)).encode()).hexdigest()


def _how_built(config: Mapping[str, Any]) -> str:
    """A digest of the model in a config, without its parts that may be chosen after training."""
    parts = {name: part for name, part in config["model"].items() if name not in SCORED_GROUPS}
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def _digest_of_files(config: Mapping[str, Any], parts: Mapping[str, Any]) -> str:
    """A digest of the user's own files that these parts of a config name."""
    files = digests_of(users_files(parts, config))
    return hashlib.sha256(canonical_json(files).encode()).hexdigest()


def features_by_content(features: Mapping[str, Any]) -> dict[str, Any]:
    """The options of features, with the digest of their weights, from the user's file or from the card of shipped weights."""
    found = dict(features)
    for name, options in found.items():
        if isinstance(options, Mapping):
            weights = options.get("weights") or _CARDS / f"{options.get('name')}.json"
            if Path(weights).is_file():
                found[name] = {**options, "weights": sha256_of(Path(weights))}
    return found


def _choices_of_scoring(cfg: DictConfig, resolved: Mapping[str, Any]) -> dict[str, Any]:
    parts = asked_of_score(_as_recorded(cfg, resolved))
    if parts.get("guidance") is not None:
        parts["guidance"] = guidance_by_content(parts["guidance"])
    if parts.get("features") is not None:
        parts["features"] = features_by_content(parts["features"])
    return parts


def guidance_by_content(guidance: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a guidance, with each model folder replaced by the identity of the model in it."""
    moment, worse = guidance.get("moment"), guidance.get("worse")
    weights = None if moment is None else snapshot_name(moment)
    found = {
        option: identity_of(ModelDirectory(Path(value)), weights) if option in _FOLDERS and value is not None else value
        for option, value in guidance.items()
    }
    return found | {"worse": guidance_by_content(worse)} if isinstance(worse, Mapping) else found


def identity_of(directory: ModelDirectory, name: str | None = None) -> dict[str, Any]:
    """Name of a training, and the digest of the weights called `name` (None: the default ones). RunError if it has not finished."""
    training, weights = directory.read_training(), weight_file(directory, name)
    return {"fingerprint": training.get("fingerprint"), "weights": sha256_of(weights)}


def content_of_start(cfg: DictConfig) -> str | None:
    """Digests of the files that training starts from, and of a teacher; None for fresh weights. RunError if a file is missing."""
    digests = [sha256_of(file) for file in start_files(cfg)]
    if (teacher := OmegaConf.select(cfg, "objective.teacher")) is not None:
        if not ModelDirectory(Path(teacher)).finished:
            raise RunError(
                f"objective.teacher={teacher} holds no finished model: name the folder of a trained diffusion model"
            )
        digests += map(str, identity_of(ModelDirectory(Path(teacher))).values())
    return " ".join(digests) or None


def start_files(cfg: DictConfig) -> list[Path]:
    """The files of init_from that training reads: raw weights, then the average or earlier moment that init_weights names."""
    if cfg.get("init_from") is None:
        return []
    directory = ModelDirectory(Path(cfg.init_from))
    if not directory.path.is_dir():
        what = "is a file" if directory.path.exists() else "does not exist"
        raise RunError(f"init_from={cfg.init_from} {what}: name the folder of a trained model")
    files = [weight_file(directory, name, "init_weights") for name in (RAW, cfg.init_weights)]
    return list(dict.fromkeys(files))
