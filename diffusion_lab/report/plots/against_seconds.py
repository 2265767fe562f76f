"""Distances against the seconds that sampling takes, and the front of the rows that none beats in both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from diffusion_lab.report.lines import by_look, floor_level, plot_of, series_of
from diffusion_lab.report.panels import FRONT, SECONDS_LABEL, TIME, Panel, Plot
from diffusion_lab.report.table import Group, Row, Table
from diffusion_lab.report.wording import columns, label
from diffusion_lab.store.measures import LOW, SECONDS, Measure


def plots(table: Table, group: Group) -> list[Plot]:
    """One for each distance, a panel for the rows that were measured alike, seconds too."""
    distances = [measure for measure in group.measures if measure.better is not None and measure.floor_of is not None]
    return [plot for measure in distances if (plot := _plot(table, group, measure)) is not None]


def pareto(rows: Iterable[Row], measure: Measure) -> list[Row]:
    """Rows that no other row beats in seconds and in the measure at once, by rising seconds."""
    sign = 1 if measure.better == LOW else -1
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.values[SECONDS].mean, sign * row.values[measure.name].mean)):
        if not front or sign * row.values[measure.name].mean < sign * front[-1].values[measure.name].mean:
            front.append(row)
    return front


def _plot(table: Table, group: Group, measure: Measure) -> Plot | None:
    rows = [row for row in group.rows if measure.name in row.values and SECONDS in row.values]
    both = [column for column in columns(group) if column.measure.name in (measure.name, SECONDS)]
    alike: dict[tuple[str, ...], list[Row]] = {}
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
    return plot_of("seconds", TIME, measure, SECONDS_LABEL, panels, note, log_y=True, paper=True)
