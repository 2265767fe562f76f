"""Curves of a measure against a cost: which rows form a curve, where two curves cross for each seed, and what is certain of them.

"a is better than b above …, worse below" claims differences of opposite sign at the first and at the last cost. It needs three
seeds with one change of order each, in the same direction, and a paired t-test at both costs, at a level divided by the number of
pairs of curves and of measures (Bonferroni). So for equal curves at most 5 % of reports contain such a sentence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np

from diffusion_lab.report.choices import with_axis
from diffusion_lab.report.comparison import LEVEL, paired_p
from diffusion_lab.report.effects import sets_steps
from diffusion_lab.report.table import Choice, Group, Row, Table
from diffusion_lab.store.measures import LOW, SECONDS, TRAINING_SECONDS, Measure
from diffusion_lab.store.weight_names import is_snapshot

Curve = Sequence[tuple[float, float]]  # (cost, value), by increasing cost
Names = tuple[str, str]
_ROUNDING = 1e-6  # relative, for values on a logarithmic axis
_MOST_SENTENCES = 12
_WEIGHTS = "evaluation.weights"
_BUDGETS = ("trainer.max_steps", "trainer.max_time", "default_steps")  # axes that set the length of training


@dataclass(frozen=True)
class Cost:
    """The abscissa of a curve: the value `name` of a row, divided by `per_unit`, in units of `unit`."""

    title: str
    name: str
    unit: str
    per_unit: float = 1.0


TRAINING = Cost("training time", TRAINING_SECONDS, "minutes", per_unit=60.0)
SAMPLING = Cost("sampling cost", "nfe", "network evaluations")


@dataclass(frozen=True)
class Race:
    """A comparison of two curves over the range of costs that both cover.

    better: 0 or 1, the curve that is better at the end. crossings: costs at which the order changes. ends: the advantage of the
    first curve at the first and at the last cost.
    """

    better: int
    crossings: tuple[float, ...]
    ends: tuple[float, float]


def race(first: Curve, second: Curve, lower_is_better: bool) -> Race | None:
    """Compare two curves. Between points they are straight on logarithmic axes; on a linear value axis if values are not positive.

    None if the curves share no range of costs, or are equal up to rounding.
    """
    low, high = max(first[0][0], second[0][0]), min(first[-1][0], second[-1][0])
    if not 0 < low < high:
        return None
    positive = all(value > 0 for _, value in (*first, *second))

    def gain(costs: np.ndarray) -> np.ndarray:
        """Positive where the first curve is better."""
        lines = map(np.transpose, (first, second))
        a, b = (np.interp(np.log(costs), np.log(x), np.log(y) if positive else y) for x, y in lines)
        return b - a if lower_is_better else a - b

    costs = np.unique([low, high, *(cost for cost, _ in (*first, *second) if low <= cost <= high)])
    by = gain(costs)
    x, a = np.log(costs[abs(by) > _ROUNDING]), by[abs(by) > _ROUNDING]
    if not len(a):
        return None
    (change,) = np.nonzero((a[:-1] > 0) != (a[1:] > 0))
    share = a[change] / (a[change] - a[change + 1])
    crossings = np.exp(x[change] + (x[change + 1] - x[change]) * share)
    return Race(0 if a[-1] > 0 else 1, tuple(crossings.tolist()), (float(by[0]), float(by[-1])))


def ranked_measures(group: Group) -> list[Measure]:
    """Measures with curves: those with a better end, except seconds, which are a cost themselves."""
    return [measure for measure in group.measures if measure.better is not None and measure.name != SECONDS]


def races(some: Sequence[Row], others: Sequence[Row], measure: Measure, cost: Cost) -> list[Race]:
    """The comparison for each shared seed; empty if the two were measured differently or cannot be compared."""
    if {row.protocol_key(measure) for row in some} != {row.protocol_key(measure) for row in others}:
        return []
    a, b = _by_seed(some, measure, cost), _by_seed(others, measure, cost)
    found = (race(a[seed], b[seed], measure.better == LOW) for seed in sorted(a.keys() & b.keys()))
    return [one for one in found if one is not None]


def is_certain(races: Sequence[Race], level: float) -> bool:
    """Whether the order of two curves changes once, for all seeds in the same direction, at this level. races: one per seed."""
    same = len({(one.better, len(one.crossings)) for one in races}) == 1 == len(races[0].crossings)
    return same and max(map(paired_p, zip(*(one.ends for one in races), strict=True))) <= level


def in_words(names: Names, races: Sequence[Race], cost: Cost) -> str:
    """The statement on two curves whose order changes once. races: one per seed."""
    times = sorted(one.crossings[0] for one in races)
    middle = math.exp(sum(map(math.log, times)) / len(times))
    first, last = _short(times[0]), _short(times[-1])
    spread = f" ({first} to {last} by seed)" if first != last else ""
    better, other = names[races[0].better], names[1 - races[0].better]
    return f"{better} is better than {other} above {_short(middle)} {cost.unit}{spread}, worse below"


def _by_seed(rows: Sequence[Row], measure: Measure, cost: Cost) -> dict[str, Curve]:
    """Seed -> its curve, with at least two points."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        costs, values = row.values[cost.name].by_seed, row.values[measure.name].by_seed
        for seed in costs.keys() & values.keys():
            curves.setdefault(seed, []).append((costs[seed] / cost.per_unit, values[seed]))
    return {seed: sorted(points) for seed, points in curves.items() if len(points) > 1}


def _short(cost: float) -> str:
    return f"{float(f'{cost:.2g}'):g}"


# ---- which rows form a curve


def sentences(table: Table, group: Group, measure: Measure, cost: Cost) -> list[str]:
    """A sentence for each pair of curves, measured alike with the same seeds, whose order certainly changes.

    Against training time all pairs are compared; against network evaluations only pairs that differ in one axis. None if the seeds
    were stopped by the differences.
    """
    if not group.ranked:
        return []
    if cost is TRAINING:
        lines = {name: rows for name, rows in training_lines(table, group, measure).items() if len(rows) > 1}
        pairs = [((a, b), lines[a], lines[b]) for a, b in combinations(lines, 2)]
    else:
        pairs = list(_sampling_pairs(table, group, measure))
    compared = [(names, found) for names, a, b in pairs if (found := races(a, b, measure, cost))]
    level = LEVEL / max(1, len(compared) * len(ranked_measures(group)))
    return [in_words(names, found, cost) for names, found in compared if is_certain(found, level)][:_MOST_SENTENCES]


def rows_along(group: Group, measure: Measure, cost: Cost) -> list[Row]:
    """Rows that have both the measure and the cost."""
    return [row for row in group.rows if measure.name in row.values and cost.name in row.values]


def training_lines(table: Table, group: Group, measure: Measure) -> dict[str, list[Row]]:
    """Name -> rows by increasing cost. Rows form a line if they differ only in the length of training.

    The moments of one training form a line that ends with its finished model; the finished models of trainings of several lengths
    form another. Several finished models of one training (its averages) form separate lines.
    """
    alike: dict[Choice, dict[Choice, list[Row]]] = {}  # by all choices except the length, then by the length
    all_but_length = [axis for axis in table.axes if axis not in _BUDGETS]
    for row in rows_along(group, measure, TRAINING):
        trainings = alike.setdefault(_without(table, row.words, (*_BUDGETS, _WEIGHTS)), {})
        trainings.setdefault(_without(table, row.words, all_but_length), []).append(row)
    lines: dict[Choice, list[Row]] = {}
    for choice, trainings in alike.items():
        for length, rows in trainings.items():
            weights = [dict(zip(table.axes, row.choice, strict=True)).get(_WEIGHTS) or "" for row in rows]
            snapshots = [row for row, name in zip(rows, weights, strict=True) if is_snapshot(name)]
            finals = [row for row in rows if row not in snapshots]
            of_training = choice if len(trainings) == 1 else tuple(a or b for a, b in zip(choice, length, strict=True))
            if snapshots:
                lines[of_training] = [*snapshots, *(finals if len(finals) == 1 else [])]
            if not snapshots or len(trainings) > 1 or len(finals) > 1:
                for row in finals:
                    own = choice if len(finals) == 1 else _without(table, row.words, _BUDGETS)
                    lines.setdefault(own, []).append(row)
    return {
        name: sorted(rows, key=lambda row: row.values[TRAINING.name].mean)
        for name, rows in zip(line_names(list(lines)), lines.values(), strict=True)
    }


def line_names(choices: Sequence[Choice]) -> list[str]:
    """The choices in which lines differ; missing options are omitted if the names stay distinct."""
    places = [i for i, values in enumerate(zip(*choices, strict=True)) if len(set(values)) > 1]
    short = [
        " · ".join(filter(None, (choice[i] for i in places))) or ("none" if places else "all") for choice in choices
    ]
    whole = [" · ".join(choice[i] or "none" for i in places) for choice in choices]
    return short if len(set(short)) == len(choices) else whole


def _without(table: Table, choice: Choice, axes: Sequence[str]) -> Choice:
    return tuple(None if axis in axes else value for axis, value in zip(table.axes, choice, strict=True))


def _sampling_pairs(table: Table, group: Group, measure: Measure) -> Iterator[tuple[Names, list[Row], list[Row]]]:
    """(names, rows of one, rows of the other) of two lines that differ in one axis. The rows of a line differ only in their
    number of steps."""
    places = [place for place, axis in enumerate(table.axes) if not sets_steps(table, group, axis)]
    lines: dict[Choice, list[Row]] = {}
    for row in rows_along(group, measure, SAMPLING):
        for choice in (row.choice, *row.others):
            words = ((value := choice[place]) and with_axis(row.axes[place], value) for place in places)
            lines.setdefault(tuple(words), []).append(row)
    lines = {line: rows for line, rows in lines.items() if len(rows) > 1}
    varied = [place for place, values in enumerate(zip(*lines, strict=True)) if len(set(values)) > 1]
    for place in varied:
        alike: dict[Choice, list[Choice]] = {}  # by all choices except this one
        for line in lines:
            alike.setdefault((*line[:place], *line[place + 1 :]), []).append(line)
        for first, second in chain.from_iterable(combinations(some, 2) for some in alike.values()):
            shared = " · ".join(first[other] or "none" for other in varied if other != place)
            with_shared = f" with {shared}" if shared else ""
            names = (f"{first[place] or 'none'}{with_shared}", f"{second[place] or 'none'}{with_shared}")
            yield names, lines[first], lines[second]
