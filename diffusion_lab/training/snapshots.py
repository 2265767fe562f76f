"""Weights kept during training, for evaluation; training cannot resume from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer

from diffusion_lab.models.budget import budget_used, seconds_trained
from diffusion_lab.models.trainable import TrainableModel
from diffusion_lab.store.weight_names import IMAGES, SECONDS, SHARE, STEPS, read_moments, snapshot_name
from diffusion_lab.training.ema import default_weights


class Snapshots(Callback):
    """Writes the default weights for scoring at given moments of training, one file per moment.

    A moment is the first step at which a given part of a budget of time, steps or images is used. The file is written before
    any checkpoint of that step or a later one, so a training that is killed and resumed either has it or reaches the moment
    again, with the same bits if neither the budget nor the moment is a time.
    It must follow the averages and precede callbacks that save.

    at: moments, in the grammar of `read_moment`. file_of: name of the weights -> path of their file.
    """

    def __init__(self, at: Sequence[float | str], file_of: Callable[[str], Path]) -> None:
        self.at, self.file_of = read_moments("snapshots.at", at), file_of
        self._step = 0
        self._used: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._step, self._used = trainer.global_step, used_by(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if step == self._step:  # gradients are still being accumulated
            return
        before, self._step, self._used = self._used, step, used_by(trainer, pl_module)
        if not trainer.is_global_zero:
            return
        for moment in self.at:
            if before[moment.unit] < moment.amount <= self._used[moment.unit]:
                facts = {STEPS: "step", SECONDS: SECONDS, IMAGES: IMAGES}
                pl_module.save_snapshot(
                    default_weights(pl_module.weight_names, step),
                    self.file_of(snapshot_name(moment)),
                    **{name: f"{self._used[unit]:.15g}" for unit, name in facts.items()},
                )


def used_by(trainer: Any, model: TrainableModel) -> dict[str, float]:
    """The used part of the budget of training, by unit of a moment."""
    return {
        SHARE: budget_used(trainer, trainer.global_step),
        SECONDS: seconds_trained(trainer),
        STEPS: trainer.global_step,
        IMAGES: model.batches_trained * trainer.datamodule.batch_size,
    }
