"""Rounding a finished sample to the levels of the data. The last x̂_0 is a mean and lies between levels."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from diffusion_lab.diffusion.levels import check_shares, end_log_odds
from diffusion_lab.diffusion.shapes import Images, Number


@dataclass(frozen=True)
class Rounding(ABC):
    """x̂_0 -> a sample. Scores and pictures round the result to the nearest level in any case."""

    @abstractmethod
    def __call__(self, x_0: Images) -> Images:
        """x_0 in [−1, 1], the same shape."""


@dataclass(frozen=True)
class NearestLevel(Rounding):
    """x̂_0 unchanged; the nearest level is taken later."""

    def __call__(self, x_0: Images) -> Images:
        return x_0


@dataclass(frozen=True)
class EndLevels(Rounding):
    """The most probable level, if x̂_0 = x_0 + e with e ~ N(0, s²) and the two end levels are more frequent than the others.

    With share p of the pixels at an end and q at each inner level, an x̂_0 at d levels from that end belongs to it rather than to
    the nearest level if d < s·√(2·log(p/q)), and if that holds for both ends, to the one with the larger
    log p − d²/(2·s²). This keeps black pixels black: half of Fashion-MNIST's pixels are 0, and a network's mean there is a haze
    of a few levels, because errors below 0 are impossible.

    Parameters
    ----------
    shares: of the pixels of the training images, at the lowest and at the highest level.
    num_levels: L; None, for continuous data, which are not rounded.
    error: s in levels.
    """

    shares: Sequence[Number] | None
    num_levels: int | None
    error: Number = 1.5

    def __post_init__(self) -> None:
        if not 0 <= self.error < math.inf:
            raise ValueError(f"rounding.error={self.error} must be a number of levels, 0 or more")
        if self.num_levels is None:
            return
        object.__setattr__(self, "shares", check_shares(self.shares, "rounding", instead="nearest"))

    def __call__(self, x_0: Images) -> Images:
        if self.shares is None or self.num_levels is None or self.num_levels < 3:
            return x_0
        inside, per_level = x_0.clamp(-1, 1), 2 / (self.num_levels - 1)
        low, high = (  # advantage of each end over the level nearest to x̂_0, times 2·s²
            2 * self.error**2 * log_odds - ((inside - end) / per_level).square()
            for end, log_odds in zip((-1, 1), end_log_odds(self.shares, self.num_levels), strict=True)
        )
        return torch.where(torch.maximum(low, high) > 0, torch.where(low > high, -1.0, 1.0).to(x_0), x_0)
