"""The bound against the number of steps, a plot for each spacing, where one score holds them all."""

from __future__ import annotations

from diffusion_lab.report.lines import in_lines, in_panels, spans_decades
from diffusion_lab.report.panels import LIKELIHOOD, Panel, Plot, Series
from diffusion_lab.report.table import Group, Row, Table

_CURVE, _COUNTS = "bits_by_steps", "num_steps"


def plots(table: Table, group: Group) -> list[Plot]:
    """Bits/dim by number of steps, a line for each row; seeds are averaged."""
    rows = [row for row in group.rows if any(cell.curves.get(_CURVE, {}).get(_COUNTS) for cell in row.done)]
    names = dict.fromkeys(name for row in rows for cell in row.done for name in cell.curves.get(_CURVE, {}))
    return [_plot(table, group, rows, spacing) for spacing in names if spacing != _COUNTS]


def _plot(table: Table, group: Group, rows: list[Row], spacing: str) -> Plot:
    panels = []
    for title, part in in_panels(table, group, rows):
        lines = [
            _line(row, spacing, name, colour, line)
            for name, colour, line, same in in_lines(table, group, part)
            for row in same
        ]
        panels.append(Panel(title, [line for line in lines if line.x]))
    return Plot(
        key=f"{_CURVE}_{spacing}",
        heading=LIKELIHOOD,
        name=f"bits/dim, {spacing.replace('_', ' ')} spacing",
        x_label="ancestral steps",
        y_label="bits/dim, lower is better",
        panels=panels,
        log_x=True,
        log_y=spans_decades(panels),
        note="The bound of ancestral steps on held-out images, without guidance; all chains share their noise.",
    )


def _line(row: Row, spacing: str, name: str, colour: int, line: int) -> Series:
    counts = dict.fromkeys(int(count) for cell in row.done for count in cell.curves.get(_CURVE, {}).get(_COUNTS, []))
    found = [(count, value) for count in counts if (value := row.values.get(f"bits_{spacing}_{count}")) is not None]
    return Series(
        name or "all",
        [float(count) for count, _ in found],
        [value.mean for _, value in found],
        [value.error for _, value in found],
        colour,
        line,
        [row.number] * len(found),
    )
