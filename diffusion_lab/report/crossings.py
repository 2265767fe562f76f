"""Where one curve crosses another, seed by seed, and the sentence that describes it.

"a is better than b all the way" claims a difference at every cost; "a is better than b above …, worse below" claims one at the
first and one at the last cost, of the other sign. Each needs three seeds of one outcome and a paired t-test at those costs, at a
level divided by the number of pairs of curves and of measures (Bonferroni). So of reports on equal curves at most 5 % have such a
sentence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from diffusion_lab.report.comparison import LEVEL, listed, paired_p
from diffusion_lab.report.table import Group, Row
from diffusion_lab.store.measures import LOW, SECONDS, Measure

_ROUNDING = 1e-6  # of a value, where they are compared on a logarithmic axis

Curve = Sequence[tuple[float, float]]  # (cost, value), by rising cost
_PLACES = 9  # at which curves are compared, evenly on a logarithmic axis
_MOST_PAIRS = 4  # that a sentence names


@dataclass(frozen=True)
class Cost:
    """What a curve is drawn against.

    name: the value of a row; `per_unit` of it are one `unit`.
    """

    name: str
    unit: str
    per_unit: float = 1.0


@dataclass(frozen=True)
class Race:
    """Two curves over the range of costs that both cover.

    better: 0 or 1, the curve that is better at the end; crossings: the costs at which the order changes; low, high: the first and
    the last cost; by: how much better the first is, at costs that divide the range evenly.
    """

    better: int
    crossings: tuple[float, ...]
    low: float
    high: float
    by: tuple[float, ...] = ()

    @property
    def outcome(self) -> tuple[int | None, int]:
        """(which is better at the end, how often the order changes), (None, 2) where it changes several times."""
        return (self.better, len(self.crossings)) if len(self.crossings) < 2 else (None, 2)


def race(first: Curve, second: Curve, lower_is_better: bool) -> Race | None:
    """Between two points a curve is straight on logarithmic axes; along the values only if all of them are above 0.

    None where the curves have no range of costs in common, or are equal up to rounding.
    """
    low, high = max(first[0][0], second[0][0]), min(first[-1][0], second[-1][0])
    if not 0 < low < high:
        return None
    if all(value > 0 for _, value in (*first, *second)):
        first, second = ([(cost, math.log(value)) for cost, value in curve] for curve in (first, second))
    costs = sorted({cost for cost, _ in (*first, *second) if low <= cost <= high} | {low, high})
    sign = 1 if lower_is_better else -1

    def gain(cost: float) -> float:
        """Above 0 where the first is better."""
        return sign * (_at(second, cost) - _at(first, cost))

    apart = [(cost, by) for cost in costs if abs(by := gain(cost)) > _ROUNDING]
    if not apart:
        return None
    crossings = tuple(
        math.exp(math.log(x) + (math.log(y) - math.log(x)) * a / (a - b))
        for (x, a), (y, b) in pairwise(apart)
        if (a > 0) != (b > 0)
    )
    between = (low * (high / low) ** (place / (_PLACES - 1)) for place in range(1, _PLACES - 1))
    return Race(0 if apart[-1][1] > 0 else 1, crossings, low, high, tuple(map(gain, (low, *between, high))))


def ranked_measures(group: Group) -> list[Measure]:
    """Those whose curves are drawn: the ones with a better end, but for the seconds, which are a cost themselves."""
    return [measure for measure in group.measures if measure.better is not None and measure.name != SECONDS]


def races(some: Sequence[Row], others: Sequence[Row], measure: Measure, cost: Cost) -> dict[str, Race]:
    """By seed that both have; empty where the two were measured differently, or nothing can be said."""
    if {row.protocol_key(measure) for row in some} != {row.protocol_key(measure) for row in others}:
        return {}
    a, b = _by_seed(some, measure, cost), _by_seed(others, measure, cost)
    found = {seed: race(a[seed], b[seed], measure.better == LOW) for seed in sorted(a.keys() & b.keys())}
    return {seed: one for seed, one in found.items() if one is not None}


def is_certain(races: Mapping[str, Race], level: float) -> bool:
    """Whether one sentence holds for two curves, at this level. races: by seed."""
    outcomes = {one.outcome for one in races.values()}
    if len(outcomes) > 1 or None in next(iter(outcomes)):
        return False
    by_cost = list(zip(*(one.by for one in races.values()), strict=True))
    if next(iter(outcomes))[1] == 1:
        by_cost = [by_cost[0], by_cost[-1]]
    return max(map(paired_p, by_cost)) <= level


def in_sentences(
    compared: Sequence[tuple[tuple[str, str], Mapping[str, Race]]], cost: Cost, num_measures: int
) -> list[tuple[str, bool]]:
    """(sentence, whether it is certain), one for each pair of curves whose order changes. Then one for each curve that is better
    than others all the way: it names all that were compared with it over about the same costs and with the same seeds. Last, the
    pairs of which nothing is certain.

    compared: (the names of two curves, their races by seed), all of one measure of `num_measures`.
    """
    said, uncertain = [], []
    worse: list[tuple[str, list[str], list[Mapping[str, Race]]]] = []  # (the better curve, the others, their races)
    for names, found in compared:
        if not is_certain(found, LEVEL / (len(compared) * num_measures)):
            crosses = any(one.crossings for one in found.values())
            if crosses:
                said.append((in_words(names, found, cost, sure=False), False))
            else:
                uncertain.append(f"{names[0]} and {names[1]}")
            continue
        ((at_end, changes),) = {one.outcome for one in found.values()}
        if changes:
            said.append((in_words(names, found, cost, sure=True), True))
            continue
        better, other = names[at_end or 0], names[1 - (at_end or 0)]
        for one, others, with_others in worse:
            if one == better and _over_the_same(found, with_others[0]):
                others.append(other)
                with_others.append(found)
                break
        else:
            worse.append((better, [other], [found]))
    for better, others, with_others in worse:
        shared = {
            seed: Race(0, (), max(one[seed].low for one in with_others), min(one[seed].high for one in with_others))
            for seed in with_others[0]
        }
        said.append((in_words((better, listed(others)), shared, cost, sure=True), True))
    if uncertain:
        more = f" and {len(uncertain) - _MOST_PAIRS} more pairs" if len(uncertain) > _MOST_PAIRS else ""
        said.append((f"no certain difference between {'; between '.join(uncertain[:_MOST_PAIRS])}{more}", False))
    return said


def _over_the_same(some: Mapping[str, Race], others: Mapping[str, Race]) -> bool:
    """Whether the seeds are the same, and the ends of the costs agree to a quarter."""
    ends = [
        pair
        for seed in some.keys() & others.keys()
        for pair in zip(_span(some[seed]), _span(others[seed]), strict=True)
    ]
    return some.keys() == others.keys() and all(max(pair) <= 1.25 * min(pair) for pair in ends)


def _span(one: Race) -> tuple[float, float]:
    return one.low, one.high


def in_words(names: tuple[str, str], races: Mapping[str, Race], cost: Cost, sure: bool) -> str:
    """One sentence on two curves. races: by seed; at least one. sure: `is_certain`."""
    by_outcome: dict[tuple[int | None, int], list[Race]] = {}
    for one in races.values():
        by_outcome.setdefault(one.outcome, []).append(one)
    parts = []
    for some in sorted(by_outcome.values(), key=len, reverse=True):
        seeds = "one seed" if len(races) == 1 else f"{len(some)} of {len(races)} seeds"
        parts.append(f"{_alike(names, some, cost)} ({seeds})")
    return parts[0] if sure else f"{names[0]} and {names[1]}, not certain: {'; '.join(parts)}"


def _alike(names: tuple[str, str], races: Sequence[Race], cost: Cost) -> str:
    """On races of one outcome."""
    at_end, changes = races[0].outcome
    if at_end is None:
        return "the order changes several times"
    better, other = names[at_end], names[1 - at_end]
    if changes == 0:
        low, high = min(one.low for one in races), max(one.high for one in races)
        return f"{better} is better than {other} all the way from {_short(low)} to {_short(high)} {cost.unit}"
    times = sorted(one.crossings[0] for one in races)
    middle = math.exp(sum(map(math.log, times)) / len(times))
    first, last = _short(times[0]), _short(times[-1])
    spread = f" ({first} to {last} by seed)" if first != last else ""
    return f"{better} is better than {other} above {_short(middle)} {cost.unit}{spread}, worse below"


def _by_seed(rows: Sequence[Row], measure: Measure, cost: Cost) -> dict[str, Curve]:
    """Seed -> its own curve, of at least two points."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        costs, values = row.values[cost.name].by_seed, row.values[measure.name].by_seed
        for seed in costs.keys() & values.keys():
            curves.setdefault(seed, []).append((costs[seed] / cost.per_unit, values[seed]))
    return {seed: sorted(points) for seed, points in curves.items() if len(points) > 1}


def _short(cost: float) -> str:
    return f"{float(f'{cost:.2g}'):g}"


def _at(curve: Curve, cost: float) -> float:
    """The value of a curve at a cost within its span."""
    for (x, a), (y, b) in pairwise(curve):
        if x <= cost <= y:
            return a if x == y else a + (b - a) * (math.log(cost) - math.log(x)) / (math.log(y) - math.log(x))
    return curve[-1][1]
