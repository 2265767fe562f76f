"""A report's conclusions in sentences: one per axis, then the best cell by each main number, then the order of curves.

The sentences on axes are one family of hypotheses; the best cells, with all other marks in the table, are another. For equal
cells, at most 5 % of reports claim a difference in either family (Holm). An uncertain sentence names no winner.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean

from diffusion_lab.report.comparison import Difference, Measured, Ranking, decimals_of, holm, listed, ranking
from diffusion_lab.report.curves import SAMPLING, TRAINING, sentences
from diffusion_lab.report.numbers import Column, columns, distinguishing, label
from diffusion_lab.report.table import NONE, Cell, Group, Row, Standing, Table, measured, values_of
from diffusion_lab.store.measures import LOW, Measure

TOO_LITTLE = "too little for so many comparisons"  # of an interval that excludes 0, after Holm's correction
MORE_SEEDS = "run seed=1,2,3, because one seed does not rank"
NO_ERRORS = "without errors, which metrics=frechet_infinity adds to Fréchet distances, nothing ranks"


@dataclass(frozen=True)
class Finding:
    """A sentence of a report. what: the axis, the column or the curves. sure: whether it claims a difference."""

    what: str
    text: str
    sure: bool


def findings(table: Table, group: Group) -> list[Finding]:
    """All sentences on a group of rows; for curves only the certain ones."""
    named = {column.measure.name: column for column in columns(group)}
    of_axes = axis_findings(table, group)
    several = len(distinguishing(group.rows)) > 1  # of one axis the sentence on it names the best
    ranked = _headlines(group) if several else []
    main = [one for one in group.standings if one.measure in ranked and one.rival]
    best = [best_cell(one, named[one.measure.name]) for one in main]
    return [*of_axes, *best, *(one for one in curve_findings(table, group) if one.sure)]


def curve_findings(table: Table, group: Group) -> list[Finding]:
    """Sentences on curves against cost."""
    return [
        Finding(f"{measure.label} against {cost.title}", said, sure)
        for measure in _headlines(group)
        for cost in (TRAINING, SAMPLING)
        for said, sure in sentences(table, group, measure, cost)
    ]


# ---- axes


@dataclass(frozen=True)
class Effect:
    """The effect of one axis, averaged over the others: from sets of cells that were measured alike and differ only in that axis.

    values: of the axis, in order. means: one per value, by seed. sets: for each set of cells, its numbers by value, averaged over
    seeds if there are other axes. left_out: values without such a set.
    """

    values: list[str | None]
    means: list[Measured]
    sets: list[list[float]]
    left_out: list[str | None]
    settings: int


def effect_of(table: Table, group: Group, measure: Measure, axis: str) -> Effect | None:
    """The effect of `axis` on a measure; None if no two cells measured alike differ only in `axis`."""
    sets: dict[tuple[object, str], dict[str | None, Cell]] = {}  # (all else, seed) -> value of the axis -> cell
    for cell in (cell for row in group.rows for cell in row.done if measure.name in cell.values):
        others = (*(cell.choices.get(a) for a in table.axes if a != axis), measure.protocol_key(cell.protocol))
        sets.setdefault((others, cell.seed), {})[cell.choices.get(axis)] = cell
    order = [value for value in (None, *table.values[axis]) if any(value in one for one in sets.values())]
    kept = _values_together(order, sets.values())
    if len(kept) < 2:
        return None
    whole = {key: [one[value] for value in kept] for key, one in sets.items() if one.keys() >= {*kept}}
    alike: dict[object, list[list[Cell]]] = {}
    for (key, _), cells in whole.items():
        alike.setdefault(key if len(table.axes) > 1 else len(alike), []).append(cells)
    seeds = dict.fromkeys(seed for _, seed in whole)
    return Effect(
        kept,
        [
            measured(measure.name, {seed: [cells[i] for (_, s), cells in whole.items() if s == seed] for seed in seeds})
            for i in range(len(kept))
        ],
        [
            [fmean(cell.values[measure.name] for cell in of_value) for of_value in zip(*one, strict=True)]
            for one in alike.values()
        ],
        [value for value in order if value not in kept],
        len({others for others, _ in whole}),
    )


def _values_together(order: Sequence[str | None], sets: Collection[dict[str | None, Cell]]) -> list[str | None]:
    """The two or more values whose complete sets contain the most cells; of equals, the most values."""
    candidates = {tuple(value for value in order if value in one) for one in sets}
    return max(
        (list(values) for values in candidates if len(values) > 1),
        key=lambda values: (sum(one.keys() >= {*values} for one in sets) * len(values), len(values)),
        default=[],
    )


@dataclass(frozen=True)
class _Comparison:
    """A comparison of the values of an axis by one measure."""

    measure: Measure
    effect: Effect
    ranking: Ranking

    @property
    def how(self) -> str:
        seeds, settings = self.effect.means[0].n, self.effect.settings
        over = [*([f"{seeds} seeds"] if seeds > 1 else []), *([f"{settings} settings"] if settings > 1 else [])]
        return "" if self.ranking.p is None else f", paired over {listed(over)}" if over else ", of one training"

    def clause(self, sure: bool) -> tuple[str, str]:
        """(statement, subject); equal statements about two measures are merged into one clause."""
        names, label = [value or NONE for value in self.effect.values], self.measure.label
        best, rival = [names[i] for i in self.ranking.best], self.ranking.rival(sure)
        if rival is None:
            return f"{listed(names)} are the same in", label
        other, lead = rival
        if lead is None:
            return (
                f"{unranked(self.effect.means[self.ranking.best[0]], self.effect.means[other])} {listed(names)} in",
                label,
            )
        by = amount(lead) + ("*" if not sure and lead.beyond_its_uncertainty else "")
        if sure:
            than = f"{names[other]}, the next," if len(names) > len(best) + 1 else names[other]
            return f"{listed(best)} {'is' if len(best) == 1 else 'are'} better than {than} by", f"{by} in {label}"
        a, b = (names[i] for i in sorted((self.ranking.best[0], other)))
        if len(names) > 2:
            return "no certain best in", f"{label} ({a} and {b} differ by {by})"
        return f"no certain difference between {a} and {b} in", f"{label} ({by})"


def axis_findings(table: Table, group: Group) -> list[Finding]:
    """One sentence for each axis on which rows of the group differ; one for all that never differ alone."""
    axes = [axis for axis in table.axes if len(values_of(table, group, axis)) > 1]
    compared = [
        (axis, _Comparison(measure, effect, ranking(effect.means, measure.better == LOW, group.decimals(measure))))
        for axis in axes
        for measure in _headlines(group)
        if (effect := effect_of(table, group, measure, axis)) is not None
    ]
    certain = holm([one.ranking.p for _, one in compared])
    found, never_alone = [], []
    for axis in axes:
        some = [(one, sure) for (of, one), sure in zip(compared, certain, strict=True) if of == axis]
        parts = []
        for how, alike in groupby(some, lambda pair: pair[0].how):
            clauses = groupby((one.clause(sure) for one, sure in alike), lambda clause: clause[0])
            parts.append("; ".join(f"{said} {listed([what for _, what in whats])}" for said, whats in clauses) + how)
        left_out = dict.fromkeys(value or NONE for one, _ in some for value in one.effect.left_out)
        if left_out:
            parts.append(f"{listed(list(left_out))} left out, because more than {table.names[axis]} differs")
        parts += [f"*{TOO_LITTLE}"] if any("*" in part for part in parts) else []
        if parts:
            found.append(Finding(table.names[axis], "; ".join(parts), any(sure for _, sure in some)))
        else:
            never_alone.append(table.names[axis])
    if never_alone:
        which = "it" if len(never_alone) == 1 else "one of them"
        found.append(Finding(listed(never_alone), f"no two cells differ in {which} alone", False))
    return found


# ---- rows


def best_cell(standing: Standing, column: Column) -> Finding:
    """The best rows of a column, their lead, and whether it is certain."""
    letter = column.letters.get(standing.best[0].protocol_key(standing.measure))
    what = standing.measure.label + (f" ({column.notes[letter]})" if letter else "")

    def named(row: Row) -> str:
        return label(row, standing.rows)

    def written(rows: Sequence[Row]) -> str:
        more = [f"{len(rows) - 3} more of the same value"] if len(rows) > 3 else []
        return f"{listed([*map(named, rows[:3]), *more])} ({column.entry(rows[0], set()).text})"

    best, rival = written(standing.best), standing.rival
    if rival is None:
        return Finding(what, f"no row to compare with {best}", False)
    other, lead = rival
    if lead is None:
        why = unranked(*(row.values[standing.measure.name] for row in (standing.best[0], other)))
        return Finding(what, f"{why} {best} and {written([other])}", False)
    by = f"{amount(lead)}, {lead.how}"
    if standing.marked:
        verb = "is the best cell" if len(standing.best) == 1 else "are the best cells"
        return Finding(what, f"{best} {verb}, better than {named(other)}, the next, by {by}", True)
    by += f"; {TOO_LITTLE}" if lead.beyond_its_uncertainty else ""
    return Finding(what, f"no certain best cell: {best} and {written([other])} differ by {by}", False)


def unranked(a: Measured, b: Measured) -> str:
    """Why the error of a difference is not known: of two trainings with one seed each, or of scores without errors."""
    of_one_training = bool(a.trainings) and list(a.trainings.values()) == list(b.trainings.values())
    return NO_ERRORS if of_one_training else MORE_SEEDS


def amount(lead: Difference) -> str:
    """A difference and half its 95 % interval, with enough digits that a significant difference is not written as 0."""
    decimals = min(
        (decimals_of(size, digits) for size, digits in ((lead.margin, 2), (abs(lead.mean), 3)) if size), default=0
    )
    return f"{abs(lead.mean):.{decimals}f} ± {lead.margin:.{decimals}f}"


def _headlines(group: Group) -> list[Measure]:
    """The measures that sentences are about: the headlines or, if there are none, the first that has a better end."""
    ranked = [measure for measure in group.measures if measure.better is not None]
    return [measure for measure in ranked if measure.headline] or ranked[:1]
