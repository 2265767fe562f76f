"""θ̄ ← d·θ̄ + (1 − d)·θ after every optimizer step: the weights that are sampled and scored.

Our own callback, because Lightning's averaging keeps one decay, has no warm-up, writes the averages into the state_dict and
leaves them in place of the raw weights if validation fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor

from diffusion_lab.models.trainable import RAW, TrainableModel
from diffusion_lab.training.profiles import wanted_length

_PREFIX = "ema_"


class EMA(Callback):
    """Keeps `model.averages["ema_<decay>"]` for each decay in (0, 1); the raw weights stay where they are.

    Warm-up: after n steps the decay is min(d, (1 + n)/(10 + n)), so the initial weights are forgotten at once; without it 0.9999
    still holds 37 % of them after 10,000 steps.
    Averages are float32 at least: in bfloat16, with 8 bits, a step of (1 − d)·(θ − θ̄) would be rounded away.
    """

    def __init__(self, decays: Sequence[float] = (0.999, 0.9999)) -> None:
        wrong = [decay for decay in decays if not 0 < decay < 1]
        if wrong:
            raise ValueError(f"ema.decays={list(decays)}: {wrong[0]} is not a decay; choose numbers between 0 and 1")
        if len(set(decays)) < len(decays):
            raise ValueError(f"ema.decays={list(decays)}: remove the repeated decay")
        self.decays = {average_name(decay): decay for decay in decays}
        self.num_updates = 0
        self._restored: dict[str, dict[str, Tensor]] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: TrainableModel) -> None:
        raw = pl_module.averaged_parameters()
        for name in self.decays:
            start = self._restored.get(name, raw)
            pl_module.averages[name] = {
                key: start[key].detach().to(weights.device, _dtype(weights), copy=True) for key, weights in raw.items()
            }
        self._restored = {}

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: TrainableModel, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step <= self.num_updates:  # gradients are still being accumulated
            return
        self.num_updates = trainer.global_step
        raw = [weights.detach().to(_dtype(weights)) for weights in pl_module.averaged_parameters().values()]
        for name, decay in self.decays.items():
            warm = min(decay, _warm_up(self.num_updates))
            torch._foreach_lerp_(list(pl_module.averages[name].values()), raw, 1 - warm)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: TrainableModel, checkpoint: dict[str, Any]) -> None:
        checkpoint["averages"] = pl_module.averages
        checkpoint["averages_num_updates"] = self.num_updates

    def on_load_checkpoint(self, trainer: Trainer, pl_module: TrainableModel, checkpoint: dict[str, Any]) -> None:
        self._restored = checkpoint["averages"]
        self.num_updates = checkpoint["averages_num_updates"]


def average_name(decay: float) -> str:
    """0.999 -> "ema_0.999": the shortest digits that are this decay and no other."""
    return f"{_PREFIX}{float(decay)!r}"


def default_weights(names: Sequence[str], num_steps: int | None) -> str:
    """Which of a model's weights to score after so many steps: the longest average that has warmed up.

    An average of decay d is warm once (1 + n)/(10 + n) ≥ d, after about 9/(1 − d) steps. Before that all averages are the same, and
    the shortest stands for them. Without averages, as where nobody recorded the steps: "raw".
    """
    averages = _averages(names)
    warm = [name for name in averages if _warm_up(num_steps) >= _decay(name)]
    return warm[-1] if warm else averages[0] if averages else RAW


def _averages(names: Sequence[str]) -> list[str]:
    """The shortest first."""
    return sorted((name for name in names if name.startswith(_PREFIX) and wanted_length(name) is None), key=_decay)


def _decay(name: str) -> float:
    return float(name.removeprefix(_PREFIX))


def _warm_up(num_updates: int) -> float:
    """The largest decay after so many updates."""
    return (1 + num_updates) / (10 + num_updates)


def _dtype(weights: Tensor) -> torch.dtype:
    return torch.promote_types(weights.dtype, torch.float32)
