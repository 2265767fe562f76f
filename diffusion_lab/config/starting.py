"""A model put in place: the weights that training starts from, or the model that it is trained beside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from diffusion_lab.config.identity import start_files
from diffusion_lab.config.trained import load_config
from diffusion_lab.store import ModelDirectory

if TYPE_CHECKING:
    from diffusion_lab.models.trainable import TrainableModel


def _classes(count: int | None) -> str:
    return "nothing" if count is None else f"{count} classes or clusters"


def start(model: TrainableModel, cfg: DictConfig) -> None:
    """Put the weights in place. ValueError, naming what differs, where they are those of another network."""
    from diffusion_lab.config.guiding_models import unguided  # imports torch

    files, started = start_files(cfg), model
    if model.needs_base:
        directory = ModelDirectory(Path(cfg.init_from))
        than = "the head; train the head with the data=…, labels=… and conditional=… of that model"
        option = f"init_from={cfg.init_from}"
        started = unguided(directory, cfg.facts.identity, option, than)
        model.attach_base(started)
    try:
        for file in files:
            started.start_from(file)
    except ValueError as error:
        directory = ModelDirectory(Path(cfg.init_from))
        theirs, ours = load_config(directory).facts.get("num_classes"), cfg.facts.num_classes
        if theirs != ours:
            raise ValueError(
                f"init_from={cfg.init_from}: that model is conditioned on {_classes(theirs)}, but this one on {_classes(ours)}; "
                "use its labels=… (own: no clusters) and conditional=…"
            ) from error
        config = directory.config
        raise ValueError(f"init_from={cfg.init_from}: {error}; the options of its network are in {config}") from error
