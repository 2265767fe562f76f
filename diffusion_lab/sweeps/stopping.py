"""Rules for looking at paired differences after each new seed, which bound the probability of any false decision.

The differences d_1, d_2, … of two choices, one per seed, are independent and normal with unknown mean and variance. After n seeds

    t_n = d̄·√n/s,   s² = Σ (d_i − d̄)²/(n − 1),   ν = n − 1

and the first look is after three seeds. A rule states how large |t_n| must be at each look. The interval d̄ ± t·s/√n with that t
contains the true difference at all looks together with probability 1 − error, whenever one stops.

`Bounded` tests each look at one level p* (Pocock 1977), such that P(p_n ≤ p* for an n from 3 to most_seeds) = error without a
difference. The ratio r_n = Σd_i/√Σd_i² does not depend on the variance, t_n is a function of it, and without a difference it is
a Markov chain:

    r_{n+1} = √(1 − w²)·r_n + w,   p(w) ∝ (1 − w²)^{(n−2)/2},   −1 < w < 1

because the direction of a normal vector is uniform, and the part w of its last coordinate is independent of the direction of the
others. So the probability is an iterated integral over one variable, which is computed here.

`Open` has no last look: it decides when the e-value (Wang & Ramdas 2023, arXiv 2310.03722)

    E_n = (1 + ng)^{−1/2}·[(1 + t_n²/ν)/(1 + t_n²/((1 + ng)·ν))]^{n/2}

reaches 1/error. Without a difference it is a martingale of mean 1 in the ratios d_i/|d_1|, so the probability that it ever does
is at most `error` (Ville 1939), whatever else ends the seeds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.polynomial.legendre import leggauss
from scipy.optimize import brentq
from scipy.special import gammaln, stdtrit

FIRST_LOOK = 3  # seeds
_NODES, _WEIGHTS = leggauss(32)
_POINTS = 400  # of r
_G = 4.0  # prior variance of the difference, in variances of one d; small differences need smaller values


@dataclass(frozen=True)
class Rule(ABC):
    """error: the probability that one comparison without a true difference is ever decided."""

    error: float

    @abstractmethod
    def t_after(self, n: int) -> float:
        """|t_n| from which the comparison is decided after n ≥ 3 seeds; infinite where no difference can be."""


@dataclass(frozen=True)
class Bounded(Rule):
    """Student's t-test at one level p* after each of 3, 4, …, most_seeds seeds."""

    most_seeds: int

    @property
    def level(self) -> float:
        """p*."""
        return level_of_looks(self.most_seeds, self.error)

    def t_after(self, n: int) -> float:
        return float(stdtrit(n - 1, 1 - self.level / 2)) if n <= self.most_seeds else np.inf


@dataclass(frozen=True)
class Open(Rule):
    """The e-value of the t-test, for any number of seeds."""

    def t_after(self, n: int) -> float:
        # E_n ≥ 1/error  ⇔  (1 + x)/(1 + x/h) ≥ least,  with x = t²/ν and h = 1 + ng.
        h = 1 + n * _G
        least = (h**0.5 / self.error) ** (2 / n)
        return float(((n - 1) * (least - 1) / (1 - least / h)) ** 0.5) if least < h else np.inf


@cache
def level_of_looks(most_seeds: int, error: float) -> float:
    """p*: without a difference, any of the tests at this level after 3, 4, …, most_seeds seeds rejects with probability `error`."""
    if most_seeds == FIRST_LOOK:
        return error
    most, least = np.log(error), np.log(error / (most_seeds - FIRST_LOOK + 1))  # that of the union bound
    if any_rejection(most_seeds, np.exp(least)) >= error:  # by rounding, for errors below about 1e-4
        return float(np.exp(least))
    return float(np.exp(brentq(lambda log: any_rejection(most_seeds, np.exp(log)) - error, least, most, xtol=1e-5)))


def any_rejection(most_seeds: int, level: float) -> float:
    """P(p_n ≤ level for an n from 3 to most_seeds) without a difference, from the last look to the first."""
    after = _Kept(np.array([0.0, _bound(most_seeds, level)]), np.ones(2))
    for n in range(most_seeds - 1, FIRST_LOOK - 1, -1):
        after = _kept_from(n, _bound(n, level), after)
    # r_3 is uniform between ±√3, as any coordinate of a point on a sphere (Archimedes).
    area = np.diff(after.r) @ (after.chance[1:] + after.chance[:-1]) / 2
    return float(1 - area / FIRST_LOOK**0.5)


class _Kept(NamedTuple):
    """P(no rejection after n seeds | r_n = r) on a grid of r from 0 to the bound of n; it is even in r."""

    r: np.ndarray
    chance: np.ndarray


def _kept_from(n: int, bound: float, after: _Kept) -> _Kept:
    """The chance after n seeds from that after n + 1: E_w of it at r_{n+1}, where that is within its bound.

    With w = sin φ and r = tan a,  r_{n+1} = √(1 + r²)·sin(φ + a)  and  p(w) dw ∝ cos^{n−1}φ dφ. Within the bound, for r ≥ 0, are
    up to two ranges of φ + a: around 0 and, past the largest r_{n+1}, up to a + π/2.
    """
    r = np.linspace(0, bound, _POINTS)[:, None]
    a, length = np.arctan(r), np.hypot(1, r)
    within, end = np.arcsin(np.minimum(1, after.r[-1] / length)), np.arctan(r) + np.pi / 2
    total = np.exp(gammaln(n / 2) - gammaln((n + 1) / 2)) * np.pi**0.5
    chance = np.zeros(_POINTS)
    for low, high in ((np.maximum(end - np.pi, -within), within), (np.pi - within, np.maximum(end, np.pi - within))):
        angle = low + (high - low) * (_NODES + 1) / 2
        value = np.interp(np.abs(length * np.sin(angle)), after.r, after.chance)
        chance += (value * np.cos(angle - a) ** (n - 1) * _WEIGHTS).sum(1) * (high - low)[:, 0] / 2
    return _Kept(r[:, 0], chance / total)


def _bound(n: int, level: float) -> float:
    """|r_n| at which p_n = level: t_n = r·√(n − 1)/√(n − r²)."""
    t = stdtrit(n - 1, 1 - level / 2)
    return float((n * t**2 / (n - 1 + t**2)) ** 0.5)
