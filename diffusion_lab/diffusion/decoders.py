"""Decoders p(x_0|x_1), the L_0 term of the bound: a mass for data with levels, a density for continuous data."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from .forward import ForwardProcess, per_sample
from .gaussian import Gaussian
from .levels import check_shares, end_log_odds, nearest_level
from .shapes import Images, Number

_TAIL = 9.0  # levels further from x_1/α_1 than this many σ_1/α_1 have less than e⁻⁴⁰ of the mass of the nearest


@dataclass(frozen=True)
class Decoder(ABC):
    """p(x_0|x_1).

    `reads_reverse`: it depends on p_θ(x_0|x_1) of the reverse process, and so on Σ_θ.
    """

    reads_reverse: ClassVar[bool]

    @abstractmethod
    def log_prob(
        self, process: ForwardProcess, reverse: Gaussian | None, x_0: Images, x_1: Images, num_levels: int | None
    ) -> Images:
        """log p(x_0|x_1), in nats per dimension.

        Parameters
        ----------
        reverse: p_θ(x_0|x_1), required only if `reads_reverse`.
        num_levels: the data's equally spaced levels from −1 to 1, for the mass of the one nearest to x_0; None for a density.
        """


@dataclass(frozen=True)
class GaussianDecoder(Decoder):
    """The reverse process itself: the mass of p_θ(x_0|x_1) in the bin of x_0, or its density (Ho et al. 2020, eq. 13)."""

    reads_reverse = True

    def log_prob(
        self, process: ForwardProcess, reverse: Gaussian | None, x_0: Images, x_1: Images, num_levels: int | None
    ) -> Images:
        assert reverse is not None  # since reads_reverse is True
        return reverse.log_prob(x_0) if num_levels is None else reverse.discretized_log_prob(x_0, num_levels)


@dataclass(frozen=True)
class LevelDecoder(Decoder):
    """p(x_0|x_1) ∝ q(x_1|x_0) over the levels, without parameters (Kingma et al. 2021, VDM).

    In the limit of infinitely many levels it is the density N(x_0; x_1/α_1, σ_1²/α_1²), for continuous data.
    """

    reads_reverse = False

    def log_prob(
        self, process: ForwardProcess, reverse: Gaussian | None, x_0: Images, x_1: Images, num_levels: int | None
    ) -> Images:
        signal, sigma = process.pair(process.full(1, x_1))
        guess, std = x_1 / per_sample(signal, x_1), per_sample(sigma / signal, x_1)
        if num_levels is None:
            return Gaussian(guess, (2 * std.log()).expand_as(guess)).log_prob(x_0)
        own, nearest = nearest_level(x_0, num_levels), nearest_level(guess, num_levels)
        last, bin_width = num_levels - 1, 2 / (num_levels - 1)

        low, high = self.end_log_odds(num_levels)

        def log_q(level: Images) -> Images:
            log_prior = low * (level == 0) + high * (level == last)
            return log_prior - 0.5 * ((guess - (level * bin_width - 1)) / std).square()

        # Sums over levels outwards from the nearest one, so memory does not grow with the number of levels.
        total = log_q(nearest)
        for offset in range(1, min(math.ceil(_TAIL * process.first_std / bin_width) + 1, last) + 1):
            for level in (nearest - offset, nearest + offset):
                inside = (level >= 0) & (level <= last)
                total = torch.logaddexp(total, log_q(level).masked_fill(~inside, -math.inf))
        return log_q(own) - total

    def end_log_odds(self, num_levels: int) -> tuple[float, float]:
        """Prior log-odds of the lowest and of the highest level against each inner level."""
        return 0.0, 0.0


@dataclass(frozen=True)
class EndLevelDecoder(LevelDecoder):
    """p(x_0|x_1) ∝ q(x_1|x_0)·π(x_0) over the levels: π is p at each end, and the same for all levels between.

    If half of the pixels are black, black costs almost nothing: 0.17 bits/dim less on Fashion-MNIST than the mass of a
    Gaussian, which does not favour any level.

    Parameters
    ----------
    shares: p of the lowest and of the highest level; a share below that of the inner levels is raised to theirs.
    num_levels: L; None, for continuous data, has no ends.
    """

    shares: Sequence[Number] | None
    num_levels: int | None

    def __post_init__(self) -> None:
        if self.num_levels is not None:
            object.__setattr__(self, "shares", check_shares(self.shares, "decoder", instead="levels"))

    def end_log_odds(self, num_levels: int) -> tuple[float, float]:
        return (0.0, 0.0) if self.shares is None or num_levels < 3 else end_log_odds(self.shares, num_levels)


GAUSSIAN, LEVELS = GaussianDecoder(), LevelDecoder()
