"""Exponential moving averages of the weights, θ̄ ← d·θ̄ + (1 − d)·θ after every optimizer step, for sampling and scoring.

Our own callback, because Lightning's averaging keeps one decay, has no warm-up, writes the averages into the state_dict and
leaves them in place of the raw weights if validation fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from safetensors.torch import save
from torch import Tensor

from diffusion_lab.models.budget import budget_used
from diffusion_lab.models.trainable import RAW, TrainableModel
from diffusion_lab.store.files import write_whole
from diffusion_lab.store.weight_names import kept_average_name
from diffusion_lab.training.profiles import TRACKED, Profile, wanted_length

_PREFIX, _STATE = "ema_", "power_averages"  # of names; in a checkpoint
Averages = dict[str, dict[str, Tensor]]  # name -> {parameter name -> averaged tensor}


class EMA(Callback):
    """Keeps `model.averages["ema_<decay>"]` for each decay in (0, 1); the raw weights are unchanged.

    Warm-up: after n steps the decay is min(d, (1 + n)/(10 + n)), so the initial weights are soon forgotten; without it an average
    with decay 0.9999 still contains 37 % of them after 10,000 steps.
    Averages are at least float32: with bfloat16's 8 bits, a step of (1 − d)·(θ − θ̄) would be rounded away.
    """

    def __init__(self, decays: Sequence[float] = (0.999, 0.9999)) -> None:
        wrong = [decay for decay in decays if not 0 < decay < 1]
        if wrong:
            raise ValueError(f"ema.decays={list(decays)}: {wrong[0]} is not a decay; choose numbers between 0 and 1")
        if len(set(decays)) < len(decays):
            raise ValueError(f"ema.decays={list(decays)}: remove the repeated decay")
        self.decays = {average_name(decay): decay for decay in decays}
        self.num_updates = 0

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module.averages |= _started(self.decays, pl_module.averages, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step <= self.num_updates:  # gradients are still being accumulated
            return
        self.num_updates = trainer.global_step
        warm = _warm_up(self.num_updates)
        _update(pl_module.averages, {name: min(decay, warm) for name, decay in self.decays.items()}, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["averages"] = pl_module.averages
        checkpoint["averages_num_updates"] = self.num_updates

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        # A training that goes on from another one may have other averages.
        pl_module.averages = {name: each for name, each in checkpoint["averages"].items() if name in self.decays}
        self.num_updates = checkpoint["averages_num_updates"]


def average_name(decay: float) -> str:
    """The name of a decay with the shortest digits that identify it: 0.999 -> "ema_0.999"."""
    return f"{_PREFIX}{float(decay)!r}"


def default_weights(names: Sequence[str], num_steps: int | None) -> str:
    """The default weights for scoring after `num_steps` steps: the longest average that has warmed up.

    An average of decay d is warm once (1 + n)/(10 + n) ≥ d, after about 9/(1 − d) steps. Before that all averages are equal, and
    the shortest is chosen. "raw" without averages, or if the number of steps is unknown.
    """
    averages = _averages(names)
    warm = [name for name in averages if num_steps is not None and _warm_up(num_steps) >= _decay(name)]
    return warm[-1] if warm else averages[0] if averages else RAW


def _averages(names: Sequence[str]) -> list[str]:
    """Names of averages, the shortest first."""
    return sorted((name for name in names if name.startswith(_PREFIX) and wanted_length(name) is None), key=_decay)


def _decay(name: str) -> float:
    return float(name.removeprefix(_PREFIX))


def _warm_up(num_updates: int) -> float:
    """The largest decay allowed after `num_updates` updates."""
    return (1 + num_updates) / (10 + num_updates)


def _started(names: Iterable[str], restored: Averages, model: TrainableModel) -> Averages:
    """The averages at the start: those of a checkpoint, or copies of the weights."""
    raw = model.averaged_parameters()
    averages: Averages = {}
    for name in names:
        start = restored.get(name, raw)
        averages[name] = {
            key: start[key].detach().to(weights.device, torch.promote_types(weights.dtype, torch.float32), copy=True)
            for key, weights in raw.items()
        }
    return averages


@torch.no_grad()
def _update(averages: Averages, decays: Mapping[str, float], model: TrainableModel) -> None:
    """θ̄ ← d·θ̄ + (1 − d)·θ for each decay d, by name."""
    for name, decay in decays.items():
        average = averages[name]
        raw = [weights.to(average[key].dtype) for key, weights in model.averaged_parameters().items()]
        torch._foreach_lerp_(list(average.values()), raw, 1 - decay)


class PowerAverages(Callback):
    """Tracks power-law averages with σ_rel in TRACKED, and writes them to one file at each of `moments` moments.

    From these files `config.weight_files.build_average` builds others after training, such as ema_rel_0.07.
    The moments divide the budget evenly, the last is its end, so there are at most `moments` float16 files, together
    as large as `moments` copies of the float32 weights. A file is written before any checkpoint of its step or a later one.
    Averages are float32 and part of the checkpoint. A training resumed from a checkpoint without them keeps none.
    It must precede callbacks that save. file_of: name of the weights -> path of their file.
    """

    def __init__(self, moments: int, file_of: Callable[[str], Path]) -> None:
        self.shares = [i / moments for i in range(1, moments + 1)]
        self.file_of = file_of
        self._profiles = {str(sigma): Profile(1, sigma) for sigma in TRACKED}
        self.averages: Averages = {}
        self.num_updates, self._used, self._written = 0, 0.0, 0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.global_step == 0 or self.averages:
            self.averages = _started(self._profiles, self.averages, pl_module)
        self._used = budget_used(trainer, trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if not self.averages or step <= self.num_updates:  # gradients are still being accumulated
            return
        self.num_updates = step
        _update(self.averages, {sigma: profile.decay(step) for sigma, profile in self._profiles.items()}, pl_module)
        before, self._used = self._used, budget_used(trainer, step)
        reached = [share for share in self.shares if before < share <= self._used]
        if reached and trainer.is_global_zero:
            self._write(reached[-1])

    def finish(self) -> None:
        """Write the last file of a training that ended before its budget was used up."""
        if self.averages and self._written < self.num_updates:
            self._write(self.shares[-1])

    def _write(self, share: float) -> None:
        self._written = self.num_updates
        tensors = {
            f"{sigma}/{key}": weights.to("cpu", torch.float16).contiguous()
            for sigma, average in self.averages.items()
            for key, weights in average.items()
        }
        write_whole(self.file_of(kept_average_name(share)), save(tensors, {"step": str(self.num_updates)}))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint[_STATE] = {"averages": self.averages, "num_updates": self.num_updates, "written": self._written}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if state := checkpoint.get(_STATE):
            self.averages, self.num_updates, self._written = state["averages"], state["num_updates"], state["written"]
