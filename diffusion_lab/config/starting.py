"""init_from: the model directory whose weights training starts from, or whose model it is trained beside. They are known by their
content, not by their folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from diffusion_lab.config.guiding import identity_of, sha256_of
from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.store import ModelDirectory
from diffusion_lab.store.records import RunError
from diffusion_lab.store.weights import is_snapshot

RAW = "raw"


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
    from diffusion_lab.training.ema import default_weights

    directory, name = ModelDirectory(Path(cfg.init_from)), cfg.init_weights
    there = directory.weight_names
    if name == "auto":
        averages = [weights for weights in there if not is_snapshot(weights)]
        name = default_weights(averages, directory.read_training()["steps"])
    files = directory.weight_files([name])
    if name not in files:
        raise RunError(f"init_weights={name}: the weights in {directory.path} are {', '.join(there)}")
    return [files[weights] for weights in dict.fromkeys((RAW, name))]
