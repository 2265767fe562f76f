"""Running means that training and validation log, over batches and ranks."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import MeanMetric


class Mean(MeanMetric):
    """Σ w·value / Σ w over all updates and ranks; NaN without positive weights.

    `update` never waits for a GPU, so it does not check for NaN, which stays in the mean. With the nan_strategy "disable" of
    torchmetrics 1.9 itself, weights would be dropped.
    """

    def __init__(self) -> None:
        super().__init__(nan_strategy="disable")

    def update(self, value: float | Tensor, weight: float | Tensor | None = None) -> None:
        """Add value, of any shape. weight: of the same shape, or one for all; None: 1."""
        value = torch.as_tensor(value)
        weight = torch.ones_like(value) if weight is None else torch.as_tensor(weight).expand_as(value)
        self.mean_value += (value * weight).sum()
        self.weight += weight.sum()
