"""Data on L levels, x = 2·level/(L − 1) − 1: which level is x nearest to?"""

from .shapes import Images


def nearest_level(x: Images, num_levels: int) -> Images:
    """0 … L − 1 in the dtype of x, from −1 to 1; what lies beyond belongs to the outermost levels.

    Rounding is to the nearest: truncation would lose levels and shift the mean by half a level. ValueError unless L ≥ 2.
    """
    if num_levels < 2:
        raise ValueError(f"num_levels = {num_levels}: data with levels have at least two")
    return ((x + 1) * ((num_levels - 1) / 2)).round().clamp(0, num_levels - 1)
