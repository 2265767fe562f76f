"""Mean and covariance of features, in one pass over any number of batches.

    n = Σ_r n_r,   m = Σ_r n_r m_r / n,   M = Σ_r [M_r + n_r (m_r − m)(m_r − m)^T],   Σ = M / (n − 1)

with M_r = Σ_i (x_i − m_r)(x_i − m_r)^T over batch r (Chan, Golub & LeVeque 1983, "Algorithms for computing the sample
variance", in the form for any number of parts). Plain sums of x x^T lose as many digits as the mean is larger than the
spread; centred sums lose none. With fewer vectors than features Σ is never formed: the centred vectors are its factor.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class UnmeasurableError(ValueError):
    """A number does not exist for these images; the message is the reason, in one sentence that a table can show."""


class Moments(NamedTuple):
    """n, the mean (D,) and the unbiased covariance Σ of n feature vectors, float64.

    Σ is `covariance` (D, D) where n ≥ D. Where n < D, that is None, and L·L^T = Σ with L = `factor` (D, n).
    """

    n: Tensor
    mean: Tensor
    covariance: Tensor | None
    factor: Tensor | None = None

    def dense(self) -> Tensor:
        """Σ (D, D), whatever n is."""
        return self.factor @ self.factor.T if self.covariance is None else self.covariance

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are set, on the CPU, by name."""
        return {name: value.cpu() for name, value in self._asdict().items() if value is not None}

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> Moments:
        """The inverse of `tensors`."""
        return cls(**{"covariance": None, **tensors})


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


class FeatureStatistics:
    """Mean and unbiased covariance of all feature vectors seen, float64, on their device.

    Up to D − 1 vectors are kept as they are. From then on there is one state (D + 1, D + 1): n at [0, 0], the mean in the rest
    of row 0, the centred products M below it.
    """

    def __init__(self, dim: int) -> None:
        self.dim, self.n = dim, 0
        self._rows: list[Tensor] = []
        self._state: Tensor | None = None

    def update(self, features: Tensor) -> None:
        """features: (B, D) of any floating type."""
        if len(features) == 0:
            return
        self.n += len(features)
        self._rows.append(features)
        if self.n < self.dim:
            return
        for rows in self._rows:
            self._add(rows.double())
        self._rows = []

    def _add(self, x: Tensor) -> None:
        batch = x.new_zeros(self.dim + 1, self.dim + 1)
        batch[0, 0] = len(x)
        batch[0, 1:] = x.mean(0)
        x = x - x.mean(0)
        batch[1:, 1:] = x.T @ x
        before = torch.zeros_like(batch) if self._state is None else self._state
        self._state = merge(torch.stack([before, batch]))

    def compute(self) -> Moments:
        """Raises UnmeasurableError below two vectors: one has no covariance."""
        if self.n < 2:
            raise UnmeasurableError(f"a covariance needs at least 2 feature vectors, got {self.n}")
        if self._state is not None:
            return Moments(self._state[0, 0], self._state[0, 1:], self._state[1:, 1:] / (self._state[0, 0] - 1))
        x = torch.cat(self._rows).double()
        mean = x.mean(0)
        return Moments(torch.tensor(float(self.n)).double(), mean, None, (x - mean).T / (self.n - 1) ** 0.5)
