"""How does a density speak of grey levels? It is given a level plus uniform noise, which turns it into a bound.

    v = (level + u)/L,   u ~ U[0, 1),   y = 2v − 1 ∈ [−1, 1)                                                    (1)
    P(level) = ∫ p(level + u) du,   so   E_u log p(level + u) ≤ log P(level)   by Jensen                          (2)
    −log2 P(level)/D ≤ E_u[−log2 p(y)/D] + log2(L/2),   since a level is 2/L wide in y                            (3)

Theis et al. 2016, "A note on the evaluation of generative models", section 3.1; Uria et al. 2013 for the noise. A uniform
density on [−1, 1) gives exactly log2 L bits per dimension. The data have their L levels at x = 2·level/(L − 1) − 1.
"""

import math

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from diffusion_lab.diffusion.bits import in_bits
from diffusion_lab.diffusion.levels import nearest_level
from diffusion_lab.diffusion.shapes import Images, PerSample


def dequantise(x: Images, u: Images, num_levels: int) -> Images:
    """y of (1) for the level nearest to x, in the dtype of u: uniform on the level's bin of [−1, 1) for u uniform on [0, 1)."""
    return (nearest_level(x.to(u), num_levels) + u) * (2 / num_levels) - 1


def undo(y: Images, num_levels: int) -> Images:
    """The x whose level's bin y lies in, reached at the middle of the bin (u = ½) and crossing halfway at its ends.

    So rounding to the nearest level gives the bin. It goes on linearly beyond [−1, 1).
    """
    return ((y + 1) * (num_levels / 2) - 0.5) * (2 / (num_levels - 1)) - 1


def bits_per_dim(log_density: Float[Tensor, " b"], num_dims: int) -> PerSample:
    """−log2 p(y)/D of log p(y) in nats: the bits of a continuous density, float64 (B,)."""
    return in_bits(-log_density.double(), num_dims)


def discrete_bits_per_dim(log_density: Float[Tensor, " b"], num_dims: int, num_levels: int) -> PerSample:
    """(3) of one u: an unbiased draw of the bound on −log2 P(level)/D, float64 (B,)."""
    return bits_per_dim(log_density, num_dims) + scale_bits(num_levels)


def scale_bits(num_levels: int) -> float:
    """log2(L/2): from a density on [−1, 1) to the mass of one of L levels, bits per dimension."""
    return math.log2(num_levels / 2)


def uniform_from_normal(eps: Float64[Tensor, "b *dims"]) -> Float64[Tensor, "b *dims"]:
    """u = Φ(ε) ~ U(0, 1) for ε ~ N(0, 1): keyed uniform noise out of keyed normal noise."""
    return torch.special.ndtr(eps)
