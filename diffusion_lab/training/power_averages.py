"""The averages from which any other is built after training: two along powers of time, kept at a few moments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from safetensors.torch import save
from torch import Tensor

from diffusion_lab.models.budget import budget_used
from diffusion_lab.models.trainable import TrainableModel
from diffusion_lab.store.files import write_whole
from diffusion_lab.store.weights import kept_average_name
from diffusion_lab.training.profiles import TRACKED, Profile

_STATE = "power_averages"


class PowerAverages(Callback):
    """Tracks the averages of σ_rel in TRACKED from the first step on, and writes both to one file at each of `moments` moments.

    The moments are even shares of the budget, the last of them its end, so there are at most `moments` files, of float16: together
    as large as `moments` times the weights in float32. A file is there before any checkpoint of its step or a later one.
    Averages are float32 and part of the checkpoint. A training that resumes from a checkpoint without them keeps none.
    It must come before what saves. file_of: the file of a name.
    """

    def __init__(self, moments: int, file_of: Callable[[str], Path]) -> None:
        self.shares = [i / moments for i in range(1, moments + 1)]
        self.file_of = file_of
        self._profiles = {str(sigma): Profile(1, sigma) for sigma in TRACKED}
        self.averages: dict[str, dict[str, Tensor]] = {}
        self.num_updates, self.complete = 0, True
        self._used, self._written = 0.0, 0

    def on_fit_start(self, trainer: Trainer, pl_module: TrainableModel) -> None:
        if not self.complete:
            return
        raw = pl_module.averaged_parameters()
        for sigma in self._profiles:
            start = self.averages.get(sigma, raw)
            self.averages[sigma] = {
                key: start[key]
                .detach()
                .to(weights.device, torch.promote_types(weights.dtype, torch.float32), copy=True)
                for key, weights in raw.items()
            }

    def on_train_start(self, trainer: Trainer, pl_module: TrainableModel) -> None:
        self._used = budget_used(trainer, trainer.global_step)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: TrainableModel, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if not self.complete or step <= self.num_updates:  # gradients are still being accumulated
            return
        self.num_updates = step
        raw = [weights.detach() for weights in pl_module.averaged_parameters().values()]
        for sigma, profile in self._profiles.items():
            average = list(self.averages[sigma].values())
            here = [weights.to(kept.dtype) for weights, kept in zip(raw, average, strict=True)]
            torch._foreach_lerp_(average, here, 1 - profile.decay(step))
        before, self._used = self._used, budget_used(trainer, step)
        reached = [share for share in self.shares if before < share <= self._used]
        if reached and trainer.is_global_zero:
            self._write(reached[-1])

    def finish(self) -> None:
        """Write the last file of a training that something ended before its budget."""
        if self.complete and self._written < self.num_updates:
            self._write(self.shares[-1])

    def _write(self, share: float) -> None:
        self._written = self.num_updates
        tensors = {
            f"{sigma}/{key}": weights.to("cpu", torch.float16).contiguous()
            for sigma, average in self.averages.items()
            for key, weights in average.items()
        }
        write_whole(self.file_of(kept_average_name(share)), save(tensors, {"step": str(self.num_updates)}))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: TrainableModel, checkpoint: dict[str, Any]) -> None:
        if self.complete:
            checkpoint[_STATE] = {"averages": self.averages, "num_updates": self.num_updates, "written": self._written}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: TrainableModel, checkpoint: dict[str, Any]) -> None:
        state = checkpoint.get(_STATE)
        self.complete = state is not None
        if state is not None:
            self.averages, self.num_updates, self._written = state["averages"], state["num_updates"], state["written"]
