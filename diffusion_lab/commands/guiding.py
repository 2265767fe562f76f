"""What a guiding classifier is to a score: not where its folder lies, but what lies there. Builds nothing of it."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from yaml import YAMLError

from diffusion_lab.fingerprints import named_in
from diffusion_lab.foreign import LARGEST_CONFIG, RunError, inside, read_bytes, read_yaml
from diffusion_lab.runs import ModelDirectory


def classifier_identity(classifier: str) -> dict[str, Any]:
    """What decides the guidance by the classifier in a folder, wherever that lies: its training, its weights, what it is made of.

    RunError if the folder holds no finished model.
    """
    from diffusion_lab.callbacks.ema import suited_weights

    directory = ModelDirectory(Path(classifier))
    training = directory.read_training()
    weights = directory.weight_files()[suited_weights(directory.weight_names, training["steps"])]
    try:
        parts = read_yaml(read_bytes(inside(directory.path, directory.config), LARGEST_CONFIG))
    except (OSError, YAMLError) as error:
        raise RunError(f"{directory.config} is not a config: {' '.join(str(error).split())}") from None
    if not isinstance(parts, dict):
        raise RunError(f"{directory.config} is not the config of a model")
    return {
        "fingerprint": training.get("fingerprint"),
        "weights": _sha256(weights, weights.stat().st_mtime_ns),
        "parts": sorted(set(named_in([parts[group] for group in ("model", "network", "schedule") if group in parts]))),
    }


@lru_cache(maxsize=16)
def _sha256(file: Path, changed: int) -> str:
    """Of a file that was changed at that time."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
