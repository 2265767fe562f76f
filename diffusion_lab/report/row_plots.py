"""Rows as plots: the effect of each axis, and the distance against seconds; and how rows are shared out among panels and lines.

Of the axes, one becomes the colour, one the line and marker, the others a small panel each, if they tell more than those before
them; the axis that sets the number of sampling steps is the abscissa.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from diffusion_lab.report.effects import effects
from diffusion_lab.report.layout import columns, label
from diffusion_lab.report.panels import (
    COLOUR,
    EFFECTS,
    FRONT,
    LINE,
    SECONDS_LABEL,
    TIME,
    Panel,
    Plot,
    Series,
)
from diffusion_lab.report.table import Choice, Group, Row, Table
from diffusion_lab.store.measures import LOW, SECONDS, Measure
from diffusion_lab.store.options import short_names

_MOST_PANELS = 6


@dataclass(frozen=True)
class Look:
    """Which axis of a group plays which part."""

    colour: str | None
    line: str | None
    panels: tuple[str, ...]


def row_plots(table: Table, group: Group) -> list[Plot]:
    """Every plot of a group that has something to show."""
    ranked = [measure for measure in group.measures if measure.better is not None]
    distances = [measure for measure in ranked if measure.floor_of is not None]
    drawn = [
        *(_effects(table, group, measure) for measure in ranked),
        *(_against_seconds(table, group, measure) for measure in distances),
    ]
    return [plot for plot in drawn if plot is not None]


def look(table: Table, group: Group) -> Look:
    """The axes of the group that differ, shared out. Not the one that sets the steps, nor those that follow from the others."""
    axes = [a for i, a in enumerate(table.axes) if len({row.choice[i] for row in group.rows}) > 1]
    axes = [axis for axis in axes if not sets_steps(table, group, axis)]
    colour = COLOUR if COLOUR in axes else next((axis for axis in axes if axis != LINE), None)
    line = LINE if LINE in axes else next((axis for axis in axes if axis != colour), None)
    shown = [axis for axis in (colour, line) if axis is not None]
    for axis in axes:
        if len(_combinations(table, group, [*shown, axis])) > len(_combinations(table, group, shown)):
            shown.append(axis)
    return Look(colour, line, tuple(axis for axis in shown if axis not in (colour, line)))


def _combinations(table: Table, group: Group, axes: Iterable[str]) -> set[Choice]:
    """The different values that these axes have together in the rows of the group."""
    places = [table.axes.index(axis) for axis in axes]
    return {tuple(row.choice[place] for place in places) for row in group.rows}


def values_of(table: Table, group: Group, axis: str | None) -> list[str | None]:
    """The values that an axis has in the group, in the order of the command."""
    if axis is None:
        return [None]
    place = table.axes.index(axis)
    there = {row.choice[place] for row in group.rows}
    return [value for value in (None, *table.values[axis]) if value in there]


def sets_steps(table: Table, group: Group, axis: str) -> bool:
    """A numeric axis that counts a chain's steps, of which each takes one network evaluation or, guided, two."""
    place = table.axes.index(axis)
    if not all(value is None or reads_as_number(value) for value in values_of(table, group, axis)):
        return False
    rows = [row for row in group.rows if row.choice[place] is not None and "nfe" in row.values]
    counts = [(float(row.choice[place]), row.values["nfe"].mean) for row in rows]
    return len({nfe for _, nfe in counts}) > 1 and all(steps <= nfe <= 2 * steps for steps, nfe in counts)


def in_panels(table: Table, group: Group, rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    """(title, rows) of each panel."""
    axes = look(table, group).panels
    places, names = [table.axes.index(axis) for axis in axes], short_names(table.axes)
    parts: dict[Choice, list[Row]] = {}
    for row in rows:
        parts.setdefault(tuple(row.choice[place] for place in places), []).append(row)
    return [
        (", ".join(f"{names[axis]} {value}" for axis, value in zip(axes, values, strict=True) if value), part)
        for values, part in list(parts.items())[:_MOST_PANELS]
    ]


def in_lines(table: Table, group: Group, rows: Iterable[Row]) -> list[tuple[str, int, int, list[Row]]]:
    """(name, colour, line, rows) of each colour and line, in the order of the axes' values."""
    shown = look(table, group)
    colours, lines = values_of(table, group, shown.colour), values_of(table, group, shown.line)
    parts: dict[tuple[int, int], list[Row]] = {}
    for row in rows:
        chosen = dict(zip(table.axes, row.choice, strict=True))
        place = colours.index(chosen.get(shown.colour)), lines.index(chosen.get(shown.line))
        parts.setdefault(place, []).append(row)
    return [
        (" · ".join(filter(None, (colours[colour], lines[line]))), colour, line, part)
        for (colour, line), part in sorted(parts.items())
    ]


def by_look(table: Table, group: Group, rows: Sequence[Row], measure: Measure, x: str) -> list[Series]:
    """One series for each colour and line."""
    return [
        series_of(sorted(part, key=lambda row: row.values[x].mean), measure, x, name, colour, line)
        for name, colour, line, part in in_lines(table, group, rows)
    ]


def series_of(rows: Sequence[Row], measure: Measure, x: str, name: str, colour: int = 0, line: int = 0) -> Series:
    """The rows' means of a measure and its errors, at the value named x, in the order they come in."""
    return Series(
        name or "all",
        [row.values[x].mean for row in rows],
        [row.values[measure.name].mean for row in rows],
        [row.values[measure.name].error for row in rows],
        colour,
        line,
        [row.number for row in rows],
    )


def floor_level(group: Group, measure: Measure) -> list[tuple[str, float]]:
    """The value of real images, as a line across a plot; none where it is not known."""
    floor = group.floor(measure)
    return [] if floor is None else [("real images", floor)]


def _effects(table: Table, group: Group, measure: Measure) -> Plot | None:
    """The mean of each value of each axis over everything that the others were combined with."""
    names = short_names(table.axes)
    panels, left_out = [], []
    for colour, axis in enumerate(table.axes):
        effect = effects(table, group, measure, axis)
        if effect is None:
            continue
        left_out += [f"{names[axis]} {value or 'none'}" for value in effect.left_out]
        x = list(range(len(effect.values)))
        dots = Series(
            "cells",
            [float(i) for block in effect.blocks for i in x],
            [value for block in effect.blocks for value in block],
            dots=True,
            faint=True,
            colour=colour,
        )
        mean = Series(names[axis], list(map(float, x)), effect.means, effect.errors, colour=colour)
        panels.append(Panel(names[axis], [dots, mean], categories=[value or "none" for value in effect.values]))
    if not panels:
        return None
    note = (
        "Averaged over cells (faint) that were measured alike and differ only in this axis: "
        "all its values have the same other choices."
    )
    if left_out:
        note += f" Left out, because there are no such cells: {', '.join(left_out)}."
    return Plot(
        key=f"effects_{measure.name}",
        heading=EFFECTS,
        name=measure.label,
        x_label="",
        y_label=f"{measure.axis}, {measure.better} is better",
        panels=panels,
        log_y=spans_decades(panels),
        paper=measure.headline,
        note=note,
    )


def _against_seconds(table: Table, group: Group, measure: Measure) -> Plot | None:
    """Every row, and the front of those that none beats in both: a panel for the rows that were measured alike, seconds too."""
    rows = [row for row in group.rows if measure.name in row.values and SECONDS in row.values]
    both = [column for column in columns(group) if column.measure.name in (measure.name, SECONDS)]
    alike: dict[Choice, list[Row]] = {}
    for row in rows:
        alike.setdefault(tuple(row.protocol_key(column.measure) for column in both), []).append(row)
    panels, fronts = [], []
    for keys, part in alike.items():
        if len(part) < 2:
            continue
        best = pareto(part, measure)
        points = [replace(series, dots=True) for series in by_look(table, group, part, measure, SECONDS)]
        front = replace(series_of(best, measure, SECONDS, "Pareto front", FRONT), error=[])
        how = [column.notes[column.letters[key]] for key, column in zip(keys, both, strict=True) if column.letters]
        panels.append(Panel("; ".join(how), [front, *points], levels=floor_level(group, measure)))
        fronts.append("; ".join(map(label, best)))
    if not panels:
        return None
    alone = [label(part[0]) for part in alike.values() if len(part) == 1]
    note = f"The Pareto front holds the rows that no other row beats in both: {' / '.join(fronts)}."
    if alone:
        note += f" Left out, because no other row was measured alike: {'; '.join(alone)}."
    return Plot(
        key=f"seconds_{measure.name}",
        heading=TIME,
        name=measure.label,
        x_label=SECONDS_LABEL,
        y_label=f"{measure.axis}, {measure.better} is better",
        panels=panels,
        log_x=True,
        log_y=True,
        note=note,
    )


def pareto(rows: Iterable[Row], measure: Measure) -> list[Row]:
    """Rows that no other row beats in seconds and in the measure at once, by rising seconds."""
    sign = 1 if measure.better == LOW else -1
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.values[SECONDS].mean, sign * row.values[measure.name].mean)):
        if not front or sign * row.values[measure.name].mean < sign * front[-1].values[measure.name].mean:
            front.append(row)
    return front


def spans_decades(panels: Iterable[Panel]) -> bool:
    """Whether a logarithmic axis shows more."""
    values = [y for panel in panels for series in panel.series for y in series.y]
    return bool(values) and min(values) > 0 and max(values) > 8 * min(values)


def reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
