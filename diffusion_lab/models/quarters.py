"""The loss in each quarter of 1 … T."""

import torch
from torch import Tensor

QUARTERS = tuple(f"loss_quarter_{q}" for q in (1, 2, 3, 4))


def loss_by_quarter(t: Tensor, num_timesteps: int, w: Tensor, loss: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Σ w·loss and Σ w in each quarter: their quotient is the mean over uniform t, or over p(t) where p(t) weighs."""
    quarter = ((t - 1) * 4 // num_timesteps).long()
    sums, weights = (
        torch.zeros(4, dtype=loss.dtype, device=loss.device).index_add(0, quarter, summand)
        for summand in (w * loss, w.to(loss.dtype))
    )
    return {name: (sums[q], weights[q]) for q, name in enumerate(QUARTERS)}
