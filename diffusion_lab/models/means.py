"""Means that training and validation log, over batches, ranks and a part of the chain."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric


class Mean(MeanMetric):
    """Σ w·value / Σ w over all updates and ranks; NaN without one that has a weight.

    `update` never waits for a GPU, so it does not look for NaN, which stays in the mean. With the nan_strategy "disable" of
    torchmetrics 1.9 itself, weights would be dropped.
    """

    def __init__(self) -> None:
        super().__init__(nan_strategy="disable")

    def update(self, value: float | Tensor, weight: float | Tensor | None = None) -> None:
        """value: of any shape. weight: of the same shape, or one for all; None: 1."""
        value = torch.as_tensor(value)
        weight = torch.ones_like(value) if weight is None else torch.as_tensor(weight).expand_as(value)
        self.mean_value += (value * weight).sum()
        self.weight += weight.sum()


def quarters(name: str) -> tuple[str, ...]:
    """Names of a quantity's values by quarter of the chain."""
    return tuple(f"{name}_quarter_{q}" for q in (1, 2, 3, 4))


QUARTERS = quarters("loss")


def step_outputs(terms: dict[str, Tensor], t: Tensor, w: Tensor, num_timesteps: int) -> dict[str, Any]:
    """Loss, terms and weighted values of a training step, from the terms (B,) of a denoiser at t with weights w."""
    return {
        "loss": (w * terms["loss"]).mean(),
        "terms": {name: (w * term).mean().detach() for name, term in terms.items()},
        "weighted": by_quarter("loss", t, num_timesteps, w, terms["loss"].detach()),
    }


def by_quarter(name: str, t: Tensor, num_timesteps: int, w: Tensor, value: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """value and w, each (B,), with zeros outside each quarter; the mean is that over uniform t, or over p(t) if p(t) weighs."""
    quarter = ((t - 1) * 4 // num_timesteps).long()
    zero = torch.zeros_like(value)
    found = {}
    for q, named in enumerate(quarters(name)):
        found[named] = torch.where(quarter == q, value, zero), torch.where(quarter == q, w.to(value.dtype), zero)
    return found
