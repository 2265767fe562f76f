"""How does a density speak of grey levels? It is given a level plus uniform noise, which turns it into a bound.

    v = (level + u)/L,   u ~ U[0, 1),   y = 2v − 1 ∈ [−1, 1)                                                    (1)
    P(level) = ∫ p(level + u) du,   so   E_u log p(level + u) ≤ log P(level)   by Jensen                          (2)
    −log2 P(level)/D ≤ E_u[−log2 p(y)/D] + log2(L/2),   since a level is 2/L wide in y                            (3)

Theis et al. 2016, "A note on the evaluation of generative models", section 3.1; Uria et al. 2013 for the noise. A uniform
density on [−1, 1) gives exactly log2 L bits per dimension. The data have their L levels at x = 2·level/(L − 1) − 1.
"""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from diffusion_lab.diffusion.levels import nearest_level
from diffusion_lab.diffusion.shapes import Images


def dequantise(x: Images, u: Images, num_levels: int) -> Images:
    """y of (1) for the level nearest to x, in the dtype of u: uniform on the level's bin of [−1, 1) for u uniform on [0, 1)."""
    return (nearest_level(x.to(u), num_levels) + u) * (2 / num_levels) - 1


def undo(y: Images, num_levels: int) -> Images:
    """The x whose level's bin y lies in, reached at the middle of the bin (u = ½) and crossing halfway at its ends.

    So rounding to the nearest level gives the bin. It goes on linearly beyond [−1, 1).
    """
    return ((y + 1) * (num_levels / 2) - 0.5) * (2 / (num_levels - 1)) - 1


def scale_bits(num_levels: int) -> float:
    """log2(L/2): from a density on [−1, 1) to the mass of one of L levels, bits per dimension."""
    return math.log2(num_levels / 2)


def uniform_from_normal(eps: Float64[Tensor, "b *dims"]) -> Float64[Tensor, "b *dims"]:
    """u = Φ(ε) ~ U(0, 1) for ε ~ N(0, 1): keyed uniform noise out of keyed normal noise."""
    return torch.special.ndtr(eps)
