"""Data on L levels, x = 2·level/(L − 1) − 1: which level is x nearest to?"""

import math
from collections.abc import Sequence

from .shapes import Images, Number


def nearest_level(x: Images, num_levels: int) -> Images:
    """0 … L − 1 in the dtype of x, from −1 to 1; what lies beyond belongs to the outermost levels.

    Rounding is to the nearest: truncation would lose levels and shift the mean by half a level. ValueError unless L ≥ 2.
    """
    if num_levels < 2:
        raise ValueError(f"num_levels = {num_levels} must be at least 2")
    return ((x + 1) * ((num_levels - 1) / 2)).round().clamp(0, num_levels - 1)


def check_shares(shares: Sequence[Number] | None, group: str, instead: str) -> tuple[Number, Number]:
    """The shares of the pixels at the lowest and at the highest level. ValueError, with the fix, if they are none.

    group, instead: of the option `group`=ends that needs them, and the choice that does not.
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
    """log(p/q) of the lowest and of the highest level: p is its share, q that of each of the L − 2 levels between; at least 0."""
    between = max(1 - sum(shares), 1e-12) / (num_levels - 2)
    low, high = (max(math.log(max(share, 1e-12) / between), 0.0) for share in shares)
    return low, high
