"""The table of a report: cells are grouped into rows, and rows into groups that were measured alike.

A row has one choice on every axis except the seed: seeds are summarised as mean ± standard error. The best row of a column is
marked if it is certain. Choices with identical samples, because the sampler does not use the options that differ, are one row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean
from typing import Any

from diffusion_lab.report.choices import natural, with_axis
from diffusion_lab.report.comparison import Measured, Ranking, decimals_of, equal, holm, ranking
from diffusion_lab.store import ModelDirectory, RunDirectory
from diffusion_lab.store.measures import LOW, SAMPLES, Measure, merged, samples_key
from diffusion_lab.store.option_names import grouped, short_names
from diffusion_lab.store.status_file import DONE
from diffusion_lab.sweeps.decide import Standings

SEED = "seed"  # averaged over
NO_SEED = ""  # the seed if seed is not an axis
NONE = "–"  # a missing option or value
_MOST_DECIMALS = 6

Choice = tuple[str | None, ...]


@dataclass(frozen=True, eq=False)
class Cell:
    """choices: every axis, None if this cell lacks the option. state: done, missing (with the reason), or that of its status
    file. values, protocol, curves, measures, sources: of metrics.json; empty unless done. code, own: file -> digest, of the package
    and of the user, for the training and the score, if recorded."""

    choices: dict[str, str | None]
    run: RunDirectory
    model: ModelDirectory
    state: str
    reason: str = ""
    values: dict[str, float] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    measures: list[Measure] = field(default_factory=list)
    sources: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    code: dict[str, dict[str, str]] = field(default_factory=dict)
    own: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return self.state == DONE

    @property
    def seed(self) -> str:
        return self.choices.get(SEED) or NO_SEED

    @property
    def noise(self) -> str:
        """The seed of the noise of its samples."""
        return str(self.part("samples").get("seed"))

    @property
    def given(self) -> dict[str, Any] | None:
        """The protocol's entry on given samples; None if a model drew them."""
        return self.part("samples").get("given")

    @property
    def bound_kind(self) -> str:
        return str(self.part("bound").get("kind", ""))

    @property
    def shape(self) -> list[int]:
        """The shape of a sample if it has grey levels, and therefore one tile in the picture; else empty."""
        return self.part("data").get("shape", []) if self.part("samples").get("num_levels") else []

    def part(self, name: str) -> dict[str, Any]:
        """A part of the protocol; empty if it is missing."""
        return self.protocol.get(name) or {}


@dataclass(frozen=True)
class Gathered:
    """The content of a report. command: the options as given, empty for runs without a sweep. decision: of a sweep that decides."""

    name: str
    axes: dict[str, list[str]]
    cells: list[Cell]
    command: list[str] = field(default_factory=list)
    created: str = ""
    skipped: list[str] = field(default_factory=list)
    decision: Standings | None = None

    @property
    def done(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.done]


@dataclass(frozen=True, eq=False)
class Row:
    """Cells with one choice on every axis except the seed; `number` counts rows over the whole report.

    axes: their names in the report. others: further choices with the same samples; their cells are included.
    """

    number: int
    axes: Sequence[str]
    choice: Choice
    cells: tuple[Cell, ...]
    others: tuple[Choice, ...] = ()
    _ways: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict, init=False)

    @cached_property
    def names(self) -> Choice:
        """The choice as written: "fixed_small = fixed_large" if both give the same samples."""
        alike = [dict.fromkeys(values) for values in zip(self.choice, *self.others, strict=True)]
        return tuple(None if {*some} == {None} else " = ".join(value or NONE for value in some) for some in alike)

    @cached_property
    def words(self) -> Choice:
        """The choice as written outside of the table; see `with_axis`."""
        return tuple(name and with_axis(axis, name) for axis, name in zip(self.axes, self.names, strict=True))

    @cached_property
    def done(self) -> list[Cell]:
        """The finished cells by seed."""
        return sorted((cell for cell in self.cells if cell.done), key=lambda cell: natural(cell.seed))

    @cached_property
    def values(self) -> dict[str, Measured]:
        """Every value of the finished cells by name, except those that differ between `others`."""
        names = dict.fromkeys(name for cell in self.done for name in cell.values)
        return {
            name: measured(name, {seed: [cell] for seed, cell in self.cells_with(name).items()})
            for name in names
            if name not in self.differing
        }

    @cached_property
    def differing(self) -> dict[str, list[float]]:
        """Values that differ between `others` for one seed, such as bits/dim of two variances."""
        found: dict[str, list[float]] = {}
        for name in {name for cell in self.done for name in cell.values} if self.others else ():
            for seed in self.seeds:
                some = [cell.values[name] for cell in self.done if cell.seed == seed and name in cell.values]
                if not all(equal(some[0], value) for value in some):
                    found.setdefault(name, []).extend(some)
        return found

    @cached_property
    def seeds(self) -> list[str]:
        """Seeds of the finished cells."""
        return list(dict.fromkeys(cell.seed for cell in self.done))

    def cells_with(self, name: str) -> dict[str, Cell]:
        """By seed, the cell that provides the value `name`: the last one that has it."""
        return {cell.seed: cell for cell in self.done if name in cell.values}

    def ways(self, measure: Measure) -> dict[str, dict[str, Any]]:
        """How `measure` was measured in this row, by its key in the protocol; several if seeds differ."""
        if measure.name not in self._ways:
            protocols = [cell.protocol for cell in self.cells_with(measure.name).values()]
            self._ways[measure.name] = {measure.protocol_key(protocol): measure.how(protocol) for protocol in protocols}
        return self._ways[measure.name]

    def protocol_key(self, measure: Measure) -> str:
        """A key that is equal for two rows in which `measure` was measured alike, and unique if the seeds of this row differ."""
        keys = list(self.ways(measure))
        return keys[0] if len(keys) == 1 else f"{self.number} {keys}"

    @cached_property
    def samples_drawn(self) -> object:
        """A key that is equal for rows with identical samples by construction: same weights, measured alike, equal values."""
        drawn = [
            (cell.seed, name, f"{cell.values[name]:.6g}", measure.protocol_key(cell.protocol))
            for cell in self.done
            for measure in cell.measures
            if (name := measure.name) in cell.values and ("samples" in measure.agrees or name == "nfe")
        ]
        weights = {(cell.seed, cell.noise, cell.model.path.name, cell.protocol.get("weights")) for cell in self.done}
        others = {m.protocol_key(cell.protocol) for cell in self.done for m in cell.measures if m.name in cell.values}
        known = {name for _, name, *_ in drawn} - {"nfe"}
        return (frozenset(weights), frozenset(drawn), frozenset(others)) if known else self.number


@dataclass(frozen=True, eq=False)
class Standing:
    """The ranking of rows measured alike. marked: whether the best is certain among the claims of its family (Holm)."""

    measure: Measure
    rows: Sequence[Row]
    ranking: Ranking
    marked: bool = False

    @property
    def best(self) -> list[Row]:
        return [self.rows[i] for i in self.ranking.best]


@dataclass(frozen=True, eq=False)
class Group:
    """Rows whose samples were measured alike, shown as one table. `protocol` is that of the first cell. ranked: whether they are
    compared by tests at a fixed level, which do not hold if the differences themselves stopped the seeds."""

    rows: list[Row]
    measures: list[Measure]
    protocol: dict[str, Any]
    ranked: bool = True

    @cached_property
    def headlines(self) -> list[Measure]:
        """The main measures or, if there are none, the first that has a better end."""
        ranked = [measure for measure in self.measures if measure.better is not None]
        return [measure for measure in ranked if measure.headline] or ranked[:1]

    @cached_property
    def standings(self) -> list[Standing]:
        """One standing for each measure with a better end, and for each way it was measured in the group.

        The main measures are one family of hypotheses, as in the sentences, so that both decide alike; the others are another.
        """
        found = []
        for measure in self.measures:
            if measure.better is None:
                continue
            rows = [row for row in self.rows if measure.name in row.values]
            for key in dict.fromkeys(row.protocol_key(measure) for row in rows):
                alike = [row for row in rows if row.protocol_key(measure) == key]
                if len(alike) > 1:
                    values = [row.values[measure.name] for row in alike]
                    order = ranking(values, measure.better == LOW, self.decimals(measure))
                    found.append(Standing(measure, alike, order))
        return [
            replace(one, marked=sure)
            for family in grouped(found, lambda one: one.measure in self.headlines).values()
            for one, sure in zip(family, holm([one.ranking.p for one in family]), strict=True)
        ]

    @cached_property
    def marked(self) -> set[tuple[int, str]]:
        """(row number, measure name) of everything marked as best."""
        known = self.standings if self.ranked else []
        return {(row.number, one.measure.name) for one in known if one.marked for row in one.best}

    def decimals(self, measure: Measure) -> int:
        """The decimals that show two significant digits of a typical error or, without errors, three of a small value."""
        values = [row.values[measure.name] for row in self.rows if measure.name in row.values]
        if values and all(one.mean.is_integer() for one in values):
            return 0
        known = sorted(one.error for one in values if one.error)
        sizes = sorted(abs(one.mean) for one in values if one.mean)
        size, digits = (known[len(known) // 2], 2) if known else (sizes[len(sizes) // 4] if sizes else 1.0, 3)
        return min(_MOST_DECIMALS, decimals_of(size, digits))

    @property
    def distance(self) -> Measure | None:
        """The first measure with a floor."""
        return next((measure for measure in self.measures if measure.floor_of), None)

    def fact(self, name: str | None) -> float | None:
        """A value that is the same for all rows, which share reference and number of samples; None if no score has it."""
        return next((cell.values[name] for row in self.rows for cell in row.done if name in cell.values), None)


@dataclass(frozen=True, eq=False)
class Table:
    """All groups, the largest first. axes: those that vary, without the seed. values: of each axis, as requested.
    seeds: as requested; empty if seed is not an axis. decision: of a sweep that decides."""

    axes: tuple[str, ...]
    values: Mapping[str, Sequence[str]]
    seeds: tuple[str, ...]
    groups: list[Group]
    decision: Standings | None = None

    @property
    def rows(self) -> list[Row]:
        return [row for group in self.groups for row in group.rows]

    @cached_property
    def names(self) -> dict[str, str]:
        """Axis -> its name in the report."""
        return short_names(self.axes)


def build_table(gathered: Gathered) -> Table:
    """The table: cells combined over seeds, rows with identical samples merged, and rows grouped by how they were measured."""
    axes = tuple(a for a in gathered.axes if a != SEED and len({cell.choices.get(a) for cell in gathered.cells}) > 1)
    order, names = [[None, *gathered.axes[axis]] for axis in axes], list(short_names(axes).values())

    def command_order(row: Row) -> list[int]:
        return [values.index(value) for values, value in zip(order, row.choice, strict=True)]

    def choice_of(cell: Cell) -> Choice:
        return tuple(cell.choices.get(axis) for axis in axes)

    finished = grouped(gathered.done, lambda cell: (samples_key(cell.protocol), choice_of(cell)))
    waiting = grouped((cell for cell in gathered.cells if not cell.done), choice_of)
    by_protocol: dict[str, list[Row]] = {}
    for number, ((how, choice), cells) in enumerate(finished.items()):
        by_protocol.setdefault(how, []).append(Row(number, names, choice, (*cells, *waiting.pop(choice, []))))
    largest_first = sorted(by_protocol.values(), key=len, reverse=True)
    ranked, seeds = gathered.decision is None, tuple(gathered.axes.get(SEED, ()))
    groups = [_group(_joined(sorted(rows, key=command_order)), ranked) for rows in largest_first]
    return Table(axes, {axis: gathered.axes[axis] for axis in axes}, seeds, groups, gathered.decision)


def _joined(rows: Iterable[Row]) -> list[Row]:
    """Rows with identical samples merged into one."""
    found: dict[object, Row] = {}
    for row in rows:
        first = found.setdefault(row.samples_drawn, row)
        if first is not row:
            cells, others = (*first.cells, *row.cells), (*first.others, row.choice)
            found[row.samples_drawn] = replace(first, cells=cells, others=others)
    return list(found.values())


def measured(name: str, cells: Mapping[str, Sequence[Cell]]) -> Measured:
    """A value with its sources of uncertainty. cells: by seed; several cells of a seed are averaged.

    Cells of one seed share noise and images, so their blocks are averaged too. Where each seed has samples of its own, the spread
    over seeds contains the error of samples, and their blocks are left out.
    """
    sources: dict[str, dict[str, list[float]]] = {}
    noise = [some[0].noise for some in cells.values()]
    redrawn = SAMPLES if len(set(noise)) == len(noise) > 1 else None
    for seed, some in cells.items():
        each = [cell.sources.get(name, {}) for cell in some]
        sources[seed] = {
            source: [fmean(column) for column in zip(*(one[source] for one in each), strict=True)]
            for source, blocks in each[0].items()
            if source != redrawn and all(len(one.get(source, ())) == len(blocks) for one in each)
        }
    return Measured(
        {seed: fmean(cell.values[name] for cell in some) for seed, some in cells.items()},
        sources,
        {seed: " ".join(cell.model.path.name for cell in some) for seed, some in cells.items()},
    )


def _group(rows: list[Row], ranked: bool) -> Group:
    measures = merged(cell.measures for row in rows for cell in row.done)
    there = {name for row in rows for cell in row.done for name in cell.values}
    return Group(rows, [m for m in measures if m.column and m.name in there], rows[0].done[0].protocol, ranked)
