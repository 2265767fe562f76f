"""Confidence intervals of differences, with all known sources of uncertainty: seeds, samples, real images, test images.

Cells of one seed share their evaluation noise and real images, so common errors cancel in the difference of two
of them: d̄ ± t·s_d/√n over the n shared seeds, with the two-sided 95 % quantile t of Student's distribution with
n − 1 degrees of freedom. With two seeds that is 12.7 standard errors, because two numbers determine a spread poorly.

A score also contains blocks: the contributions of parts of its samples, or images, to the error (`metrics.score`). Blocks of two
cells belong to the same noise and the same images, so they are paired: the interval is that of their differences, averaged over
seeds. Seeds do not capture errors that all of them share, such as the choice of real images, so the half-widths of all sources
are added in quadrature; sources that are redrawn with every seed are left out (`table.measured`).

Blocks do not capture the variation between trainings of one recipe, so two trainings with one seed each have no interval: with
intervals from blocks alone, a third to three quarters of the pairs that differ only in the seed would be called different.
Two samplers of one training do have an interval.

Among many comparisons some differ by chance. `holm` bounds the probability that a table claims a false difference at 5 %.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isclose

import numpy as np
from scipy.optimize import bisect
from scipy.special import gammaincinv, ndtr, stdtrit

from diffusion_lab.store.measures import SEEDS
from diffusion_lab.sweeps.stopping import FIRST_LOOK, level_of_looks

LEVEL = 1 - 0.95
POWER = 0.8  # of a comparison with enough seeds
MOST_SEEDS = 100  # that are worth naming
FEWEST_SEEDS = 3  # needed for a claim about curves
_MOST_LOOKS = 30  # from here on more of them change the level little, and take seconds to compute
_ROUNDING = 1e-6  # relative; sums in another order differ by less

Blocks = Mapping[str, Sequence[float]]  # by source


@dataclass(frozen=True)
class Measured:
    """One measure of one row: its value for each seed ("" if seed is not an axis) and its known errors.

    sources    for each seed, the blocks of each source of uncertainty; empty if the score has none
    trainings  for each seed, the name of the training
    """

    by_seed: Mapping[str, float]
    sources: Mapping[str, Blocks] = field(default_factory=dict)
    trainings: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def mean(self) -> float:
        return float(np.mean(list(self.by_seed.values())))

    @property
    def n(self) -> int:
        return len(self.by_seed)

    @cached_property
    def parts(self) -> dict[str, float]:
        """The standard error of the mean from each known source, by name."""
        seeds = {SEEDS: float(np.std(list(self.by_seed.values()), ddof=1) / np.sqrt(self.n))} if self.n > 1 else {}
        return seeds | {name: _error(blocks) for name, blocks in self.blocks(self.by_seed).items()}

    @property
    def error(self) -> float | None:
        """The standard error from all known sources; None if there are none."""
        return float(np.sqrt(sum(error**2 for error in self.parts.values()))) if self.parts else None

    @property
    def error_over(self) -> str | None:
        """The sources of `error`, in words."""
        return listed(list(self.parts)) if self.parts else None

    def blocks(self, seeds: Iterable[str]) -> dict[str, np.ndarray]:
        """Blocks of the sources that all of these seeds have, averaged over the seeds."""
        found = [self.sources.get(seed, {}) for seed in seeds]
        return {
            name: np.mean([each[name] for each in found], axis=0)
            for name in found[0]
            if all(len(each.get(name, ())) == len(found[0][name]) > 1 for each in found)
        }


@dataclass(frozen=True)
class Difference:
    """a − b. parts: (standard error, degrees of freedom) of each source. seeds: the pairs behind the first; 0: not paired."""

    mean: float
    parts: Sequence[tuple[float, float]]
    seeds: int = 0

    @property
    def margin(self) -> float:
        """Half the width of the 95 % interval."""
        return self.margin_at(LEVEL)

    @property
    def beyond_its_uncertainty(self) -> bool:
        return abs(self.mean) > self.margin

    @cached_property
    def p(self) -> float:
        """The p-value: one minus the level of the interval that ends at 0."""
        if self.margin_at(_SMALLEST) <= abs(self.mean):
            return _SMALLEST if self.mean else 1.0
        return float(np.exp(bisect(lambda log: self.margin_at(np.exp(log)) - abs(self.mean), np.log(_SMALLEST), 0)))

    def margin_at(self, level: float) -> float:
        """The smallest difference that a test at this level finds: half the width of the interval that misses 0 with it."""
        return _margin(self.parts, level)

    def seeds_to_show(self, level: float) -> int | None:
        """The number of new seeds that show a true difference of this size and spread over seeds with probability `POWER`.

        Sources that all seeds share stay as they are. None if not paired over seeds, or if more than `MOST_SEEDS` are needed.
        """
        if not self.seeds:
            return None
        spread, shared = self.parts[0][0] * self.seeds**0.5, _margin(self.parts[1:], level)

        def enough(n: int) -> bool:
            return power(n, self.mean, spread, level, shared) >= POWER

        return next((n for n in range(2, MOST_SEEDS + 1) if enough(n)), None)

    def most_seeds(self, level: float) -> int | None:
        """`seeds_to_show` where one looks after each of them from the third on, by the rule `sweeps.stopping.Bounded`."""
        once = self.seeds_to_show(level)
        if once is None:
            return None
        looks = min(max(once, FIRST_LOOK), _MOST_LOOKS)
        return max(self.seeds_to_show(level_of_looks(looks, level)) or MOST_SEEDS, FIRST_LOOK)


def power(n: int, mean: float, spread: float, level: float, shared: float = 0.0) -> float:
    """The probability that a paired t-test of n differences ~ N(mean, spread²) rejects 0 at `level`, two-sided.

    |d̄| must exceed √((t·s/√n)² + shared²), where shared is the margin of sources that all n share. The integral over s², which is
    spread²·χ²/(n − 1), is a mean over its quantiles. For shared = 0 this is the noncentral t distribution.
    """
    freedom = n - 1
    s = spread * np.sqrt(2 * gammaincinv(freedom / 2, _QUANTILES) / freedom)
    needed = np.hypot(stdtrit(freedom, 1 - level / 2) * s / n**0.5, shared)
    error = max(spread / n**0.5, 1e-9 * (abs(mean) + shared)) or 1.0
    return float(np.mean(ndtr((mean - needed) / error) + ndtr((-mean - needed) / error)))


def _margin(parts: Sequence[tuple[float, float]], level: float) -> float:
    return float(np.sqrt(sum((stdtrit(freedom, 1 - level / 2) * error) ** 2 for error, freedom in parts)))


_SMALLEST = 1e-12  # lower bound of p
_QUANTILES = (np.arange(1000) + 0.5) / 1000


def holm(ps: Sequence[float | None]) -> list[bool]:
    """Which of several hypotheses are rejected such that the probability of any false rejection is at most `LEVEL` (Holm 1979).

    None: a hypothesis that cannot be tested.
    """
    tested = sorted((p, i) for i, p in enumerate(ps) if p is not None)
    failed = next((rank for rank, (p, _) in enumerate(tested) if p > LEVEL / (len(tested) - rank)), len(tested))
    rejected = {i for _, i in tested[:failed]}
    return [i in rejected for i in range(len(ps))]


def paired_p(differences: Sequence[float]) -> float:
    """Two-sided p-value of Student's t-test of differences by seed; 1 for fewer than three seeds."""
    d = np.asarray(differences, dtype=np.float64)
    if len(d) < FEWEST_SEEDS or not d.any():
        return 1.0
    return Difference(float(d.mean()), [(_error(d), len(d) - 1)]).p


def same(a: Measured, b: Measured) -> bool:
    """Whether all seeds have equal values up to rounding, for example because the same images were scored twice."""
    return a.by_seed.keys() == b.by_seed.keys() and all(
        equal(value, b.by_seed[seed]) for seed, value in a.by_seed.items()
    )


def equal(a: float, b: float) -> bool:
    """Equal up to rounding."""
    return isclose(a, b, rel_tol=_ROUNDING)


def difference(a: Measured, b: Measured) -> Difference | None:
    """a − b with its uncertainty; None if the uncertainty is unknown, as for two trainings with one seed each."""
    shared = [seed for seed in a.by_seed if seed in b.by_seed]
    if len(shared) > 1:
        d = np.array([a.by_seed[seed] - b.by_seed[seed] for seed in shared])
        paired = _paired(a.blocks(shared), b.blocks(shared))
        return Difference(float(d.mean()), [(_error(d), len(d) - 1), *paired.values()], len(d))
    mean, paired = a.mean - b.mean, _paired(a.blocks(a.by_seed), b.blocks(b.by_seed))
    if a.n > 1 and b.n > 1:
        return Difference(mean, [_welch(a, b), *paired.values()])
    if not paired or a.n + b.n > 2 or list(a.trainings.values()) != list(b.trainings.values()):
        return None
    return Difference(mean, list(paired.values()))


def within_seeds(levels: Sequence[Sequence[float]]) -> list[float | None]:
    """Half the 95 % interval of the mean of each of k choices, after each seed's own level is removed (Cousineau 2005, Morey 2008).

    levels: for each seed, the values of the choices. For k = 2 both are the half interval of the paired difference, over √2.
    """
    values = np.asarray(levels, dtype=np.float64)
    n, k = values.shape
    if n < 2 or k < 2:
        return [None] * k
    spread = (values - values.mean(1, keepdims=True)).std(0, ddof=1) * (k / (k - 1)) ** 0.5
    return (stdtrit(n - 1, 1 - LEVEL / 2) * spread / n**0.5).tolist()


def listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _welch(a: Measured, b: Measured) -> tuple[float, float]:
    """Welch's standard error and degrees of freedom. Each side has two seeds or more; at most one is in both."""
    square_a, square_b = a.parts[SEEDS] ** 2, b.parts[SEEDS] ** 2
    total = square_a + square_b
    return total**0.5, total**2 / (square_a**2 / (a.n - 1) + square_b**2 / (b.n - 1)) if total else 1.0


def _error(blocks: np.ndarray) -> float:
    return float(np.std(blocks, ddof=1) / np.sqrt(len(blocks)))


def _paired(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """(standard error, degrees of freedom) of a − b from each common source, block by block."""
    return {
        name: (_error(blocks - b[name]), len(blocks) - 1)
        for name, blocks in a.items()
        if len(b.get(name, ())) == len(blocks)
    }


@dataclass(frozen=True)
class Ranking:
    """The best of several values, by index, without values whose seeds differ from the others', so that means are not comparable.

    best      those with the best mean; several if they are equal, or are written as equal and their order is uncertain
    others    the rest, better ones first; `leads` are their differences to the best, None where the uncertainty is unknown
    tie       one of `best` that is not exactly the same as the first, with its difference
    p         the largest p of the differences between the best and the others; None if one of these is unknown
    """

    best: list[int]
    others: list[int]
    leads: list[Difference | None]
    p: float | None
    tie: tuple[int, Difference | None] | None = None

    def rival(self, sure: bool) -> tuple[int, Difference | None] | None:
        """The next value and its difference from the best; if the best is uncertain, the one with the least certain difference.

        If all are best, one that is not exactly the same; None if there is none.
        """
        if not self.others:
            return self.tie
        doubts = [2.0 if lead is None else lead.p for lead in self.leads]
        place = 0 if sure else doubts.index(max(doubts))
        return self.others[place], self.leads[place]


def ranking(values: Sequence[Measured], lower_is_better: bool, decimals: int) -> Ranking:
    """Rank the values. decimals: of the written values."""
    kept = _kept_seeds([frozenset(value.by_seed) for value in values])
    sign = 1 if lower_is_better else -1
    order = sorted(
        (i for i, value in enumerate(values) if value.by_seed.keys() in kept), key=lambda i: sign * values[i].mean
    )
    best = [i for i in order if _no_lead(values[order[0]], values[i], decimals)]
    others = [i for i in order if i not in best]
    leads = [difference(values[i], values[j]) for i in best for j in others]
    known = [lead.p for lead in leads if lead is not None and sign * lead.mean < 0]
    p = max(known) if leads and len(known) == len(leads) else None
    ties = ((i, difference(values[best[0]], values[i])) for i in best if not same(values[best[0]], values[i]))
    return Ranking(best, others, leads[: len(others)], p, next(ties, None))


def _no_lead(best: Measured, other: Measured, decimals: int) -> bool:
    """Whether two values are equal, or are written as equal and the sign of their difference is uncertain."""
    found = difference(best, other)
    certain = found is not None and found.beyond_its_uncertainty
    return same(best, other) or (not certain and round(best.mean - other.mean, decimals) == 0)


def _kept_seeds(sets: Sequence[frozenset[str]]) -> list[frozenset[str]]:
    """The largest set of seeds (of several, the most frequent), and equally large sets that are disjoint from all kept ones.

    A difference uses the shared seeds, or all seeds if none is shared. With some shared it could contradict the means.
    """
    count = Counter(sets)
    kept: list[frozenset[str]] = []
    for seeds in sorted(count, key=lambda seeds: (len(seeds), count[seeds]), reverse=True):
        if not kept or (len(seeds) == len(kept[0]) and all(map(seeds.isdisjoint, kept))):
            kept.append(seeds)
    return kept


def decimals_of(size: float, digits: int) -> int:
    """The number of decimals that shows `digits` significant digits of a number of this size."""
    return max(0, digits - 1 - math.floor(math.log10(size)))
