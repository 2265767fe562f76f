"""The forward process of a pair (α_t, σ_t):

    q(x_t|x_0) = N(α_t·x_0, σ_t²·I)                                                                         (1)

A `Schedule` has the pair at real t, a `GaussianDiffusion` at the whole steps of a chain. Functions that need only the pair and the
network's input for t (predictions, L_simple) accept either, with its t.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from .gaussian import Gaussian
from .shapes import Broadcast, Images, Number, PerSample, Times


def per_sample(values: PerSample, like: Images) -> Broadcast:
    """One float64 value per sample -> (B, 1, …, 1) in the dtype of `like`; cast last, after all float64 arithmetic."""
    return values.reshape(-1, *[1] * (like.ndim - 1)).to(like.dtype)


class ForwardProcess(ABC):
    """x_t = α_t·x_0 + σ_t·ε, t from 1 to num_timesteps; float64 values (B,) from t (B,).

    num_timesteps: the last t. prior_std: the standard deviation of p(x_T). time_dtype: of t, int64 steps or float64 times.
    """

    num_timesteps: int
    time_dtype: ClassVar[torch.dtype]

    @property
    @abstractmethod
    def prior_std(self) -> float: ...

    @abstractmethod
    def pair(self, t: Times) -> tuple[PerSample, PerSample]:
        """(α_t, σ_t)."""

    @abstractmethod
    def network_time(self, t: Times) -> Times:
        """The network's input for t: usually t − 1 in the original chain."""

    def signal(self, t: Times) -> PerSample:
        """α_t."""
        return self.pair(t)[0]

    def sigma(self, t: Times) -> PerSample:
        """σ_t."""
        return self.pair(t)[1]

    def snr(self, t: Times) -> PerSample:
        """α_t²/σ_t², the signal-to-noise ratio."""
        signal, sigma = self.pair(t)
        return (signal / sigma).square()

    def log_snr(self, t: Times) -> PerSample:
        """2·log(α_t/σ_t)."""
        return self.snr(t).log()

    def q_sample(self, x_0: Images, t: Times, eps: Images) -> Images:
        """x_t = α_t·x_0 + σ_t·ε ~ q(x_t|x_0), equation (1)."""
        signal, sigma = self.pair(t)
        return per_sample(signal, x_0) * x_0 + per_sample(sigma, x_0) * eps

    def q_marginal(self, x_0: Images, t: Times) -> Gaussian:
        """q(x_t|x_0), equation (1)."""
        signal, sigma = self.pair(t)
        return Gaussian(per_sample(signal, x_0) * x_0, per_sample(2 * sigma.log(), x_0))

    def prior_kl(self, x_0: Images) -> Images:
        """KL(q(x_T|x_0) ‖ p(x_T)), p(x_T) = N(0, prior_std²·I), in nats per dimension: L_T."""
        last = self.q_marginal(x_0, self.full(self.num_timesteps, x_0))
        log_variance = 2 * torch.full_like(last.log_variance, self.prior_std).log()
        return last.kl(Gaussian(torch.zeros_like(last.mean), log_variance))

    @property
    def first_std(self) -> float:
        """σ_1/α_1, as a plain number."""
        signal, sigma = self.pair(torch.ones(1, dtype=self.time_dtype))
        return float((sigma / signal).detach())

    def full(self, t: Number, like: Images) -> Times:
        """The same t for each sample."""
        return torch.full((len(like),), t, dtype=self.time_dtype, device=like.device)


class DeviceTable:
    """A tensor on the host, copied to each device on first use."""

    def __init__(self, values: Tensor) -> None:
        self._copies = {values.device: values}
        self.values = values

    def on(self, device: torch.device) -> Tensor:
        if device not in self._copies:
            self._copies[device] = self.values.to(device)
        return self._copies[device]
