"""Cells -> groups of rows that were measured alike; seeds folded into mean ± standard error; the best marked where it is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from diffusion_lab.report.cells import Cell, Gathered
from diffusion_lab.report.comparison import Difference, Measured, difference, holm, same
from diffusion_lab.store.measures import LOW, STANDARD_ERROR, Measure, merged, samples_key

SEED = "seed"  # the axis that is folded
_MOST_DECIMALS = 6
NO_SEED = ""  # the seed of a row where seed is no axis

Choice = tuple[str | None, ...]


@dataclass(frozen=True, eq=False)
class Row:
    """One choice on every axis but the seed. cells: one a seed, as asked for; `number` counts rows over the whole report."""

    number: int
    choice: Choice
    cells: tuple[Cell, ...]

    @cached_property
    def done(self) -> list[Cell]:
        """The finished ones."""
        return [cell for cell in self.cells if cell.done]

    @cached_property
    def values(self) -> dict[str, Measured]:
        """Every value that a finished cell has, by name."""
        names = dict.fromkeys(name for cell in self.done for name in cell.values)
        return {name: self._measured(name) for name in names}

    @cached_property
    def seeds(self) -> list[str]:
        """Those of the finished cells."""
        return list(dict.fromkeys(seed_of(cell) for cell in self.done))

    def cells_with(self, name: str) -> dict[str, Cell]:
        """By seed, the cell whose value `name` counts: the last one that has it."""
        return {seed_of(cell): cell for cell in self.done if name in cell.values}

    def _measured(self, name: str) -> Measured:
        scored, error = self.cells_with(name), name + STANDARD_ERROR
        return Measured(
            {seed: cell.values[name] for seed, cell in scored.items()},
            {seed: cell.values[error] for seed, cell in scored.items() if error in cell.values},
            {seed: cell.sources.get(name, {}) for seed, cell in scored.items()},
            {seed: cell.model.path.name for seed, cell in scored.items()},
        )

    def ways(self, measure: Measure) -> dict[str, dict[str, Any]]:
        """How `measure` was measured in this row, by its key in the protocol; several where seeds disagree."""
        if measure.name not in self._ways:
            protocols = [cell.protocol for cell in self.cells_with(measure.name).values()]
            self._ways[measure.name] = {measure.protocol_key(protocol): measure.how(protocol) for protocol in protocols}
        return self._ways[measure.name]

    def protocol_key(self, measure: Measure) -> str:
        """Equal for two rows in which `measure` was measured alike; of this row alone where its seeds disagree."""
        keys = list(self.ways(measure))
        return keys[0] if len(keys) == 1 else f"{self.number} {keys}"

    @cached_property
    def _ways(self) -> dict[str, dict[str, dict[str, Any]]]:
        return {}

    def absent(self, measure: Measure) -> str:
        """Why there is no such value."""
        return next((c.protocol.get("absent", {}).get(measure.name, "") for c in self.done), "") or "not measured"


@dataclass(frozen=True, eq=False)
class Standing:
    """The best rows of a column, among those measured alike.

    best       rows with the best mean: several where their values are equal, or are written as equal and their order is uncertain
    p          the largest p of the differences between the best and the other rows; None where some of these are uncertain
    marked     whether the best is better than every other row, among all claims of the table (Holm)
    runner_up  the next row, and `lead` the difference to it; None where all rows are equal, or its uncertainty is unknown
    left_out   rows that take no part, because their seeds are others
    """

    measure: Measure
    best: list[Row]
    runner_up: Row | None
    lead: Difference | None
    p: float | None
    left_out: list[Row]
    marked: bool = False


@dataclass(frozen=True, eq=False)
class Group:
    """Rows whose samples were measured alike: one table. `protocol` is that of its first cell."""

    rows: list[Row]
    measures: list[Measure]
    protocol: dict[str, Any]
    unfinished: list[Row] = field(default_factory=list)

    @cached_property
    def standings(self) -> list[Standing]:
        """One for each measure that has a best, and for each way it was measured within the group."""
        found = []
        for measure in self.measures:
            if measure.better is None:
                continue
            rows = [row for row in self.rows if measure.name in row.values]
            for key in dict.fromkeys(row.protocol_key(measure) for row in rows):
                alike = [row for row in rows if row.protocol_key(measure) == key]
                if len(alike) > 1:
                    found.append(standing(measure, alike, self.decimals(measure)))
        ps = {id(one): one.p for one in found if one.p is not None}
        certain = dict(zip(ps, holm(list(ps.values())), strict=True))
        return [replace(one, marked=certain.get(id(one), False)) for one in found]

    @cached_property
    def marked(self) -> set[tuple[int, str]]:
        """(row number, measure name) of everything that is marked as best."""
        return {(row.number, s.measure.name) for s in self.standings if s.marked for row in s.best}

    def decimals(self, measure: Measure) -> int:
        """The decimals at which a typical error has two significant digits, or, without errors, a small value three."""
        measured = [row.values[measure.name] for row in self.rows if measure.name in row.values]
        if all(one.mean.is_integer() for one in measured):
            return 0
        known = sorted(one.error for one in measured if one.error)
        sizes = sorted(abs(one.mean) for one in measured if one.mean)
        size, digits = (known[len(known) // 2], 2) if known else (sizes[len(sizes) // 4] if sizes else 1.0, 3)
        return max(0, min(_MOST_DECIMALS, digits - 1 - math.floor(math.log10(size))))

    def floor(self, measure: Measure) -> float | None:
        """What real images get in the place of samples; the same for all rows, which share reference and number."""
        return None if measure.floor_of is None else self.fact(measure.floor_of)

    def fact(self, name: str) -> float | None:
        """A value that is the same for all rows; None where no score states it."""
        return next((cell.values[name] for row in self.rows for cell in row.done if name in cell.values), None)


@dataclass(frozen=True, eq=False)
class Table:
    """All groups, the largest first. axes: those that differ, without the seed. values: of each axis, as they were asked for.
    seeds: as asked for; empty if that is no axis."""

    axes: tuple[str, ...]
    values: Mapping[str, Sequence[str]]
    seeds: tuple[str, ...]
    groups: list[Group]

    @property
    def rows(self) -> list[Row]:
        return [row for group in self.groups for row in group.rows]


def build_table(gathered: Gathered) -> Table:
    """Fold seeds, and part what was measured differently."""
    axes = _axes(gathered)
    order = [[None, *gathered.axes[axis]] for axis in axes]

    def command_order(row: Row) -> list[int]:
        return [values.index(value) for values, value in zip(order, row.choice, strict=True)]

    finished: dict[tuple[str, Choice], list[Cell]] = {}
    waiting: dict[Choice, list[Cell]] = {}
    for cell in gathered.cells:
        choice = tuple(cell.choices.get(axis) for axis in axes)
        if cell.done:
            finished.setdefault((samples_key(cell.protocol), choice), []).append(cell)
        else:
            waiting.setdefault(choice, []).append(cell)
    by_protocol: dict[str, list[Row]] = {}
    for number, ((how, choice), cells) in enumerate(finished.items()):
        by_protocol.setdefault(how, []).append(Row(number, choice, (*cells, *waiting.pop(choice, []))))
    groups = [_group(sorted(rows, key=command_order)) for rows in sorted(by_protocol.values(), key=len, reverse=True)]
    left = [Row(len(finished) + i, choice, tuple(cells)) for i, (choice, cells) in enumerate(waiting.items())]
    if left and not groups:
        groups = [Group([], [], {})]
    for row in sorted(left, key=command_order):
        _where_it_belongs(row, groups).unfinished.append(row)
    return Table(axes, {axis: gathered.axes[axis] for axis in axes}, tuple(gathered.axes.get(SEED, ())), groups)


def standing(measure: Measure, rows: Sequence[Row], decimals: int) -> Standing:
    """Rows with fewer seeds than others, or with other seeds in part, take no part: their means are over another set.

    decimals: with which the values are written.
    """
    value = {row.number: row.values[measure.name] for row in rows}
    kept = _kept_seeds([frozenset(v.by_seed) for v in value.values()])
    whole = [row for row in rows if frozenset(value[row.number].by_seed) in kept]
    sign = 1 if measure.better == LOW else -1
    whole.sort(key=lambda row: sign * value[row.number].mean)
    best = [row for row in whole if _no_lead(value[whole[0].number], value[row.number], decimals)]
    others = [row for row in whole if row not in best]
    leads = [difference(value[one.number], value[row.number]) for one in best for row in others]
    known = [lead.p for lead in leads if lead is not None and sign * lead.mean < 0]
    p = max(known) if leads and len(known) == len(leads) else None
    runner_up, lead = (others[0], leads[0]) if others else (None, None)
    return Standing(measure, best, runner_up, lead, p, [row for row in rows if row not in whole])


def _no_lead(best: Measured, other: Measured, decimals: int) -> bool:
    """Whether the two are equal, or are written as equal and the sign of their difference is uncertain."""
    found = difference(best, other)
    certain = found is not None and found.beyond_its_uncertainty
    return same(best, other) or (not certain and round(best.mean - other.mean, decimals) == 0)


def _kept_seeds(sets: Sequence[frozenset[str]]) -> list[frozenset[str]]:
    """The largest set, of several the one that most rows have, and as large ones that share no seed with it or each other.

    A difference uses the seeds that two rows share, or all if they share none. If they share some, it may contradict the means.
    """
    count = Counter(sets)
    kept: list[frozenset[str]] = []
    for seeds in sorted(count, key=lambda seeds: (len(seeds), count[seeds]), reverse=True):
        if not kept or (len(seeds) == len(kept[0]) and all(map(seeds.isdisjoint, kept))):
            kept.append(seeds)
    return kept


def seed_of(cell: Cell) -> str:
    return cell.choices.get(SEED) or NO_SEED


def _axes(gathered: Gathered) -> tuple[str, ...]:
    """Those that differ between cells, without the seed."""
    return tuple(a for a in gathered.axes if a != SEED and len({cell.choices.get(a) for cell in gathered.cells}) > 1)


def _group(rows: list[Row]) -> Group:
    measures = merged(cell.measures for row in rows for cell in row.done)
    there = {name for row in rows for name in row.values}
    return Group(rows, [m for m in measures if m.column and m.name in there], rows[0].done[0].protocol)


def _where_it_belongs(row: Row, groups: Sequence[Group]) -> Group:
    """The group that a row without a result would join: by the axes that tell groups apart first, then by all."""
    there = [[{other.choice[i] for other in group.rows} for i in range(len(row.choice))] for group in groups]
    apart = [sum(map(len, sets)) == len(set().union(*sets)) for sets in zip(*there, strict=True)]

    def likeness(number: int) -> tuple[int, int]:
        alike = [value in values for value, values in zip(row.choice, there[number], strict=True)]
        return sum(a and b for a, b in zip(alike, apart, strict=True)), sum(alike)

    return groups[max(range(len(groups)), key=likeness)]
