"""Skipping optimizer steps with non-finite gradients, which Lightning lacks since it removed `terminate_on_nan`."""

from __future__ import annotations

from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from diffusion_lab.models.budget import logging_interval
from diffusion_lab.models.optimization import parameters_of
from diffusion_lab.store.option_names import check_at_least


class NotFiniteError(RuntimeError):
    """Training has ended because too many steps in a row had non-finite gradients."""


class SkipNotFinite(Callback):
    """Skips steps whose gradients are not all finite, and counts them in `model.skipped_steps`.

    After `stop_after` such steps in a row training ends with NotFiniteError. Gradients are checked, not the loss: with several
    ranks they are already summed, so all ranks decide alike, and a finite loss may have non-finite gradients. A gradient scaler
    (16-mixed) skips such steps itself.

    On a GPU the host does not wait for the result: the step is taken, and undone on the device if necessary. The counts are read
    at each multiple of `trainer.log_every_n_steps`.

    It precedes `Monitor` and clipping, which use the norm that it stores in `model.gradient_norm`.
    """

    def __init__(self, stop_after: int = 20) -> None:
        self.stop_after = stop_after
        check_at_least(1, self, "stop_after", prefix="callbacks.finite.")
        self._skipped, self._in_a_row = torch.tensor(0), torch.tensor(0)
        self._finite: list[Tensor] = []  # of this batch, one per optimizer of the model

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._skipped, self._in_a_row = self._skipped.to(pl_module.device), self._in_a_row.to(pl_module.device)
        for optimizer in trainer.optimizers:
            keep_state_on_device(optimizer, fused=getattr(trainer.precision_plugin, "scaler", None) is None)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Optimizer) -> None:
        parameters = parameters_of(optimizer)
        norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        pl_module.gradient_norm = norm
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            return
        finite = norm.isfinite()
        self._finite.append(finite)
        if not is_on_host(finite):
            undo_step_unless(finite, optimizer)
        elif not bool(finite):
            for parameter in parameters:
                parameter.grad = None  # an optimizer skips parameters without a gradient

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not self._finite:  # gradients are being accumulated, or checked by a scaler
            return
        finite, self._finite = torch.stack(self._finite).all(), []
        self._skipped = self._skipped + ~finite
        self._in_a_row = torch.where(finite, 0, self._in_a_row + 1)
        if is_on_host(finite) or trainer.global_step % logging_interval(trainer) == 0:
            self._read(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._read(trainer, pl_module)

    def _read(self, trainer: Trainer, pl_module: Any) -> None:
        """Read the counts, and end training after too many steps. Only here does the host wait for a GPU."""
        pl_module.skipped_steps, in_a_row = int(self._skipped), int(self._in_a_row)
        if in_a_row >= self.stop_after:
            raise NotFiniteError(
                f"the gradients were not finite for {in_a_row} steps in a row, the last one step {trainer.global_step}, batch "
                f"{pl_module.batches_trained - 1}; none of them changed the weights; try a lower optimizer.lr, a longer "
                "lr_scheduler.warmup_steps, or trainer.precision=32-true"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"skipped_steps": int(self._skipped), "in_a_row": int(self._in_a_row)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._skipped, self._in_a_row = torch.tensor(state["skipped_steps"]), torch.tensor(state["in_a_row"])


def undo_step_unless(finite: Tensor, optimizer: Optimizer) -> None:
    """If `finite`, a bool () on the device, is false, undo the optimizer's next step, including its state.

    State that the first step creates becomes zero. Weights and state are copied at each call.
    """
    parameters = parameters_of(optimizer)
    weights = [parameter.detach().clone() for parameter in parameters]
    states = [_tensors(optimizer, parameter) for parameter in parameters]
    states = [{key: value.clone() for key, value in state.items()} for state in states]

    @torch.no_grad()
    def undo(*_: Any) -> None:
        hook.remove()
        for parameter, weight, state in zip(parameters, weights, states, strict=True):
            parameter.copy_(torch.where(finite, parameter, weight))
            for key, value in _tensors(optimizer, parameter).items():
                value.copy_(torch.where(finite, value, state[key] if key in state else torch.zeros_like(value)))

    hook = optimizer.register_step_post_hook(undo)


def is_on_host(values: Tensor) -> bool:
    """Whether the host can read the values without waiting for a GPU."""
    return values.device.type == "cpu"


def keep_state_on_device(optimizer: Optimizer, fused: bool = False) -> None:
    """Keep the optimizer's step count on the device; a count on the host, torch's default, could not be undone.

    A state saved on another kind of device is moved. fused: use one kernel on a GPU, if the optimizer has one and its options allow
    it; with a gradient scaler that kernel would also unscale, so Lightning does not clip.
    """
    for group in optimizer.param_groups:
        on_cuda = all(parameter.device.type == "cuda" for parameter in group["params"])
        if "fused" in group and optimizer.defaults.get("fused") is None and optimizer.defaults.get("foreach") is None:
            group["fused"] = True if fused and on_cuda and group["params"] else None
        if "capturable" not in group:
            continue
        for parameter in group["params"]:
            group["capturable"] = not is_on_host(parameter)
            step = optimizer.state.get(parameter, {}).get("step")
            if isinstance(step, Tensor):
                optimizer.state[parameter]["step"] = step.to(parameter.device)


def _tensors(optimizer: Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """The optimizer's state of a parameter."""
    return {key: value for key, value in optimizer.state.get(parameter, {}).items() if isinstance(value, Tensor)}
