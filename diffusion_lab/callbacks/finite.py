"""A loss that is not finite takes no optimizer step. Lightning has had no such thing since `terminate_on_nan` went."""

from __future__ import annotations

from typing import Any

import torch
from lightning import Callback, Trainer
from torch import nn
from torch.optim import Optimizer

from diffusion_lab.models.trainable import TrainableModel


class NotFiniteError(RuntimeError):
    """Training has stopped, because its loss is not finite step after step."""


class SkipNotFinite(Callback):
    """A step whose gradients are not all finite is skipped and counted in `model.skipped_steps`.

    `stop_after` of them in a row end training with NotFiniteError. Gradients and not the loss are looked at: under several ranks
    they are summed already, so all ranks decide alike; and a finite loss may have others. Stands before `Monitor`, which takes
    their norm. A gradient scaler (16-mixed) skips such steps by itself.
    """

    def __init__(self, stop_after: int = 20) -> None:
        if stop_after < 1:
            raise ValueError(f"callbacks.finite.stop_after={stop_after} must be at least 1")
        self.stop_after = stop_after
        self._skipped_steps, self._in_a_row = 0, 0
        self._skipped = False

    def on_train_start(self, trainer: Trainer, pl_module: TrainableModel) -> None:
        pl_module.skipped_steps = self._skipped_steps

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: TrainableModel, optimizer: Optimizer) -> None:
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            return
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        if not bool(norm.isfinite()):
            self._skipped = True  # the batch's, if any of a model's optimizers has to pass
            for parameter in parameters:
                parameter.grad = None  # an optimizer passes over what has no gradient

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: TrainableModel, outputs: dict[str, Any], batch: Any, batch_idx: int
    ) -> None:
        if not self._skipped:
            self._in_a_row = 0
            return
        self._skipped = False
        self._in_a_row += 1
        self._skipped_steps += 1
        pl_module.skipped_steps = self._skipped_steps
        if self._in_a_row >= self.stop_after:
            raise NotFiniteError(
                f"the loss was not finite {self._in_a_row} steps in a row, the last one at step {trainer.global_step}, batch "
                f"{pl_module.batches_trained - 1}{_where(outputs)}; none of them changed a weight; try a lower optimizer.lr, a "
                "longer lr_scheduler.warmup_steps, or trainer.precision=32-true"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"skipped_steps": self._skipped_steps, "in_a_row": self._in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._skipped_steps, self._in_a_row = state["skipped_steps"], state["in_a_row"]


def _where(outputs: dict[str, Any]) -> str:
    """ ", t = …" for a diffusion model, whose training step says which losses belong to which t."""
    if "t" not in outputs:
        return ""
    t = outputs["t"][~torch.isfinite(outputs["losses"])].unique().tolist()
    return (
        f", t = {', '.join(f'{value:.6g}' for value in t[:8])}{', …' if len(t) > 8 else ''}"
        if t
        else ", in the gradients only"
    )
