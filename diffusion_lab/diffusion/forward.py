"""The forward process: a noisy image, given a clean one. From the pair (α_t, σ_t), for s < t and with α_0 = 1, σ_0 = 0:

    q(x_t|x_0)      = N(α_t·x_0, σ_t²·I)                                                                     (1)
    q(x_t|x_s)      = N(α_ts·x_s, σ²_ts·I),   α_ts = α_t/α_s,   σ²_ts = σ_t² − α_ts²·σ_s²                    (2)
    q(x_s|x_t, x_0) = N((α_ts·σ_s²·x_t + α_s·σ²_ts·x_0)/σ_t², σ_s²·σ²_ts/σ_t²·I)                             (3)

(Kingma et al. 2021, VDM, appendix A). With α_t = √ᾱ_t, σ_t = √(1 − ᾱ_t) and s = t − 1 this is DDPM: σ²_ts is its β_t, (1) to (3)
are equations 4, 2 and 6 of Ho et al. 2020, and mean and variance in (3) are the μ̃_t and β̃_t of equation 7.

The pair fixes (1) alone. (2) and (3) belong to the Markov chain with these marginals; other joint distributions have the same
ones, such as those of DDIM (Song et al. 2020, section 3). L_simple needs (1) only; ancestral sampling and the bound need (3).

A `Schedule` has the pair at real t, a `GaussianDiffusion` (in `chain`) at the whole steps of a chain, of which it keeps a table.
Functions that need only the pair and the network's input for t (predictions, L_simple) accept either, with its t.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from .gaussian import Gaussian
from .shapes import Broadcast, Images, Number, PerSample, Times

Value = TypeVar("Value", Tensor, float)


def per_sample(values: PerSample, like: Images) -> Broadcast:
    """One float64 value per sample -> (B, 1, …, 1) in the dtype of `like`; cast last, after all float64 arithmetic."""
    return values.reshape(-1, *[1] * (like.ndim - 1)).to(like.dtype)


@dataclass(frozen=True)
class Stride(Generic[Value]):
    """Equations (2) and (3) from t to s."""

    alpha_ts: Value
    beta: Value  # σ²_ts
    log_beta: Value
    beta_tilde: Value  # the variance of (3)
    log_beta_tilde: Value
    of_x_t: Value  # the mean of (3) is of_x_t·x_t + of_x_0·x_0
    of_x_0: Value


def stride_between(pair_t: tuple[Tensor, Tensor], pair_s: tuple[Tensor, Tensor]) -> Stride[Tensor]:
    """(2) and (3) from the (α, σ) of t and of s."""
    (signal, sigma), (signal_s, sigma_s) = pair_t, pair_s
    alpha_ts = signal / signal_s
    beta = sigma.square() - (alpha_ts * sigma_s).square()
    share = (sigma_s / sigma).square()
    return Stride(
        alpha_ts=alpha_ts,
        beta=beta,
        log_beta=beta.log(),
        beta_tilde=share * beta,
        log_beta_tilde=(share * beta).log(),
        of_x_t=alpha_ts * share,
        of_x_0=signal_s * beta / sigma.square(),
    )


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

    def stride(self, t: Times, s: Times | None = None) -> Stride[Tensor]:
        """The coefficients of (2) and (3) for s < t; None: s = t − 1."""
        return stride_between(self.pair(t), self.pair(t - 1 if s is None else s))

    def q_step(self, x_prev: Images, t: Times, eps: Images, s: Times | None = None) -> Images:
        """x_t = α_ts·x_s + σ_ts·ε ~ q(x_t|x_s), equation (2); x_prev: x_s, by default that of s = t − 1."""
        stride = self.stride(t, s)
        return per_sample(stride.alpha_ts, x_prev) * x_prev + per_sample(stride.beta.sqrt(), x_prev) * eps

    def q_posterior(self, x_0: Images, x_t: Images, t: Times, s: Times | None = None) -> Gaussian:
        """q(x_s|x_t, x_0), equation (3); None: s = t − 1."""
        stride = self.stride(t, s)
        mean = per_sample(stride.of_x_0, x_0) * x_0 + per_sample(stride.of_x_t, x_0) * x_t
        return Gaussian(mean, per_sample(stride.log_beta_tilde, x_0))

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
