"""Checks for parts that cannot train together, each with one sentence and the fix."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from diffusion_lab.conditions.condition import Size, has_classes
from diffusion_lab.diffusion import GaussianDiffusion, Objective, Prediction, Schedule, TimestepSampler, Variance
from diffusion_lab.diffusion.flow_maps import StraightPath
from diffusion_lab.sampling import Guidance, Sampler

MOST_ENLARGED = 1000  # prediction=noise under the cosine schedule has 2·10⁴, and a flow map of points did not train


def check_parts(schedule: Schedule, variance: Variance, objective: Objective, timesteps: TimestepSampler) -> None:
    """ValueError if a part would not be trained, or an objective is not defined for the t that are drawn."""
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
    if objective.two_times and not timesteps.real:
        raise ValueError(
            f"objective {type(objective).__name__} is differentiated in t, and timesteps {type(timesteps).__name__} draws integer "
            "t; use timesteps=uniform timesteps.real=true"
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


def check_guidance(guidance: Guidance, conditions: Sequence[Size], dropout: float) -> None:
    """ValueError for a guidance that needs an unconditional model without condition dropout, or has no use for the conditions."""
    if guidance.needs_null and not (conditions and dropout > 0):
        raise ValueError(
            f"guidance {type(guidance).__name__} evaluates the network with and without a condition, but this model was not "
            f"trained for both: train with {_with_and_without(conditions)}, or use guidance=none"
        )
    if guidance.num_classes is not None and conditions and not any(map(has_classes, conditions)):
        raise ValueError(
            "guidance=classifier leads to classes, which this model is not conditioned on; use guidance=none"
        )


def check_velocities(
    objective: Objective, conditions: Sequence[Size], dropout: float, schedule: Schedule, prediction: Prediction
) -> None:
    """ValueError for an objective of velocities that are not trained: without the condition, without the condition dropout that
    guidance needs, or far too large beside what the network predicts.
    """
    if objective.needs_conditions and (objective.guides or dropout > 0 or not conditions):
        raise ValueError(
            "objective.teacher was never trained without its conditions; use the teacher's condition with "
            "model.condition_dropout=0 objective.guidance=1, or a teacher trained with model.condition_dropout above 0"
        )
    if objective.two_times and (times := _enlarged(prediction, schedule)) > MOST_ENLARGED:
        raise ValueError(
            f"objective {type(objective).__name__}: under {schedule} an error of {type(prediction).__name__} is {times:.2g} times "
            "as large in the velocity at t = T; use prediction=velocity, flow or start"
        )
    if objective.guides and not (conditions and (dropout > 0 or not objective.needs_null)):
        raise ValueError(
            "objective.guidance needs velocities with and without a condition, and this model is not trained for both: use "
            f"{_with_and_without(conditions)}, or objective.guidance=1"
        )


def _enlarged(prediction: Prediction, schedule: Schedule) -> float:
    """(error of the velocity ε̂ − x̂_0)/(error of the output) at t = T."""
    t = torch.tensor([schedule.num_timesteps])
    return (prediction.error_scale(schedule, t).rsqrt() / StraightPath(schedule).times(t)).item()


def _with_and_without(conditions: Sequence[Size]) -> str:
    """The option that a model with these conditions lacks to be trained with them and without them."""
    return "model.condition_dropout above 0" if conditions else "condition=classes"


def check_sampler(sampler: Sampler, objective: Objective, guidance: Guidance) -> None:
    """ValueError for a sampler of flow maps with a network of one time, or with a guidance that changes velocities alone."""
    if sampler.two_times and not objective.two_times:
        raise ValueError(
            f"sampler {type(sampler).__name__} takes the steps of a flow map, which objective {type(objective).__name__} does not "
            "train: use another sampler, or train with objective=flow_map"
        )
    if sampler.two_times and guidance.guides and not (guidance.needs_null and guidance.worse is None):
        raise ValueError(
            f"guidance {type(guidance).__name__} evaluates another model, and the steps of a flow map are its own: use "
            "guidance=classifier_free, guidance=none, or sampler=ddim"
        )


def two_times_for(network: Callable[..., nn.Module], objective: Objective) -> dict[str, Any]:
    """The option of a network of two times, for an objective that needs one. ValueError for a network without it."""
    if not objective.two_times:
        return {}
    if not _takes(network, "two_times"):
        raise ValueError(
            f"network: objective {type(objective).__name__} needs a network of two times, and this one takes one; use "
            "network=diffusion/…, of the lab"
        )
    return {"two_times": True}


def check_checkpointing(network: nn.Module, objective: Objective) -> None:
    """ValueError for blocks that would be recomputed for the gradient of a forward derivative."""
    if objective.differentiates_a_jvp and any(
        getattr(part, "activation_checkpointing", False) for part in network.modules()
    ):
        raise ValueError(
            "network.activation_checkpointing=true: no block can be recomputed for the gradient of a forward derivative, which "
            "this residual trains; use network.activation_checkpointing=false, or another objective/residual"
        )


def conditions_for(network: Callable[..., nn.Module], conditions: Sequence[Size]) -> dict[str, Any]:
    """Options that give a network these conditions: num_classes, which all networks have, for classes alone; else conditions.

    ValueError for a network that supports only classes.
    """
    if all(map(has_classes, conditions)) and len(conditions) < 2:
        return {"num_classes": next(iter(conditions), None)}
    if not _takes(network, "conditions"):
        raise ValueError(
            "network: this network takes classes or clusters only; use condition=classes, condition=clusters or none"
        )
    return {"conditions": conditions}


def can_hold_back(network: Callable[..., nn.Module]) -> bool:
    """Whether a network has the option held_channels: output channels whose gradient does not reach shared layers."""
    return _takes(network, "held_channels")


def _takes(network: Callable[..., nn.Module], option: str) -> bool:
    known = inspect.signature(network).parameters.values()
    return any(parameter.name == option or parameter.kind is parameter.VAR_KEYWORD for parameter in known)
