"""diffusion-lab import: make a model directory from a published checkpoint."""

from __future__ import annotations

import re
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict

from diffusion_lab.config.build import (
    build_model,
    build_training_data,
    choices_made,
    family,
    fill_in_facts,
    state_shape,
)
from diffusion_lab.config.loading import no_larger_than
from diffusion_lab.config.mistakes import MistakeError, users_mistakes
from diffusion_lab.config.naming import name_of_training, plain_config
from diffusion_lab.interop.opening import OPTIONS, opened
from diffusion_lab.models.trainable import TrainableModel
from diffusion_lab.networks.flops import NetworkCost
from diffusion_lab.store import model_directory, write_json
from diffusion_lab.store.files import remove_staged, write_whole
from diffusion_lab.store.own_files import sha256_of
from diffusion_lab.store.provenance import code_now
from diffusion_lab.terminal import Terminal
from diffusion_lab.training.ranks import hold_together
from diffusion_lab.training.trainer_options import quiet_lightning
from diffusion_lab.versions import versions


def run(cfg: DictConfig) -> None:
    """Read and check everything, then write a directory like that of a training."""
    quiet_lightning()
    path, choices = Path(cfg.checkpoint), choices_made()
    with users_mistakes():
        given = {key: str(cfg[key]) for key in OPTIONS if cfg[key] is not None}
        found = opened(path, given)
        state_shape(cfg, found.shape, 256, [] if found.num_classes is None else [found.num_classes])
        with no_larger_than(found.file):
            _state_data(cfg)
            model = build_model(cfg)
        weights = found.weights(model.network)
        cost = _cost(model, found.file)
        model.network.load_state_dict(weights, assign=True)
    content = sha256_of(found.file)
    with open_dict(cfg):
        cfg.setdefault("data", None)
        cfg.facts.init = content
        for name in ("checkpoint", *OPTIONS):
            del cfg[name]
    training = name_of_training(cfg)
    fingerprint = str(training)
    name = re.sub(r"[^\w.+-]", "_", path.stem if path.is_file() else path.resolve().name)[:80]
    directory = model_directory(Path(cfg.outputs), name, family(), fingerprint)
    console = Terminal()
    with hold_together(directory.path, lambda holder: console.print(f"{directory.path} is being written; waiting")):
        if directory.finished:
            console.print(f"this checkpoint is already imported: {directory.path}")
            return
        remove_staged(directory.path)
        model.save_weights({"raw": directory.weights("raw")})
        write_whole(directory.config, OmegaConf.to_yaml(OmegaConf.create(plain_config(cfg))).encode())
        write_json(directory.choices, choices)
        directory.finish(  # last, because it marks the folder as whole
            steps=None,
            seconds=None,
            images=None,
            fingerprint=fingerprint,
            asked=training.asked,
            files=training.files,
            options=training.options,
            config=sha256_of(directory.config),
            code=code_now(),
            parameters=cost.parameters,
            flops=cost.forward_flops,
            versions=versions(),
            imported={**found.origin, "file": path.name, "sha256": content},
        )
    console.print(f"{path.name}: {sum(w.numel() for w in weights.values()):,} parameters; into {directory.path}")


def _state_data(cfg: DictConfig) -> None:
    """Replace facts from the flags by those of the named data set. MistakeError if the two differ."""
    if cfg.get("data") is None:
        return
    shape, num_levels, num_classes = tuple(cfg.facts.shape), cfg.facts.num_levels, cfg.facts.num_classes
    data = build_training_data(cfg)
    found = f"images {tuple(data.shape)} with {data.num_levels} levels and {data.num_classes or 'no'} classes"
    expected = f"images {shape} with {num_levels} levels and {num_classes or data.num_classes or 'no'} classes"
    if found != expected:
        raise MistakeError(
            f"data: {data.name} has {found}, but this checkpoint was trained on {expected}; choose such data"
        )
    fill_in_facts(cfg, data)


def _cost(model: TrainableModel, file: Path) -> NetworkCost:
    """The cost of one evaluation; operations are counted without computing them.

    MistakeError for a network that cannot be evaluated, because the options may be a stranger's.
    """
    try:
        return model.to("meta").cost()
    except Exception as error:
        reason = " ".join(str(error).split())
        raise MistakeError(f"checkpoint: the network of {file} does not take images of its size ({reason})") from error
