"""The first weights of a training, those of init_from fitted to its data, and which of them train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig

from diffusion_lab.config.identity import start_files
from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.config.overrides import as_plain
from diffusion_lab.config.untrusted import load_config
from diffusion_lab.models.trainable import TrainableModel
from diffusion_lab.models.tuning import LoRA, add_adapters, base_parameters, freeze
from diffusion_lab.networks.fitting import Fitted, Origin
from diffusion_lab.store import ModelDirectory


@dataclass(frozen=True)
class Start:
    """What a training started from.

    source: the folder's name; None for random weights. weights: their name. taken: the number of tensors taken as they are.
    fitted, anew, left_out: names of those that were fitted to another condition or size, that begin anew, and that have no place.
    trained, frozen: numbers of parameters.
    """

    source: str | None
    weights: str | None
    taken: int
    fitted: list[str]
    anew: list[str]
    left_out: list[str]
    trained: int
    frozen: int

    @property
    def record(self) -> dict[str, Any]:
        """An entry of training.json; empty if everything is random and trains."""
        return {"start": asdict(self)} if self.source or self.frozen else {}

    @property
    def lines(self) -> list[str]:
        """Lines to print."""
        named = {"fitted": self.fitted, "begun anew": self.anew, "left out": self.left_out}
        parts = [
            f"{self.taken} tensors taken",
            *(f"{how}: {', '.join(names)}" for how, names in named.items() if names),
        ]
        told = [f"starting from the weights {self.weights} of {self.source}: {'; '.join(parts)}"] if self.source else []
        if self.frozen:
            told.append(f"training {self.trained:,} parameters; {self.frozen:,} are frozen")
        return told


def options_for_source(cfg: DictConfig) -> dict[str, Any]:
    """Options of a network for images of another size than those of init_from, with which its weights fit; cfg has facts.

    An option that the user changed stays as it is.
    """
    saved = None if cfg.init_from is None else load_config(ModelDirectory(Path(cfg.init_from)))
    if saved is None or saved.get("network") is None or saved.facts.size == cfg.facts.size:
        return {}
    here, there = as_plain(cfg.network), as_plain(saved.network)
    options_at = getattr(get_class(here["_target_"]), "options_at", None)
    if options_at is None or here["_target_"] != there["_target_"]:
        return {}
    sizes = (as_plain(part.facts)["size"] for part in (cfg, saved))
    fitting = options_at(next(sizes), there, next(sizes))
    return {f"network.{name}": value for name, value in fitting.items() if here.get(name) == there.get(name)}


def started(model: TrainableModel, cfg: DictConfig) -> Start:
    """Give a fresh model the weights of init_from, and freeze or adapt what cfg.freeze and cfg.lora name.

    ValueError, naming the differences, for weights of another network or one that reads other times, and for unknown names.
    """
    files, first = start_files(cfg), Fitted({}, (), (), ())
    if files:
        saved = load_config(ModelDirectory(Path(cfg.init_from)))
        if (scale := _timestep_scale(saved)) != _timestep_scale(cfg):
            raise ValueError(
                f"init_from={cfg.init_from}: its network multiplies times by {scale}; use network.timestep_scale={scale}"
            )
        null_class = (saved.get("network") or {}).get("null_class", True)
        origin = Origin([*saved.facts.shape[1:]], null_class is not False)
        try:
            first, *_ = [model.start_from(file, origin) for file in files]
        except ValueError as error:
            fix = f"the options of its network are in {ModelDirectory(Path(cfg.init_from)).config}"
            raise ValueError(f"init_from={cfg.init_from}: {error}; {fix}") from error
    freeze(model.network, cfg.freeze)
    if (lora := _lora(cfg.lora)) is not None:
        if not files:
            raise MistakeError(f"lora.rank={lora.rank} adapts the weights of another model: add init_from=FOLDER")
        _adapt(model, lora, cfg.seed, {*first.changed, *first.anew})
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return Start(
        source=str(cfg.init_from) if files else None,
        weights=cfg.init_weights if files else None,
        taken=len(first.weights) - len(first.changed) - len(first.anew),
        fitted=[*first.changed],
        anew=[*first.anew],
        left_out=[*first.left_out],
        trained=sum(size for size, trains in sizes if trains),
        frozen=sum(size for size, trains in sizes if not trains),
    )


def _lora(options: Mapping[str, Any]) -> LoRA | None:
    """MistakeError for an option that has no effect."""
    if options["rank"] is not None:
        return LoRA(**{str(name): value for name, value in options.items()})
    for name, value in options.items():
        if value is not None:
            raise MistakeError(f"lora.{name} has no effect without lora.rank: set lora.rank=8, or remove it")
    return None


def _adapt(model: TrainableModel, lora: LoRA, seed: int, new: set[str]) -> None:
    """LoRA in the network; no other weight that the model draws with trains, but those in `new`."""
    begun = {name.removeprefix("network.") for name in new}
    averaged, base = model.averaged_parameters().keys(), base_parameters(model)
    add_adapters(model.network, lora, seed, begun)
    for name in averaged:
        if not name.startswith("network."):
            base[name].requires_grad_(False)


def _timestep_scale(cfg: DictConfig) -> float:
    return float((cfg.get("network") or {}).get("timestep_scale", 1))
