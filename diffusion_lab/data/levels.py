"""x = 2·level/(num_levels − 1) − 1: data levels 0 … num_levels − 1 and the x in [-1, 1] that a model sees.

The round trip level → x → level is the identity for every number of levels up to 65,536.
"""

import torch
from torch import Tensor

from diffusion_lab.diffusion.levels import nearest_level

MOST_LEVELS = 2**16


def to_levels(x: Tensor, num_levels: int) -> Tensor:
    """The nearest level to x, uint8 (uint16 for more than 256 levels), same shape; x is clamped to [-1, 1].

    ValueError unless 2 ≤ num_levels ≤ 65,536.
    """
    _check(num_levels)
    return nearest_level(x.float(), num_levels).to(torch.uint8 if num_levels <= 256 else torch.uint16)


def from_levels(levels: Tensor, num_levels: int) -> Tensor:
    """The x in [-1, 1] of each level, float32, same shape. ValueError unless 2 ≤ num_levels ≤ 65,536."""
    _check(num_levels)
    # Divided, not multiplied by 2/(num_levels − 1): that rounds, and the last level would miss 1.
    return levels.float() * 2 / (num_levels - 1) - 1


def to_uint8(x: Tensor, num_levels: int | None) -> Tensor:
    """A picture of x, uint8 in 0 … 255: rounded to the data's levels, if it has any, which are spread over 0 … 255."""
    if num_levels is not None:
        x = from_levels(to_levels(x, num_levels), num_levels)
    return to_levels(x, 256)


def to_pixels(x: Tensor, num_levels: int | None) -> Tensor:
    """As `to_uint8`, but of data with more than 256 levels uint16 in 0 … 65,535."""
    if num_levels is None or num_levels <= 256:
        return to_uint8(x, num_levels)
    return to_levels(from_levels(to_levels(x, num_levels), num_levels), MOST_LEVELS)


def _check(num_levels: int) -> None:
    if not 2 <= num_levels <= MOST_LEVELS:
        raise ValueError(f"num_levels={num_levels} must lie between 2 and {MOST_LEVELS}: levels are stored as uint16.")
