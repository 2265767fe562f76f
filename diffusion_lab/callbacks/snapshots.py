"""The weights of earlier moments of a training: what the model was, not how far it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer

from diffusion_lab.callbacks.ema import suited_weights
from diffusion_lab.models.budget import budget_used
from diffusion_lab.models.trainable import TrainableModel
from diffusion_lab.runs.contents import snapshot_name


class Snapshots(Callback):
    """Writes the weights that would be scored, had training ended when these shares of its budget were used: one file a moment.

    The moment is the first step at which the share is used. The file is there before any checkpoint of that step or a later one, so
    a training that was killed and goes on either has it or comes to the moment again: the same bits, for a budget of steps.
    It must come after the averages and before what saves.

    at: shares of the budget, of steps or of time, between 0 and 1. file_of: the file of the weights of a name.
    """

    def __init__(self, at: Sequence[float], file_of: Callable[[str], Path]) -> None:
        if not (isinstance(at, Sequence) and all(isinstance(share, float | int) and 0 < share < 1 for share in at)):
            said = at if isinstance(at, str) or not isinstance(at, Sequence) else list(at)
            raise ValueError(f"snapshots.at={said}: it is a list of shares of the budget, between 0 and 1")
        if len(set(at)) < len(at):
            raise ValueError(f"snapshots.at={list(at)}: each moment is kept once; leave out the repeated one")
        self.at, self.file_of = sorted(at), file_of
        self._step, self._used = 0, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: TrainableModel) -> None:
        self._step = trainer.global_step
        self._used = budget_used(trainer, self._step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: TrainableModel, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step == self._step:  # gradients are still being accumulated
            return
        before, self._step, self._used = self._used, step, budget_used(trainer, step)
        if not trainer.is_global_zero:
            return
        for share in self.at:
            if before < share <= self._used:
                weights = suited_weights(pl_module.weight_names, step)
                pl_module.save_snapshot(weights, self.file_of(snapshot_name(share)), step=str(step))
