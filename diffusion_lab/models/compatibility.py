"""Parts that cannot train together are refused, in one sentence with the fix."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from torch import nn

from diffusion_lab.diffusion import GaussianDiffusion, Objective, Schedule, TimestepSampler, Variance
from diffusion_lab.sampling import Guidance


def check_parts(schedule: Schedule, variance: Variance, objective: Objective, timesteps: TimestepSampler) -> None:
    """ValueError where a part would not be trained, or where an objective does not exist at the t that are drawn."""
    if variance.outputs_per_channel and not objective.trains_variance:
        raise ValueError(
            f"variance {type(variance).__name__} would never be trained: objective {type(objective).__name__} gives it no "
            "gradient; use objective=hybrid or objective=vlb, or variance=fixed"
        )
    if schedule.trained is not None and (objective.over is not Schedule or objective.reads_variance):
        raise ValueError(
            f"schedule {type(schedule).__name__} is trained by the bound of infinitely many steps, and objective "
            f"{type(objective).__name__} has no gradient for it; use objective=vlb_continuous with decoder=levels"
        )
    if objective.over is Schedule and (not timesteps.real or timesteps.weighs_by_density):
        raise ValueError(
            f"objective {type(objective).__name__} is an integral over continuous t, and timesteps {type(timesteps).__name__} "
            f"{'weighs' if timesteps.weighs_by_density else 'draws integer'} t; use timesteps=low_discrepancy"
        )
    if objective.over is GaussianDiffusion and (timesteps.real or timesteps.weighs_by_density):
        raise ValueError(
            f"objective {type(objective).__name__} holds a sum over the steps of the chain, and timesteps "
            f"{type(timesteps).__name__} {'weighs' if timesteps.weighs_by_density else 'draws t between'} them; use "
            "timesteps=stratified timesteps.real=false, or objective=simple with variance=fixed_large"
        )
    if variance.needs_unit_variance and not GaussianDiffusion(schedule).has_unit_variance:
        raise ValueError(
            f"variance {type(variance).__name__} has β_t as its upper bound, which holds only for α² + σ² = 1, not for "
            f"{schedule}; use variance=fixed_small objective=simple"
        )


def check_guidance(guidance: Guidance, drops_labels: bool) -> None:
    """ValueError for a guidance that needs the unconditional model of a training without label dropout."""
    if guidance.needs_null_class and not drops_labels:
        raise ValueError(
            f"guidance {type(guidance).__name__} evaluates the network with and without a label, but this model was not "
            "trained for both: train with conditional=true and model.label_dropout above 0, or use guidance=none"
        )


def can_hold_back(network: Callable[..., nn.Module]) -> bool:
    """Whether a network takes held_channels: output channels whose gradient stays out of what the others share."""
    known = inspect.signature(network).parameters.values()
    return any(parameter.name == "held_channels" or parameter.kind is parameter.VAR_KEYWORD for parameter in known)
