"""N(μ, σ²), the distribution from which the theory is built."""

import math
from dataclasses import dataclass

import torch

from .levels import nearest_level
from .shapes import Broadcast, Images


@dataclass(frozen=True)
class Gaussian:
    """N(x; μ, diag σ²) with independent dimensions.

    Parameters
    ----------
    mean: μ, float (B, …).
    log_variance: log σ², float, broadcasts against the mean: (B, 1, …) when all dimensions share one variance.
    """

    mean: Images
    log_variance: Broadcast

    def sample(self, eps: Images) -> Images:
        """x = μ + σ·ε, the reparameterised draw for ε ~ N(0, I)."""
        return self.mean + torch.exp(0.5 * self.log_variance) * eps

    def kl(self, other: "Gaussian") -> Images:
        """KL(self ‖ other) = ½·(log σ₂²/σ₁² + σ₁²/σ₂² − 1 + (μ₁ − μ₂)²/σ₂²), in nats per dimension, ≥ 0.

        The order matters: in L_{t−1} (Ho et al. 2020, eq. 5) `self` is q(x_{t−1}|x_t, x_0) and `other` is p_θ(x_{t−1}|x_t).
        """
        log_ratio = self.log_variance - other.log_variance
        distance = (self.mean - other.mean).square() * torch.exp(-other.log_variance)
        return 0.5 * (torch.expm1(log_ratio) - log_ratio + distance)

    def log_prob(self, x: Images) -> Images:
        """log N(x; μ, σ²) = −½·(log 2πσ² + (x − μ)²/σ²), in nats per dimension."""
        distance = (x - self.mean).square() * torch.exp(-self.log_variance)
        return -0.5 * (math.log(2 * math.pi) + self.log_variance + distance)

    def discretized_log_prob(self, x: Images, num_levels: int) -> Images:
        """log of the mass of N(μ, σ²) in the bin of x, in nats per dimension (Ho et al. 2020, eq. 13).

        The data have `num_levels` equally spaced levels from −1 to 1, so a bin is 2/(num_levels − 1) wide, centred on its level;
        the first bin reaches to −∞ and the last to +∞, and the masses of all levels sum to 1. The mass Φ(b) − Φ(a) is taken as a
        difference of log Φ in the tail where both are small, in float64: exact where a float32 difference would be 0.

        x is rounded to the nearest level. `num_levels` ≥ 2.
        """
        level = nearest_level(x.double(), num_levels)
        half = 1.0 / (num_levels - 1)
        first, last = level == 0, level == num_levels - 1
        centre = 2 * half * level - 1
        mean, inverse_std = self.mean.double(), torch.exp(-0.5 * self.log_variance.double())
        upper, lower = (centre + half - mean) * inverse_std, (centre - half - mean) * inverse_std
        # Φ(b) − Φ(a) = Φ(−a) − Φ(−b): work on the side where log Φ is far from 0 and keeps its digits. An open bin has one edge,
        # and its mass is Φ(upper) or Φ(−lower).
        mirrored = ((lower > 0) | last) & ~first
        near = torch.special.log_ndtr(torch.where(mirrored, -lower, upper))
        far = torch.special.log_ndtr(torch.where(mirrored, -upper, lower))
        # Where the mass is all in one open bin, near − far is 0, whose log would send NaN into the gradient of a branch not taken.
        gap = torch.where(first | last, -torch.ones_like(near), far - near)
        inner = near + torch.log(-torch.expm1(gap))
        return torch.where(first | last, near, inner).to(x.dtype)


def standard_normal_like(gaussian: Gaussian) -> Gaussian:
    """N(0, I), the prior p(x_T), shaped like another Gaussian."""
    return Gaussian(torch.zeros_like(gaussian.mean), torch.zeros_like(gaussian.log_variance))
