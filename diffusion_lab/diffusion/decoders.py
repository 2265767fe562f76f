"""Which data does the last step mean? p(x_0|x_1), whose bits are L_0 of the bound.

Data with levels have their mass there, continuous data a density.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from .gaussian import Gaussian
from .levels import nearest_level
from .process import GaussianDiffusion, per_sample
from .shapes import Images, Times

_TAIL = 9.0  # levels further from x_1/α_1 than so many σ_1/α_1 have less than e⁻⁴⁰ of the mass of the nearest


@dataclass(frozen=True)
class Decoder(ABC):
    """p(x_0|x_1).

    `reads_reverse`: it depends on p_θ(x_0|x_1) of the reverse process, and so on Σ_θ.
    """

    reads_reverse: ClassVar[bool]

    @abstractmethod
    def log_prob(
        self,
        process: GaussianDiffusion,
        first: Times,
        reverse: Callable[[], Gaussian],
        x_0: Images,
        x_1: Images,
        num_levels: int | None,
    ) -> Images:
        """log p(x_0|x_1), in nats per dimension.

        Parameters
        ----------
        first: step 1 of the process for each sample, as an int64 1 or as its time.
        reverse: gives p_θ(x_0|x_1); called only where `reads_reverse`.
        num_levels: the data's equally spaced levels from −1 to 1, for the mass of the one nearest to x_0; None for a density.
        """


@dataclass(frozen=True)
class GaussianDecoder(Decoder):
    """The reverse process as it is: the mass of p_θ(x_0|x_1) in the bin of x_0, or its density (Ho et al. 2020, eq. 13)."""

    reads_reverse = True

    def log_prob(
        self,
        process: GaussianDiffusion,
        first: Times,
        reverse: Callable[[], Gaussian],
        x_0: Images,
        x_1: Images,
        num_levels: int | None,
    ) -> Images:
        decoder = reverse()
        return decoder.log_prob(x_0) if num_levels is None else decoder.discretized_log_prob(x_0, num_levels)


@dataclass(frozen=True)
class LevelDecoder(Decoder):
    """p(x_0|x_1) ∝ q(x_1|x_0) over the levels, without parameters (Kingma et al. 2021, VDM).

    Levels without end and close together leave the density N(x_0; x_1/α_1, σ_1²/α_1²), for continuous data.
    """

    reads_reverse = False

    def log_prob(
        self,
        process: GaussianDiffusion,
        first: Times,
        reverse: Callable[[], Gaussian],
        x_0: Images,
        x_1: Images,
        num_levels: int | None,
    ) -> Images:
        signal, noise = process.pair(first)
        guess, std = x_1 / per_sample(signal, x_1), per_sample(noise / signal, x_1)
        if num_levels is None:
            return Gaussian(guess, (2 * std.log()).expand_as(guess)).log_prob(x_0)
        own, nearest = nearest_level(x_0, num_levels), nearest_level(guess, num_levels)
        last, bin_width = num_levels - 1, 2 / (num_levels - 1)

        def log_q(level: Images) -> Images:
            return -0.5 * ((guess - (level * bin_width - 1)) / std).square()

        # The sum over levels from the nearest one outwards: memory does not grow with the number of levels.
        total = log_q(nearest)
        row = process.numbers(1)
        for offset in range(1, min(math.ceil(_TAIL * row.noise / row.signal / bin_width) + 1, last) + 1):
            for level in (nearest - offset, nearest + offset):
                inside = (level >= 0) & (level <= last)
                total = torch.logaddexp(total, log_q(level).masked_fill(~inside, -math.inf))
        return log_q(own) - total


GAUSSIAN, LEVELS = GaussianDecoder(), LevelDecoder()
