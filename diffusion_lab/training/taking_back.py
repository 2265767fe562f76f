"""A step that is undone on the device, so that the host does not wait to decide whether to take it.

θ ← θ_new where the gradients are finite, θ_old elsewhere, and so for all that the optimizer remembers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from diffusion_lab.diffusion.waiting import is_on_host
from diffusion_lab.models.optimization import parameters_of


def undo_step_unless(finite: Tensor, optimizer: Optimizer) -> None:
    """The optimizer's next step changes no parameter and no state where `finite`, a bool () on their device, is false.

    What the optimizer only remembers from its first step on is then zero. Weights and state are copied at each call.
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


def keep_state_on_device(optimizer: Optimizer) -> None:
    """torch's optimizers count steps on the host unless `capturable` is set; a count there could not be undone.

    A state that was saved on the other kind of device is put right.
    """
    for group in optimizer.param_groups:
        if "capturable" not in group:
            continue
        for parameter in group["params"]:
            group["capturable"] = not is_on_host(parameter)
            step = optimizer.state.get(parameter, {}).get("step")
            if isinstance(step, Tensor):
                optimizer.state[parameter]["step"] = step.to(parameter.device)


def _tensors(optimizer: Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """What the optimizer remembers of a parameter."""
    return {key: value for key, value in optimizer.state.get(parameter, {}).items() if isinstance(value, Tensor)}
