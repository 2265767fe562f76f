"""The evidence lower bound: the rate of latents under a prior, and the importance-weighted bound.

    log p(x) ≥ E_q log p(x|z) − KL(q(z|x) ‖ p(z)) = −distortion − rate              Kingma & Welling 2014, eq. 3
    log p(x) ≥ E log 1/K Σ_k p(x|z_k)·p(z_k)/q(z_k|x),  z_k ~ q(z|x)                Burda et al. 2016, eq. 8

The second increases with K, from the first at K = 1 to log p(x). The prior of the rate, E_q log q(z|x) − E_q log p(z), is

    standard   p(z) = N(z; 0, I)                         both terms in closed form, a sum over dimensions
    learned    p(z) = N(f(z); 0, I)·|det ∂f/∂z|          E_q log q = −½ Σ_j (1 + log 2πσ_j²), log p(z) at the z drawn from q

A learned prior (Chen et al. 2017) adapts to the posteriors of the data, so the decoder has been trained on draws from it;
draws from N(0, I) may fall between posteriors. In both cases u ~ N(0, I) gives z = f⁻¹(u), f = id for the standard one. In nats.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffusion_lab.diffusion import Gaussian
from diffusion_lab.diffusion.gaussian import standard_normal_like
from diffusion_lab.diffusion.shapes import PerSample
from diffusion_lab.families.flow.couplings import standard_normal_log_prob

Latents = Float[Tensor, "b *latent"]
Classes = Int[Tensor, " b"] | None


def rate(posterior: Gaussian) -> Latents:
    """KL(q(z|x) ‖ N(0, I)), in nats per latent dimension, ≥ 0; its sum is the information about x in z."""
    return posterior.kl(standard_normal_like(posterior))


def paid_rate(rate: Latents, free_nats: float, batch_mean: Float[Tensor, " *latent"] | None = None) -> Tensor:
    """Σ_j max(λ, E_batch rate_j), a scalar: the first λ nats of every latent dimension are free (Kingma et al. 2016, eq. 15).

    The threshold applies to the mean over the batch, not to each sample's rate. λ = 0 gives the plain mean of the rate.

    Parameters
    ----------
    rate: (B, …), of this rank's rows. free_nats: λ per dimension.
    batch_mean: E_batch rate over the rows of all ranks, if these are not all here; it selects dimensions and carries no gradient.
    """
    mean = rate.mean(dim=0)
    if free_nats == 0:
        return mean.sum()  # an estimate of the rate may be negative and is kept
    paying = (mean if batch_mean is None else batch_mean).detach() >= free_nats
    return torch.where(paying, mean, torch.full_like(mean, free_nats)).sum()


def log_weight(posterior: Gaussian, z: Latents, log_prior: PerSample, log_likelihood: PerSample) -> PerSample:
    """log p(x|z)·p(z)/q(z|x), float64 (B,), from log p(z) and log p(x|z), each (B,)."""
    log_posterior = posterior.log_prob(z).double().flatten(1).sum(dim=1)
    return log_likelihood.double() + log_prior.double() - log_posterior


def importance_weighted(log_weights: Float[Tensor, "k b"]) -> PerSample:
    """log 1/K Σ_k w_k, float64 (B,): the bound on log p(x) of K draws of z."""
    return log_weights.logsumexp(dim=0) - math.log(len(log_weights))


class Prior(nn.Module, ABC):
    """p(z|y) of latents z (B, D)."""

    by_dimension: bool  # whether the rate is a sum over dimensions

    @abstractmethod
    def rate(self, posterior: Gaussian, log_prior: PerSample) -> Float[Tensor, "b parts"]:
        """The rate of each sample, in parts: (B, D), or (B, 1) if it is not a sum over dimensions.

        log_prior: log p(z|y) of a draw z from q, from which the rate may be estimated.
        """

    @abstractmethod
    def log_prob(self, z: Latents, y: Classes = None) -> PerSample:
        """log p(z|y), float64 (B,)."""

    @abstractmethod
    def from_noise(self, u: Latents, y: Classes = None) -> Latents:
        """z for u ~ N(0, I)."""

    @abstractmethod
    def to_noise(self, z: Latents, y: Classes = None) -> Latents:
        """u for z."""


class StandardNormal(Prior):
    """N(0, I), for every class."""

    by_dimension = True

    def __init__(self, latent_dim: int, num_classes: int | None = None) -> None:
        super().__init__()

    def rate(self, posterior: Gaussian, log_prior: PerSample) -> Float[Tensor, "b parts"]:
        return rate(posterior)

    def log_prob(self, z: Latents, y: Classes = None) -> PerSample:
        return standard_normal_log_prob(z)

    def from_noise(self, u: Latents, y: Classes = None) -> Latents:
        return u

    def to_noise(self, z: Latents, y: Classes = None) -> Latents:
        return z


@runtime_checkable
class Invertible(Protocol):
    """A network f with log|det ∂f/∂z| per sample, and its inverse."""

    def __call__(self, z: Latents, y: Classes = None) -> tuple[Latents, Tensor]: ...

    def inverse(self, z: Latents, y: Classes = None) -> Latents: ...


class FlowPrior(Prior):
    """A prior trained with encoder and decoder. network: given in_channels and num_classes, builds f (`flow.networks.Flow`)."""

    by_dimension = False

    def __init__(self, latent_dim: int, num_classes: int | None, network: Callable[..., Invertible]) -> None:
        super().__init__()
        try:
            self.flow = network(in_channels=latent_dim, num_classes=num_classes)
        except ValueError as error:
            raise ValueError(f"prior.{error}") from error

    def rate(self, posterior: Gaussian, log_prior: PerSample) -> Float[Tensor, "b parts"]:
        minus_entropy = -0.5 * (1 + math.log(2 * math.pi) + posterior.log_variance.double()).sum(1)
        return (minus_entropy - log_prior)[:, None]

    def log_prob(self, z: Latents, y: Classes = None) -> PerSample:
        u, log_det = self.flow(z, y)
        return standard_normal_log_prob(u) + log_det.double()

    def from_noise(self, u: Latents, y: Classes = None) -> Latents:
        return self.flow.inverse(u, y)

    def to_noise(self, z: Latents, y: Classes = None) -> Latents:
        return self.flow(z, y)[0]
