"""What one axis does, the others averaged: over sets of cells that were measured alike and differ in that axis alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import fmean

from diffusion_lab.report.comparison import Measured
from diffusion_lab.report.lines import plot_of, spans_decades
from diffusion_lab.report.panels import EFFECTS, Panel, Plot, Series
from diffusion_lab.report.table import Group, Table
from diffusion_lab.store.measures import Measure
from diffusion_lab.store.options import short_names

_NOTE = (
    "Averaged over cells (faint) that were measured alike and differ only in this axis: "
    "all its values have the same other choices."
)


@dataclass(frozen=True)
class Effect:
    """values: of the axis, in order; means and errors of each (over seeds; None with one seed). blocks: for each set of cells that
    differ in the axis alone, its numbers by value. left_out: values that share no such set with the others."""

    values: list[str | None]
    means: list[float]
    errors: list[float | None]
    blocks: list[list[float]]
    left_out: list[str | None]


def plots(table: Table, group: Group) -> list[Plot]:
    """One for each measure with a better end, a panel for each axis."""
    ranked = [measure for measure in group.measures if measure.better is not None]
    return [plot for measure in ranked if (plot := _plot(table, group, measure)) is not None]


def effects(table: Table, group: Group, measure: Measure, axis: str) -> Effect | None:
    """None where no two cells that were measured alike differ in `axis` alone, or the values do not differ in it."""
    place = table.axes.index(axis)
    sets: dict[tuple[object, str], dict[str | None, float]] = {}  # (all else, seed) -> value of the axis -> number
    for row in group.rows:
        for seed, cell in row.cells_with(measure.name).items():
            others = (*row.choice[:place], *row.choice[place + 1 :], measure.protocol_key(cell.protocol))
            sets.setdefault((others, seed), {})[row.choice[place]] = cell.values[measure.name]
    order = [value for value in (None, *table.values[axis]) if any(value in one for one in sets.values())]
    kept = _values_together(order, sets.values())
    if len(kept) < 2:
        return None
    whole = {key: [one[value] for value in kept] for key, one in sets.items() if one.keys() >= {*kept}}
    by_seed = {seed: _means([numbers for (_, other), numbers in whole.items() if other == seed]) for _, seed in whole}
    means = [Measured({seed: numbers[i] for seed, numbers in by_seed.items()}, {}) for i in range(len(kept))]
    alike = {others: [numbers for (key, _), numbers in whole.items() if key == others] for others, _ in whole}
    return Effect(
        kept,
        [mean.mean for mean in means],
        [mean.error for mean in means],
        [_means(numbers) for numbers in alike.values()] if len(table.axes) > 1 else list(whole.values()),
        [value for value in order if value not in kept],
    )


def _means(lines: Sequence[Sequence[float]]) -> list[float]:
    return [fmean(column) for column in zip(*lines, strict=True)]


def _values_together(order: Sequence[str | None], sets: Collection[dict[str | None, float]]) -> list[str | None]:
    """The values, two or more, of which whole sets hold the most cells; more values first where that is equal."""
    candidates = {tuple(value for value in order if value in one) for one in sets}
    return max(
        (list(values) for values in candidates if len(values) > 1),
        key=lambda values: (sum(one.keys() >= {*values} for one in sets) * len(values), len(values)),
        default=[],
    )


def _plot(table: Table, group: Group, measure: Measure) -> Plot | None:
    names = short_names(table.axes)
    panels, left_out = [], []
    for colour, axis in enumerate(table.axes):
        effect = effects(table, group, measure, axis)
        if effect is None:
            continue
        left_out += [f"{names[axis]} {value or 'none'}" for value in effect.left_out]
        x = [float(i) for i in range(len(effect.values))]
        each = [(i, value) for block in effect.blocks for i, value in zip(x, block, strict=True)]
        dots = Series("cells", [i for i, _ in each], [y for _, y in each], dots=True, faint=True, colour=colour)
        mean = Series(names[axis], x, effect.means, effect.errors, colour=colour)
        panels.append(Panel(names[axis], [dots, mean], categories=[value or "none" for value in effect.values]))
    if not panels:
        return None
    note = _NOTE + (f" Left out, because there are no such cells: {', '.join(left_out)}." if left_out else "")
    return plot_of("effects", EFFECTS, measure, "", panels, note, log_x=False, log_y=spans_decades(panels))
