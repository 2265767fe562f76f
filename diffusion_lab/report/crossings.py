"""Where one curve crosses another, seed by seed, and the sentence that describes it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

Curve = Sequence[tuple[float, float]]  # (cost, value), by rising cost


@dataclass(frozen=True)
class Race:
    """Two curves over the costs that both were measured at.

    leads: 0 or 1, who is better at the end; passes: at which costs the lead changes hands; low, high: the first and last cost.
    """

    leads: int
    passes: tuple[float, ...]
    low: float
    high: float

    @property
    def outcome(self) -> tuple[int | None, int]:
        """(who leads at the end, how often the lead changes), (None, 2) where the lead changes several times."""
        return (self.leads, len(self.passes)) if len(self.passes) < 2 else (None, 2)


def race(first: Curve, second: Curve, lower_is_better: bool) -> Race | None:
    """Between two points a curve is straight on logarithmic axes; along the values only if all of them are above 0.

    None where the curves share no span of costs, or are equal.
    """
    low, high = max(first[0][0], second[0][0]), min(first[-1][0], second[-1][0])
    if not 0 < low < high:
        return None
    if all(value > 0 for _, value in (*first, *second)):
        first, second = ([(cost, math.log(value)) for cost, value in curve] for curve in (first, second))
    costs = sorted({cost for cost, _ in (*first, *second) if low <= cost <= high} | {low, high})
    sign = 1 if lower_is_better else -1
    ahead = [
        (cost, sign * (_at(second, cost) - _at(first, cost))) for cost in costs
    ]  # above 0 where the first is better
    ahead = [(cost, lead) for cost, lead in ahead if lead != 0]
    if not ahead:
        return None
    passes = tuple(
        math.exp(math.log(x) + (math.log(y) - math.log(x)) * a / (a - b))
        for (x, a), (y, b) in pairwise(ahead)
        if (a > 0) != (b > 0)
    )
    return Race(0 if ahead[-1][1] > 0 else 1, passes, low, high)


def in_words(names: tuple[str, str], races: Mapping[str, Race], unit: str) -> str:
    """One sentence on two curves. races: by seed; at least one."""
    by_outcome: dict[tuple[int | None, int], list[Race]] = {}
    for one in races.values():
        by_outcome.setdefault(one.outcome, []).append(one)
    parts = []
    for some in sorted(by_outcome.values(), key=len, reverse=True):
        seeds = "one seed" if len(races) == 1 else f"{len(some)} of {len(races)} seeds"
        parts.append(f"{_alike(names, some, unit)} ({seeds})")
    sure = len(by_outcome) == 1 and None not in next(iter(by_outcome))
    return parts[0] if sure else f"undecided between {names[0]} and {names[1]}: {'; '.join(parts)}"


def _alike(names: tuple[str, str], races: Sequence[Race], unit: str) -> str:
    """On races of one outcome."""
    leads, changes = races[0].outcome
    if leads is None:
        return "the lead changes several times"
    leader, other = names[leads], names[1 - leads]
    if changes == 0:
        low, high = min(one.low for one in races), max(one.high for one in races)
        return f"{leader} is better than {other} all the way from {_short(low)} to {_short(high)} {unit}"
    times = sorted(one.passes[0] for one in races)
    middle = math.exp(sum(map(math.log, times)) / len(times))
    spread = f", {_short(times[0])} to {_short(times[-1])} by seed" if len(times) > 1 else ""
    return f"{leader} overtakes {other} after {_short(middle)} {unit}{spread}"


def _short(cost: float) -> str:
    return f"{float(f'{cost:.2g}'):g}"


def _at(curve: Curve, cost: float) -> float:
    """The value of a curve at a cost within its span."""
    for (x, a), (y, b) in pairwise(curve):
        if x <= cost <= y:
            return a if x == y else a + (b - a) * (math.log(cost) - math.log(x)) / (math.log(y) - math.log(x))
    return curve[-1][1]
