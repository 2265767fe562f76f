"""Data on L levels 0 … L − 1, represented as x = 2·level/(L − 1) − 1 in [−1, 1].

The round trip level → x → level is the identity for every number of levels up to 65,536.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .shapes import Images, Number

MOST_LEVELS = 2**16


def to_levels(x: Tensor, num_levels: int) -> Tensor:
    """The nearest level to x, uint8 (uint16 for more than 256 levels), same shape. ValueError unless 2 ≤ L ≤ 65,536."""
    _check(num_levels)
    return nearest_level(x.float(), num_levels).to(torch.uint8 if num_levels <= 256 else torch.uint16)


def from_levels(levels: Tensor, num_levels: int) -> Tensor:
    """The x in [−1, 1] of each level, float32, same shape. ValueError unless 2 ≤ L ≤ 65,536."""
    _check(num_levels)
    # Division, because multiplying by 2/(num_levels − 1) rounds, and the last level would miss 1. By a tensor: a GPU multiplies by
    # the inverse of a number.
    return levels.float() * 2 / torch.full((), num_levels - 1.0, device=levels.device) - 1


def _check(num_levels: int) -> None:
    if not 2 <= num_levels <= MOST_LEVELS:
        raise ValueError(f"num_levels={num_levels} must lie between 2 and {MOST_LEVELS}: levels are stored as uint16.")


def nearest_level(x: Images, num_levels: int) -> Images:
    """0 … L − 1 in the dtype of x, from −1 to 1; values beyond belong to the outermost levels.

    Rounding is to the nearest: truncation would lose levels and shift the mean by half a level. ValueError unless L ≥ 2.
    """
    if num_levels < 2:
        raise ValueError(f"num_levels = {num_levels} must be at least 2")
    return ((x + 1) * ((num_levels - 1) / 2)).round().clamp(0, num_levels - 1)


def check_shares(shares: Sequence[Number] | None, group: str, instead: str) -> tuple[Number, Number]:
    """The shares of pixels at the lowest and highest level. ValueError, with the fix, if they are invalid.

    group, instead: of the option `group`=ends that needs them, and an alternative choice.
    """
    if shares is None:
        raise ValueError(
            f"{group}=ends needs the shares of pixels at the ends, which are not known for this model: use {group}={instead}"
        )
    if len(shares) != 2 or not all(0 <= share <= 1 for share in shares):
        raise ValueError(f"{group}.shares={list(shares)} must be two numbers from 0 to 1")
    low, high = shares
    return low, high


def end_log_odds(shares: Sequence[Number], num_levels: int) -> tuple[float, float]:
    """log(p/q) of the lowest and of the highest level, p its share and q that of each of the L − 2 inner levels; at least 0."""
    between = max(1 - sum(shares), 1e-12) / (num_levels - 2)
    low, high = (max(math.log(max(share, 1e-12) / between), 0.0) for share in shares)
    return low, high
