"""What a report finds: one sentence per axis, and curves whose order is certain.

The sentences on axes are one family of hypotheses; the marks in the table are another. For equal cells, at most 5 % of reports
claim a difference in either family (Holm). An undecided sentence names no winner; a line of its
own says how large a difference would have counted, which is half the interval at the level of Bonferroni, and roughly how many new
seeds would show the one that was found.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from diffusion_lab.report.comparison import (
    LEVEL,
    MOST_SEEDS,
    Difference,
    Measured,
    Ranking,
    decimals_of,
    holm,
    listed,
    ranking,
)
from diffusion_lab.report.curves import SAMPLING, TRAINING, sentences
from diffusion_lab.report.effects import Effect, effect_of, values_of
from diffusion_lab.report.numbers import MOST_NAMED, label
from diffusion_lab.report.table import NONE, Group, Table
from diffusion_lab.store.measures import LOW, Measure
from diffusion_lab.store.option_names import grouped

_COSTS = {"nfe": "network evaluations per sample", "parameters": "parameters", "training_images": "training images"}
_ONE_SEED = "not ranked, because one seed of each does not tell a difference from chance"
_NO_ERRORS = "not ranked, because these scores have no errors; metrics=frechet_infinity adds those of Fréchet distances"


@dataclass(frozen=True)
class Finding:
    """A sentence of a report. what: the axis or the curves. sure: whether anything is decided."""

    what: str
    text: str
    sure: bool


def curve_findings(table: Table, group: Group) -> list[Finding]:
    """What is certain about curves against cost."""
    return [
        Finding(f"{measure.label} against {cost.title}", said, True)
        for measure in group.headlines
        for cost in (TRAINING, SAMPLING)
        for said in sentences(table, group, measure, cost)
    ]


@dataclass(frozen=True)
class Comparison:
    """Choices compared by one measure: the values of an axis or, where none differs alone, rows.

    what: the axis, or those in which the rows differ. averaged: over what means are taken besides seeds, in words. left_out:
    values that cannot be compared. family: the number of comparisons to correct for. sure: whether the best is certain (Holm).
    """

    what: str
    measure: Measure
    names: list[str]
    means: list[Measured]
    ranking: Ranking
    averaged: str = ""
    left_out: tuple[str, ...] = ()
    family: int = 1
    sure: bool = False

    @property
    def level(self) -> float:
        """Of each comparison of the family, after Bonferroni."""
        return LEVEL / self.family

    @property
    def verdict(self) -> str:
        """Whether it is decided; empty if nothing could be tested."""
        rival = self.ranking.rival(self.sure)
        if rival is None or rival[1] is None:
            return ""
        return "decided" if self.sure else "undecided"

    def clause(self) -> tuple[str, str]:
        """(statement, its number); equal statements about several measures are written once."""
        rank, name = self.ranking, self.measure.label
        rival = rank.rival(self.sure)
        if rival is None:
            return f"{_several(self.names)} are the same in", name
        other, lead = rival
        mean = self.means[rank.best[0]]
        if lead is None:
            one_training = bool(mean.trainings) and mean.trainings == self.means[other].trainings
            return f"{_NO_ERRORS if one_training else _ONE_SEED}:", name
        if not self.sure:
            return f"{self.verdict} between {_several(self.names)}{self._over} in", name
        than = f"{self.names[other]}, the next," if len(self.names) > len(rank.best) + 1 else self.names[other]
        by = f"{_with_interval(lead)} in {name} ({mean.mean:.3g} against {self.means[other].mean:.3g})"
        return f"{listed(self.leaders)} {'is' if len(rank.best) == 1 else 'are'} better than {than}{self._over} by", by

    @property
    def leaders(self) -> list[str]:
        return [self.names[i] for i in self.ranking.best]

    @property
    def title(self) -> str:
        """The comparison in one line, for a figure of this measure."""
        _, lead = self.ranking.rival(self.sure) or (None, None)
        if lead is None or not self.sure:
            return ": ".join(filter(None, (self.what, self.verdict)))
        return f"{self.what}: {listed(self.leaders)} {'is' if len(self.leaders) == 1 else 'are'} better by {_with_interval(lead)}"

    @property
    def found(self) -> str:
        """The difference of the best to its rival in words; empty without one."""
        best = self.ranking.best[0]
        _, lead = self.ranking.rival(self.sure) or (None, None)
        if lead is None:
            return ""
        size = f"{_number(abs(lead.mean))}{_percent(lead.mean, self.means[best])}"
        return f"{self.names[best]} is {'lower' if lead.mean < 0 else 'higher'} by {size}"

    @property
    def doubt(self) -> tuple[str, ...] | None:
        """The columns UNDECIDED; None if the comparison is decided or has no errors."""
        best = self.ranking.best[0]
        other, lead = self.ranking.rival(self.sure) or (best, None)
        if self.sure or lead is None:
            return None
        base = self.means[best]
        pair = "" if len(self.names) == 2 else f", {self.names[min(best, other)]} and {self.names[max(best, other)]}"
        needed, enough = lead.margin_at(self.level), self.seeds_to_show
        return (
            f"{self.what} in {self.measure.label}{pair}",
            self.found,
            f"{_number(needed)}{_percent(needed, base)}",
            NONE if not lead.seeds else f"about {enough}" if enough else f"more than {MOST_SEEDS}",
        )

    @cached_property
    def seeds_to_show(self) -> int | None:
        """See `Difference.seeds_to_show`; of the best and its rival."""
        _, lead = self.ranking.rival(self.sure) or (None, None)
        return lead.seeds_to_show(self.level) if lead else None

    def most_seeds(self, num_pairs: int) -> int | None:
        """See `Difference.most_seeds`; of the best and its rival, in a sweep that decides so many pairs."""
        _, lead = self.ranking.rival(self.sure) or (None, None)
        return lead.most_seeds(LEVEL / num_pairs) if lead else None

    @property
    def needs_seeds(self) -> bool:
        """Whether it is undecided and not paired over seeds."""
        rival = self.ranking.rival(self.sure)
        return not self.sure and rival is not None and (rival[1] is None or not rival[1].seeds)

    @property
    def seeds(self) -> int:
        return self.means[self.ranking.best[0]].n

    @property
    def _over(self) -> str:
        return f" over {self.seeds} seeds" if self.seeds > 1 else ""


def comparisons(table: Table, group: Group) -> list[Comparison]:
    """Every axis by every main measure; rows if no axis differs alone. None if the seeds were stopped by the differences."""
    if not group.ranked:
        return []
    axes = _axes(table, group)
    found = [
        Comparison(
            table.names[axis],
            measure,
            [value or NONE for value in effect.values],
            effect.means,
            ranking(effect.means, measure.better == LOW, group.decimals(measure)),
            _averaged(table.names[axis], measure, effect, [table.names[other] for other in effect.averaged]),
            tuple(value or NONE for value in effect.left_out),
        )
        for axis in axes
        for measure in group.headlines
        if (effect := effect_of(table, group, measure, axis)) is not None
    ] or [
        Comparison(
            _several([table.names[axis] for axis in axes]),
            one.measure,
            [label(row, group.rows) for row in one.rows],
            [row.values[one.measure.name] for row in one.rows],
            one.ranking,
        )
        for one in group.standings
        if one.measure in group.headlines and len(one.ranking.best) + len(one.ranking.others) > 1
    ]
    certain = holm([one.ranking.p for one in found])
    family = max(1, sum(one.ranking.p is not None for one in found))
    return [replace(one, family=family, sure=sure) for one, sure in zip(found, certain, strict=True)]


def _against(one: Comparison, winners: set[str]) -> tuple[str, str]:
    """`Comparison.clause`; with the difference found, if undecided and its best is none of the `winners` by other measures."""
    statement, number = one.clause()
    opposed = winners and not one.sure and one.found and not winners & {*one.leaders[:1]}
    return statement, f"{number}, where {one.found}" if opposed else number


def axis_findings(table: Table, group: Group, compared: Sequence[Comparison]) -> list[Finding]:
    """One sentence for each axis on which rows of the group differ."""
    found = []
    for what, some in grouped(compared, lambda one: one.what).items():
        sure = any(one.sure for one in some)
        sure_first = sorted(some, key=lambda one: not one.sure)
        winners = {name for one in some if one.sure for name in one.leaders}
        clauses = grouped((_against(one, winners) for one in sure_first), lambda clause: clause[0])
        parts = [f"{statement} {listed([number for _, number in each])}" for statement, each in clauses.items()]
        axis = next((axis for axis, name in table.names.items() if name == what), None)
        parts += list(filter(None, dict.fromkeys(one.averaged for one in some)))
        parts += [] if axis is None else costs_of(table, group, axis, sure)
        parts += [] if axis is None else _not_compared(table, group, axis, {one.measure for one in some})
        left_out = dict.fromkeys(name for one in some for name in one.left_out)
        parts += [f"{listed(list(left_out))} left out, because more than {what} differs"] if left_out else []
        found.append(Finding(what, "; ".join(parts), sure))
    alone = [name for axis in _axes(table, group) if (name := table.names[axis]) not in {one.what for one in compared}]
    if alone and len(alone) < len(_axes(table, group)):
        found.append(Finding(listed(alone), "not compared, because more differs wherever this does", False))
    return found


def _averaged(what: str, measure: Measure, effect: Effect, averaged: Sequence[str]) -> str:
    number = "both" if effect.settings == 2 else effect.settings
    of = f"settings of {listed([*averaged] or ['the protocol'])}"
    if effect.unchanged:
        some = f"{effect.settings} of {effect.settings + effect.unchanged} {of}"
        return f"{measure.label} averaged over {some}, because {what} changes nothing in the others"
    return f"averaged over {number} {of}" if effect.settings > 1 else ""


def _not_compared(table: Table, group: Group, axis: str, compared: Collection[Measure]) -> list[str]:
    """The main measures that several values of an axis have, but none measured alike."""
    place, found = table.axes.index(axis), dict[str, list[str]]()
    for measure in group.headlines:
        having = {row.choice[place] for row in group.rows if measure.name in row.values}
        if measure not in compared and len(having) > 1:
            reason = "different bounds" if "bound" in measure.agrees else "measured differently"
            found.setdefault(reason, []).append(measure.label)
    return [f"{listed(labels)} not compared: {reason}" for reason, labels in found.items()]


def costs_of(table: Table, group: Group, axis: str, sure: bool) -> list[str]:
    """The costs in which the values of an axis differ; if they differ in none and one is better, what is equal."""
    differing, equal = [], []
    for name, title in _COSTS.items():
        effect = effect_of(table, group, Measure(name, name), axis)
        if effect is None:
            continue
        costs = [(value or NONE, _count(one.mean)) for value, one in zip(effect.values, effect.means, strict=True)]
        if len({cost for _, cost in costs}) == 1:
            equal.append(title)
        else:
            each = [cost if value == cost else f"{value} {cost}" for value, cost in costs[:MOST_NAMED]]
            differing.append(f"{listed(each)} {title}")
    if differing:
        return [f"unequal cost: {', '.join(differing)}"]
    return [f"equal {listed(equal)}"] if equal and sure else []


def _axes(table: Table, group: Group) -> list[str]:
    return [axis for axis in table.axes if len(values_of(table, group, axis)) > 1]


def _several(names: Sequence[str]) -> str:
    return listed(list(names)) if len(names) <= MOST_NAMED else f"{len(names)} choices"


def with_interval(size: float, margin: float) -> str:
    """A difference and its interval. They are not both 0."""
    decimals = min(decimals_of(abs(number), digits) for number, digits in ((margin, 2), (size, 3)) if number)
    low, size, high = (size + sign * margin for sign in (-1, 0, 1))
    return f"{size:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"


def _with_interval(lead: Difference) -> str:
    return with_interval(abs(lead.mean), lead.margin)


def _number(value: float) -> str:
    """Two significant digits."""
    return f"{value:.{decimals_of(value, 2)}f}" if value else "0"


def _percent(part: float, whole: Measured) -> str:
    if whole.mean <= 0:
        return ""
    share = abs(100 * part / whole.mean)
    return f" ({share:.0f}\N{NO-BREAK SPACE}%)" if share >= 10 else f" ({share:.1g}\N{NO-BREAK SPACE}%)"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 1e4 else f"{value:.0f}"
