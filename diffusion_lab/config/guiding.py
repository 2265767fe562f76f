"""Identifies a guiding model by its content, not by its folder, so that a moved folder is the same score. Builds nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from diffusion_lab.store import ModelDirectory
from diffusion_lab.store.fingerprints import named_in
from diffusion_lab.store.records import RunError, inside, read_yaml
from diffusion_lab.store.weights import snapshot_name

_FOLDERS = ("classifier", "model")  # options that name one
_GROUPS = ("model", "network", "schedule", "prediction")


def by_content(guidance: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a guidance, with each model folder replaced by what identifies the model in it."""
    found = dict(guidance)
    for option in _FOLDERS:
        if guidance.get(option) is not None:
            found[option] = _identity(guidance[option], guidance.get("moment"))
    if isinstance(guidance.get("worse"), Mapping):
        found["worse"] = by_content(guidance["worse"])
    return found


def own_moment(guidance: Mapping[str, Any]) -> float | None:
    """The moment of the model's own training that a guidance names; None where it names none, or another model."""
    worse = guidance.get("worse", guidance)
    return None if worse.get("model") is not None else worse.get("moment")


def _identity(folder: str, moment: float | None) -> dict[str, Any]:
    """Of the model in a folder with the weights of a moment; None: the last."""
    return identity_of(ModelDirectory(Path(folder)), None if moment is None else snapshot_name(moment))


def identity_of(directory: ModelDirectory, name: str | None = None) -> dict[str, Any]:
    """Fingerprint of a model, digest of the weights called `name` (None: those that suit its training), and its classes.

    RunError if it is not finished.
    """
    from diffusion_lab.training.ema import default_weights

    training = directory.read_training()
    name = name or default_weights(directory.weight_names, training["steps"])
    weights = directory.weight_files({name}).get(name)
    if weights is None:
        raise RunError(f"{directory.path} has no weights {name}")
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
