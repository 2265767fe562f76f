"""How the rows of a group are shared out among the panels and lines of a plot.

Of the axes, one becomes the colour, one the line and marker, the others a small panel each, if they tell more than those before
them; the axis that sets the number of sampling steps is the abscissa.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from diffusion_lab.report.panels import COLOUR, LINE, Panel, Plot, Series
from diffusion_lab.report.table import Choice, Group, Row, Table
from diffusion_lab.store.measures import Measure
from diffusion_lab.store.options import short_names

_MOST_PANELS = 6


def look(table: Table, group: Group) -> tuple[str | None, str | None, list[str]]:
    """The axes of colours, lines and panels. Not the one that sets the steps, nor those that follow from the others."""
    axes = [
        axis for axis in table.axes if len(values_of(table, group, axis)) > 1 and not sets_steps(table, group, axis)
    ]
    colour = COLOUR if COLOUR in axes else next((axis for axis in axes if axis != LINE), None)
    line = LINE if LINE in axes else next((axis for axis in axes if axis != colour), None)
    shown = [axis for axis in (colour, line) if axis is not None]
    for axis in axes:
        if len(by_choice(table, group.rows, [*shown, axis])) > len(by_choice(table, group.rows, shown)):
            shown.append(axis)
    return colour, line, [axis for axis in shown if axis not in (colour, line)]


def by_choice(table: Table, rows: Iterable[Row], axes: Iterable[str]) -> dict[Choice, list[Row]]:
    """Rows by their values on these axes."""
    places = [table.axes.index(axis) for axis in axes]
    parts: dict[Choice, list[Row]] = {}
    for row in rows:
        parts.setdefault(tuple(row.choice[place] for place in places), []).append(row)
    return parts


def values_of(table: Table, group: Group, axis: str) -> list[str | None]:
    """The values that an axis has in the group, in the order of the command."""
    there = {row.choice[table.axes.index(axis)] for row in group.rows}
    return [value for value in (None, *table.values[axis]) if value in there]


def sets_steps(table: Table, group: Group, axis: str) -> bool:
    """A numeric axis that counts a chain's steps, of which each takes one network evaluation or, guided, two."""
    place = table.axes.index(axis)
    if not all(value is None or reads_as_number(value) for value in values_of(table, group, axis)):
        return False
    counts = [
        (float(n), row.values["nfe"].mean) for row in group.rows if (n := row.choice[place]) and "nfe" in row.values
    ]
    return len({nfe for _, nfe in counts}) > 1 and all(steps <= nfe <= 2 * steps for steps, nfe in counts)


def in_panels(table: Table, group: Group, rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    """(title, rows) of each panel."""
    _, _, axes = look(table, group)
    names = short_names(table.axes)
    return [
        (", ".join(f"{names[axis]} {value}" for axis, value in zip(axes, values, strict=True) if value), part)
        for values, part in list(by_choice(table, rows, axes).items())[:_MOST_PANELS]
    ]


def in_lines(table: Table, group: Group, rows: Iterable[Row]) -> list[tuple[str, int, int, list[Row]]]:
    """(name, colour, line, rows) of each colour and line, in the order of the axes' values."""
    of_colour, of_line, _ = look(table, group)
    axes = [axis for axis in (of_colour, of_line) if axis is not None]
    parts = []
    for chosen, part in by_choice(table, rows, axes).items():
        place = {axis: values_of(table, group, axis).index(value) for axis, value in zip(axes, chosen, strict=True)}
        colour, line = (0 if axis is None else place[axis] for axis in (of_colour, of_line))
        parts.append((" · ".join(filter(None, chosen)), colour, line, part))
    return sorted(parts, key=lambda part: part[1:3])


def by_look(table: Table, group: Group, rows: Sequence[Row], measure: Measure, x: str) -> list[Series]:
    """One series for each colour and line."""
    return [
        series_of(sorted(part, key=lambda row: row.values[x].mean), measure, x, name, colour, line)
        for name, colour, line, part in in_lines(table, group, rows)
    ]


def series_of(
    rows: Sequence[Row], measure: Measure, x: str, name: str, colour: int = 0, line: int = 0, per_unit: float = 1.0
) -> Series:
    """The rows' means of a measure and its errors, at the value named x in its unit, in the order they come in."""
    return Series(
        name or "all",
        [row.values[x].mean / per_unit for row in rows],
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


def plot_of(
    kind: str,
    heading: str,
    measure: Measure,
    x_label: str,
    panels: list[Panel],
    note: str,
    log_x: bool = True,
    log_y: bool | None = None,
    paper: bool | None = None,
) -> Plot:
    """A plot of one measure. log_y, paper: by default what the measure and its values suggest."""
    logs = (measure.logs or spans_decades(panels)) if log_y is None else log_y
    on_paper = measure.headline if paper is None else paper
    key, y_label = f"{kind}_{measure.name}", ordinate(measure)
    return Plot(key, heading, measure.label, x_label, y_label, panels, log_x, logs, note, on_paper)


def ordinate(measure: Measure) -> str:
    """The label of the axis along which a measure is drawn."""
    return f"{measure.axis}, {measure.better} is better"


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
