"""An optimizer and its learning rate over the budget of training, in steps or in time."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from lightning import Trainer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from diffusion_lab.models.budget import budget_used


@dataclass(frozen=True)
class LearningRate(ABC):
    """The factor on the optimizer's lr: linear warm-up over the first `warmup_steps`, then `after_warmup`."""

    warmup_steps: int = 0

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise ValueError(f"lr_scheduler.warmup_steps={self.warmup_steps} must be 0 or more")

    def __call__(self, step: int, progress: float) -> float:
        """`step` counts optimizer steps from 0; `progress` in [0, 1] is the used share of the budget."""
        return min(1.0, (step + 1) / (self.warmup_steps + 1)) * self.after_warmup(progress)

    @abstractmethod
    def after_warmup(self, progress: float) -> float:
        """The factor after the warm-up."""


@dataclass(frozen=True)
class Constant(LearningRate):
    """1, as in Ho et al. 2020 and Nichol & Dhariwal 2021."""

    def after_warmup(self, progress: float) -> float:
        return 1.0


@dataclass(frozen=True)
class CosineDecay(LearningRate):
    """(1 + cos(π·progress))/2: to zero at the end of the budget (Loshchilov & Hutter 2017, eq. 5)."""

    def after_warmup(self, progress: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class WarmupStableDecay(LearningRate):
    """1, then over the last `decay_share` of the budget 1 − √u, u in [0, 1] the used part of that share.

    Hägele et al. 2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations". Before the decay
    the rate does not depend on the length of training, so with a budget in steps longer trainings are identical up to there.
    """

    decay_share: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.decay_share <= 1:
            raise ValueError(
                f"lr_scheduler.decay_share={self.decay_share} must be a share of the budget, above 0 and at most 1"
            )

    def after_warmup(self, progress: float) -> float:
        # Rounded, because at the start of the decay 1 − 1 may be 1e-16, with the root 1e-8.
        used = round(1 - (1 - progress) / self.decay_share, 12)
        return 1 - math.sqrt(max(0.0, used))


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """The parameters of an optimizer, in its order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def trained(parameters: Iterable[tuple[str, nn.Parameter]]) -> list[tuple[str, nn.Parameter]]:
    """The pairs of parameters that are not frozen."""
    return [pair for pair in parameters if pair[1].requires_grad]


@dataclass(frozen=True)
class Optimization:
    """An optimizer, called with its parameters by name, and its learning rate.

    torch's schedulers count steps only; with trainer.max_time the number of steps is unknown, so the learning rate
    follows the used share of the budget, whichever budget ends first.
    """

    optimizer: Callable[[Iterable[tuple[str, nn.Parameter]]], Optimizer]
    learning_rate: LearningRate

    def check(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        """ValueError for options that the optimizer does not accept."""
        try:
            groups = self.optimizer(trained(parameters)).param_groups
        except (TypeError, IndexError, ValueError) as error:
            named = "" if "optimizer." in str(error) else "optimizer: "
            raise ValueError(f"{named}{' '.join(str(error).split())}") from error
        for group in groups:
            if group.get("lr") == 0:  # accepted by torch
                raise ValueError("optimizer.lr=0 must be above 0")

    def configure(self, parameters: Iterable[tuple[str, nn.Parameter]], trainer: Trainer) -> OptimizerLRSchedulerConfig:
        """The result of LightningModule.configure_optimizers."""
        optimizer = self.optimizer(trained(parameters))

        def rate(step: int) -> float:
            return self.learning_rate(step, budget_used(trainer, step))

        optimizer.register_load_state_dict_pre_hook(partial(_options_of_stage, rate))
        scheduler = LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


STAGE_AT = "stage_at"  # in the state of an optimizer: the step at which another training goes on with it


class ParameterGroupsError(ValueError):
    """A checkpoint whose optimizer has other groups of parameters than this code."""


def _options_of_stage(rate: Callable[[int], float], optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """The state of an optimizer, to be loaded; where another training goes on with it, with the options of this optimizer.

    rate: the factor on lr after a number of steps. ParameterGroupsError for other groups of parameters.
    """
    for own, saved in zip(optimizer.param_groups, state["param_groups"], strict=False):
        names = own.get("param_names"), saved.get("param_names")
        if len(own["params"]) != len(saved["params"]) or (all(names) and names[0] != names[1]):
            break
    else:
        if len(optimizer.param_groups) == len(state["param_groups"]):
            return state if STAGE_AT not in state else _with_options(state, optimizer, rate(state[STAGE_AT]))
    raise ParameterGroupsError(
        "the optimizer of this checkpoint has other groups of parameters than this version: retrain=true trains again"
    )


def _with_options(state: dict[str, Any], optimizer: Optimizer, rate: float) -> dict[str, Any]:
    groups = [
        {**own, "lr": own["initial_lr"] * rate, "params": saved["params"]}
        for own, saved in zip(optimizer.param_groups, state["param_groups"], strict=True)
    ]
    return {**state, "param_groups": groups}
