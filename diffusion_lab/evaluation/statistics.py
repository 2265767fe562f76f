"""Mean and covariance of features, in one pass over any number of batches and ranks.

    n = Σ_r n_r,   m = Σ_r n_r m_r / n,   M = Σ_r [M_r + n_r (m_r − m)(m_r − m)^T],   Σ = M / (n − 1)

with M_r = Σ_i (x_i − m_r)(x_i − m_r)^T over part r (Chan, Golub & LeVeque 1983, "Algorithms for computing the sample
variance", in the form for any number of parts). Plain sums of x x^T lose as many digits as the mean is larger than the
spread; centred sums lose none, and batches and ranks are merged by the same formula.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric


class UnmeasurableError(ValueError):
    """A number does not exist for these images; the message is the reason, in one sentence that a table can show."""


class Moments(NamedTuple):
    """n, the mean (D,) and the unbiased covariance (D, D) of n feature vectors, float64."""

    n: Tensor
    mean: Tensor
    covariance: Tensor


def merge(parts: Tensor) -> Tensor:
    """(R, D + 1, D + 1) states of R parts -> (D + 1, D + 1), the state of all of them together."""
    n, means, centred = parts[:, 0, 0], parts[:, 0, 1:], parts[:, 1:, 1:]
    mean = (n[:, None] * means).sum(0) / n.sum().clamp(min=1)
    shift = means - mean
    merged = torch.zeros_like(parts[0])
    merged[0, 0] = n.sum()
    merged[0, 1:] = mean
    merged[1:, 1:] = centred.sum(0) + (n[:, None] * shift).T @ shift
    return merged


class FeatureStatistics(Metric):
    """Mean and unbiased covariance of all feature vectors seen, float64; synced over ranks by torchmetrics.

    sync_on_compute: False where one rank sees everything by itself, without the others.

    The three sufficient statistics must be merged together, so they live in one (D + 1, D + 1) state: n at [0, 0],
    the mean in the rest of row 0, the centred products M below it.
    """

    full_state_update = False
    is_differentiable = False
    state: Tensor

    def __init__(self, dim: int, sync_on_compute: bool = True) -> None:
        super().__init__(sync_on_compute=sync_on_compute)
        self.add_state("state", torch.zeros(dim + 1, dim + 1, dtype=torch.float64), dist_reduce_fx=merge)

    def update(self, features: Tensor) -> None:
        """features: (B, D) of any floating type."""
        x = features.to(self.state)
        batch = torch.zeros_like(self.state)
        batch[0, 0] = len(x)
        if len(x) > 0:
            batch[0, 1:] = x.mean(0)
            x = x - x.mean(0)
            batch[1:, 1:] = x.T @ x
        self.state = merge(torch.stack([self.state, batch]))

    def compute(self) -> Moments:
        """Raises UnmeasurableError below two vectors: one has no covariance. (torchmetrics drops the axes when D = 1.)"""
        n = self.state[0, 0]
        if n < 2:
            raise UnmeasurableError(f"a covariance needs at least 2 feature vectors, got {int(n)}")
        return Moments(n, self.state[0, 1:], self.state[1:, 1:] / (n - 1))
