"""Trade-offs: precision against recall, one line along the values of a knob such as the scale of guidance."""

from __future__ import annotations

from dataclasses import replace

from diffusion_lab.report.lines import by_choice, by_look, ordinate, reads_as_number, series_of, sets_steps, values_of
from diffusion_lab.report.panels import TRADE, Panel, Plot, Series
from diffusion_lab.report.table import Group, Row, Table
from diffusion_lab.store.measures import Measure
from diffusion_lab.store.options import short_names

_PRECISION, _RECALL = "precision", "recall"
_BEST = "Towards the upper right corner samples are both as real and as diverse as the data."


def plots(table: Table, group: Group) -> list[Plot]:
    """Precision against recall where both were measured of several rows; none otherwise.

    Rows that differ in the knob alone are one line, and each of its points says the knob's value. Without a knob rows are dots.
    """
    said = {measure.name: measure for measure in group.measures}
    rows = [row for row in group.rows if _PRECISION in row.values and _RECALL in row.values]
    if len(rows) < 2 or not {_PRECISION, _RECALL} <= said.keys():
        return []
    knob = _knob(table, group)
    if knob is None:
        series = [replace(one, dots=True) for one in by_look(table, group, rows, said[_PRECISION], _RECALL)]
        note = _BEST
    else:
        series = _lines(table, rows, knob, said[_PRECISION])
        note = f"Numbers are the values of {short_names(table.axes)[knob]}. {_BEST}"
    return [
        Plot(
            key="precision_recall",
            heading=TRADE,
            name=_PRECISION,
            x_label=ordinate(said[_RECALL]),
            y_label=ordinate(said[_PRECISION]),
            panels=[Panel("", series)],
            note=note,
        )
    ]


def _knob(table: Table, group: Group) -> str | None:
    """The first axis of numbers that differ and are not of steps, which the plots against steps show."""
    for axis in table.axes:
        values = [value for value in values_of(table, group, axis) if value is not None]
        if len(values) > 1 and all(map(reads_as_number, values)) and not sets_steps(table, group, axis):
            return axis
    return None


def _lines(table: Table, rows: list[Row], knob: str, precision: Measure) -> list[Series]:
    place = table.axes.index(knob)
    parts = by_choice(table, rows, [axis for axis in table.axes if axis != knob])
    differ = [i for i, values in enumerate(zip(*parts, strict=True)) if len(set(values)) > 1]
    lines = []
    for number, (choice, part) in enumerate(parts.items()):
        part.sort(key=lambda row: float(row.choice[place] or "-inf"))
        name = " · ".join(choice[i] or "none" for i in differ)
        line = series_of(part, precision, _RECALL, name, number, number)
        lines.append(replace(line, labels=[row.choice[place] or "none" for row in part]))
    return lines
