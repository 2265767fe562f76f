"""init_from: the model directory whose weights training starts from, or whose model it is trained beside. They are known by their
content, not by their folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from diffusion_lab.foreign import RunError
from diffusion_lab.from_config.guiding import identity_of, sha256_of
from diffusion_lab.from_config.mistakes import MistakeError
from diffusion_lab.runs import ModelDirectory
from diffusion_lab.runs.contents import is_snapshot

if TYPE_CHECKING:
    from diffusion_lab.models.trainable import TrainableModel

RAW = "raw"


def content_of_start(cfg: DictConfig) -> str | None:
    """Digests of the files that training starts from; None where it starts from fresh weights. RunError if they are not there."""
    files = _files(cfg)
    return " ".join(map(sha256_of, files)) or None


def identity_of_base(cfg: DictConfig) -> dict[str, Any]:
    """What a model is that another one is trained beside. MistakeError where none is named, RunError where it is not there."""
    if cfg.get("init_from") is None:
        raise MistakeError(
            "model=variance_head: set init_from=…, the folder of the diffusion model that the head is trained on"
        )
    return identity_of(ModelDirectory(Path(cfg.init_from)), _files(cfg)[-1].stem)


def start(model: TrainableModel, cfg: DictConfig) -> None:
    """Put the weights in place. ValueError, naming what differs, where they are those of another network."""
    files, started = _files(cfg), model
    if model.needs_base:
        from diffusion_lab.from_config.unguided import unguided

        directory, fix = ModelDirectory(Path(cfg.init_from)), "the head; train the head with the data=… of that model"
        started = unguided(directory, cfg.facts.identity, f"init_from={cfg.init_from}", fix)
        model.serve(started)
    try:
        for file in files:
            started.start_from(file)
    except ValueError as error:
        config = ModelDirectory(Path(cfg.init_from)).config
        raise ValueError(f"init_from={cfg.init_from}: {error}; the options of its network are in {config}") from error


def _files(cfg: DictConfig) -> list[Path]:
    """The raw weights, which have everything, and then the average or the earlier moment of init_weights."""
    if cfg.get("init_from") is None:
        return []
    from diffusion_lab.callbacks.ema import suited_weights

    directory, name = ModelDirectory(Path(cfg.init_from)), cfg.init_weights
    there = directory.weight_names
    if name == "auto":
        averages = [weights for weights in there if not is_snapshot(weights)]
        name = suited_weights(averages, directory.read_training()["steps"])
    files = directory.weight_files([name])
    if name not in files:
        raise RunError(f"init_weights={name}: the weights in {directory.path} are {', '.join(there)}")
    return [files[weights] for weights in dict.fromkeys((RAW, name))]
