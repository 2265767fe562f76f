"""Skipping optimizer steps with non-finite gradients. Lightning has had no such function since it removed `terminate_on_nan`."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from lightning import Callback, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from diffusion_lab.models.budget import logging_interval
from diffusion_lab.models.optimization import parameters_of
from diffusion_lab.store.option_names import check_at_least


class NotFiniteError(RuntimeError):
    """Training stopped because too many steps in a row had non-finite gradients."""


class _Step(NamedTuple):
    """A step that is not yet checked. finite: bool, on the device. t, losses: of each sample, if the model returns them."""

    finite: Tensor
    step: int
    batch: int
    t: Tensor | None
    losses: Tensor | None


class SkipNotFinite(Callback):
    """Skips steps whose gradients are not all finite, and counts them in `model.skipped_steps`.

    After `stop_after` such steps in a row training ends with NotFiniteError. Gradients are checked, not the loss: with several
    ranks they are already summed, so all ranks decide alike, and a finite loss may have non-finite gradients. A gradient scaler
    (16-mixed) skips such steps itself.

    On a GPU the host does not wait for the result: the step is taken, and undone on the device if necessary. It is counted, and
    training ended, at the next multiple of `trainer.log_every_n_steps`.

    It precedes `Monitor` and clipping, which use the norm that it stores in `model.gradient_norm`.
    """

    def __init__(self, stop_after: int = 20) -> None:
        self.stop_after = stop_after
        check_at_least(1, self, "stop_after", prefix="callbacks.finite.")
        self._skipped_steps, self._in_a_row = 0, 0
        self._finite: list[Tensor] = []  # of this batch, one per optimizer of the model
        self._unread: list[_Step] = []
        self._failure: str | None = None

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module.skipped_steps = self._skipped_steps
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
        where = outputs.get("t"), outputs.get("losses")
        self._unread.append(_Step(finite, trainer.global_step, pl_module.batches_trained - 1, *where))
        if is_on_host(finite) or trainer.global_step % logging_interval(trainer) == 0:
            self._end(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._end(pl_module)

    def _end(self, pl_module: Any) -> None:
        self._read()
        pl_module.skipped_steps = self._skipped_steps
        if self._failure is not None:
            raise NotFiniteError(self._failure)

    def _read(self) -> None:
        """Count the steps since the last call, in order. Only here does the host wait for a GPU."""
        unread, self._unread = self._unread, []
        if not unread or self._failure is not None:
            return
        for step, finite in zip(unread, torch.stack([step.finite for step in unread]).tolist(), strict=True):
            self._in_a_row = 0 if finite else self._in_a_row + 1
            self._skipped_steps += not finite
            if self._in_a_row >= self.stop_after:
                self._failure = (
                    f"the gradients were not finite for {self._in_a_row} steps in a row, the last one step {step.step}, batch "
                    f"{step.batch}{_where(step)}; none of them changed the weights; try a lower optimizer.lr, a longer "
                    "lr_scheduler.warmup_steps, or trainer.precision=32-true"
                )
                return

    def state_dict(self) -> dict[str, Any]:
        self._read()
        return {"skipped_steps": self._skipped_steps, "in_a_row": self._in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._skipped_steps, self._in_a_row = state["skipped_steps"], state["in_a_row"]


def _where(step: _Step) -> str:
    """For example ", t = …" for a diffusion model, whose training step returns t and the loss of each sample."""
    if step.t is None or step.losses is None:
        return ""
    t = step.t[~torch.isfinite(step.losses)].unique().tolist()
    if not t:
        return ", although the losses on this rank were finite"
    return f", t = {', '.join(f'{value:.6g}' for value in t[:8])}{', …' if len(t) > 8 else ''}"


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
