"""What does a latent variable cost, and what does it save? The evidence lower bound and its sharper sister.

    log p(x) ≥ E_q log p(x|z) − KL(q(z|x) ‖ p(z)) = −distortion − rate              Kingma & Welling 2014, eq. 3
    log p(x) ≥ E log 1/K Σ_k p(x|z_k)·p(z_k)/q(z_k|x),  z_k ~ q(z|x)                Burda et al. 2016, eq. 8

The second grows with K, from the first at K = 1 to log p(x). All in nats.
"""

import math

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from diffusion_lab.diffusion import Gaussian
from diffusion_lab.diffusion.gaussian import standard_normal_like
from diffusion_lab.diffusion.shapes import PerSample

Latents = Float[Tensor, "b *latent"]


def rate(posterior: Gaussian) -> Latents:
    """KL(q(z|x) ‖ N(0, I)), in nats per latent dimension, ≥ 0; its sum is the information about x in z."""
    return posterior.kl(standard_normal_like(posterior))


def paid_rate(rate: Latents, free_nats: float, batch_mean: Float[Tensor, " *latent"] | None = None) -> Tensor:
    """Σ_j max(λ, E_batch rate_j), a scalar: the first λ nats of every latent dimension are free (Kingma et al. 2016, eq. 15).

    The mean over the batch, not each sample's rate, has to pass λ. λ = 0 is the plain mean of the rate.

    Parameters
    ----------
    rate: (B, …), of this rank's rows. free_nats: λ a dimension.
    batch_mean: E_batch rate over the rows of all ranks, where these are not all here; it decides who pays, and carries no gradient.
    """
    mean = rate.mean(dim=0)
    if free_nats == 0:
        return mean.sum()  # an estimate of the rate may be negative, and pays all the same
    paying = (mean if batch_mean is None else batch_mean).detach() >= free_nats
    return torch.where(paying, mean, torch.full_like(mean, free_nats)).sum()


def log_weight(posterior: Gaussian, z: Latents, log_prior: PerSample, log_likelihood: PerSample) -> PerSample:
    """log p(x|z)·p(z)/q(z|x), float64 (B,), from log p(z) and log p(x|z), each (B,)."""
    log_posterior = posterior.log_prob(z).double().flatten(1).sum(dim=1)
    return log_likelihood.double() + log_prior.double() - log_posterior


class ImportanceWeighted:
    """log 1/K Σ_k w_k of weights that come one draw at a time: memory does not grow with K, and no w under- or overflows."""

    def __init__(self) -> None:
        self.num_draws = 0
        self._log_sum: Float64[Tensor, " b"] | None = None

    def add(self, log_weight: PerSample) -> None:
        """log w_k of every sample, (B,)."""
        self.num_draws += 1
        self._log_sum = log_weight if self._log_sum is None else torch.logaddexp(self._log_sum, log_weight)

    @property
    def log_mean(self) -> PerSample:
        """The bound on log p(x), float64 (B,)."""
        if self._log_sum is None:
            raise ValueError("an importance-weighted bound needs at least one draw")
        return self._log_sum - math.log(self.num_draws)
