"""The plots of a group of rows.

One axis sets the colour, one the line and marker, the others one small panel per value, unless they follow from these; the axis
that sets the number of sampling steps is the abscissa.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from diffusion_lab.report.choices import reads_as_number, with_axis
from diffusion_lab.report.comparison import within_seeds
from diffusion_lab.report.curves import SAMPLING, TRAINING, Cost, ranked_measures, rows_along, sentences, training_lines
from diffusion_lab.report.effects import effect_of, sets_steps, values_of
from diffusion_lab.report.findings import comparisons
from diffusion_lab.report.numbers import columns, label
from diffusion_lab.report.panels import (
    COLOUR,
    EFFECTS,
    FRONT,
    LIKELIHOOD,
    LINE,
    MINUTES_LABEL,
    SAMPLES,
    SECONDS_LABEL,
    STEPS_LABEL,
    TIME,
    TRADE,
    TRAINING_COST,
    Panel,
    Plot,
    Series,
)
from diffusion_lab.report.table import Choice, Group, Row, Table
from diffusion_lab.store.measures import LOW, SECONDS, Measure
from diffusion_lab.store.option_names import grouped

_MOST_PANELS = 6
_BITS, _COUNTS = "bits_by_steps", "num_steps"  # the curve of a score
_THIN_AND_BOLD, _BARS = "Thin: single seeds. Bold: mean.", " Error bars: 95 %, within seeds."
_NOT_CORRECTED = (
    " They are not corrected for the number of comparisons, so where a difference is undecided they may not overlap."
)
_AVERAGED = " Averaged over cells that were measured alike and differ only in this axis."
_BETWEEN = "Between two points, curves are interpolated linearly, as drawn."
_BEFORE_THE_END = (
    "Points before the end are measured during one training: if its learning rate falls until the end, a training of only that "
    "length would have scored better."
)
_BEST_CORNER = "Towards the upper right corner samples are both as real and as diverse as the data."


def plots_of(table: Table, group: Group) -> list[Plot]:
    """Every plot of a group that has data, in the order of the page."""
    kinds = (against_training, against_sampling, effects, against_seconds, bounds_by_steps, trade_off)
    return [plot for kind in kinds for plot in kind(table, group)]


def against_training(table: Table, group: Group) -> Iterator[Plot]:
    """Each measure against minutes of training, if a line has two points or more; one line per choice."""
    for measure in ranked_measures(group):
        lines = training_lines(table, group, measure)
        if all(len({row.values[TRAINING.name].mean for row in rows}) < 2 for rows in lines.values()):
            continue
        series = [_series(rows, measure, TRAINING, name, i, i) for i, (name, rows) in enumerate(lines.items())]
        panels = [Panel("", series, levels=_floor(group, measure))]
        said = [f"{text[0].upper()}{text[1:]}." for text in sentences(table, group, measure, TRAINING)]
        has_snapshots = any("moment" in cell.protocol for rows in lines.values() for row in rows for cell in row.done)
        note = " ".join([*said, *([_BETWEEN] if said else []), *([_BEFORE_THE_END] if has_snapshots else [])])
        yield _plot("training_cost", TRAINING_COST, measure, MINUTES_LABEL, panels, note)


def against_sampling(table: Table, group: Group) -> Iterator[Plot]:
    """Each measure against network evaluations, if a line has two points or more."""
    for measure in ranked_measures(group):
        rows = rows_along(group, measure, SAMPLING)
        panels = [
            Panel(title, _by_look(table, group, part, measure, SAMPLING), levels=_floor(group, measure))
            for title, part in _in_panels(table, group, rows)
        ]
        if all(len(set(line.x)) < 2 for panel in panels for line in panel.series):
            continue
        bound = "bound" in measure.agrees
        kinds = dict.fromkeys(cell.bound_kind for row in rows for cell in row.cells_with(measure.name).values())
        note = [f"Each point is the {' or the '.join(filter(None, kinds))}."] if bound else []
        crossings = sentences(table, group, measure, SAMPLING)
        note += [f"Where the order changes: {'; '.join(crossings)}."] if crossings else []
        yield _plot("steps", LIKELIHOOD if bound else SAMPLES, measure, STEPS_LABEL, panels, " ".join(note))


def effects(table: Table, group: Group) -> Iterator[Plot]:
    """Each measure by the values of an axis, averaged over the other axes: seeds, and means with their intervals `within_seeds`,
    which do not hold if the differences stopped the seeds."""
    note = _THIN_AND_BOLD + (_BARS + _NOT_CORRECTED if group.ranked else "") + _AVERAGED
    verdicts = {(one.what, one.measure.name): one.verdict for one in comparisons(table, group)}
    for measure in (measure for measure in group.measures if measure.better is not None):
        panels = []
        for colour, axis in enumerate(table.axes):
            effect = effect_of(table, group, measure, axis)
            if effect is None:
                continue
            values, effects_by_value = effect.in_order()
            x = [float(i) for i in range(len(values))]
            each = {seed: [one.by_seed[seed] for one in effects_by_value] for seed in effects_by_value[0].by_seed}
            seeds = [
                Series(f"seed {seed}", x, y, faint=True, colour=colour) for seed, y in each.items() if len(each) > 1
            ]
            means = [one.mean for one in effects_by_value]
            margins = within_seeds([*each.values()]) if group.ranked else []
            mean = Series(table.names[axis], x, means, margins, colour=colour)
            categories = [value or "none" for value in values]
            name = table.names[axis]
            panels.append(Panel(name, [*seeds, mean], categories, verdict=verdicts.get((name, measure.name), "")))
        if panels:
            plot = _plot("effects", EFFECTS, measure, "", panels, note)
            yield replace(plot, log_x=False, log_y=_spans_decades(panels))


def poster(table: Table, group: Group) -> Iterator[Plot]:
    """The effect of every axis on each main measure, with the conclusion as its title and real images as a line."""
    shown = {measure.label: measure for measure in group.headlines}
    titles = {(one.what, one.measure.name): one.title for one in comparisons(table, group)}
    for plot in effects(table, group):
        if (measure := shown.get(plot.name)) is not None:
            panels = [
                replace(
                    panel,
                    title=titles.get((panel.title, measure.name), panel.title),
                    verdict="",
                    levels=_floor(group, measure),
                )
                for panel in plot.panels
            ]
            meaning = f"{measure.meaning[:1].upper()}{measure.meaning[1:]}. " if measure.meaning else ""
            end = "closer" if measure.floor_of else "better"
            y_label = f"{measure.axis}, {measure.better} is {end}"
            yield replace(
                plot,
                key=measure.name,
                y_label=y_label,
                panels=panels,
                note=f"{meaning}{_THIN_AND_BOLD}{_BARS if group.ranked else ''}",
            )


def against_seconds(table: Table, group: Group) -> Iterator[Plot]:
    """Each distance against seconds of sampling, with the Pareto front, if rows differ in their arithmetic; one panel per way of
    measuring."""
    if not any(_differ(group, name) for name in ("nfe", "parameters", "flops_per_sample")):
        return
    seconds = Cost("", SECONDS, "seconds")
    for measure in group.measures:
        if measure.better is None or measure.floor_of is None:
            continue
        both = [column for column in columns(group) if column.measure.name in (measure.name, SECONDS)]
        alike: dict[tuple[str, ...], list[Row]] = {}
        for row in rows_along(group, measure, seconds):
            alike.setdefault(tuple(row.protocol_key(column.measure) for column in both), []).append(row)
        panels, fronts = [], []
        for keys, part in alike.items():
            if len(part) < 2:
                continue
            best = pareto(part, measure)
            points = [replace(one, dots=True) for one in _by_look(table, group, part, measure, seconds)]
            front = replace(_series(best, measure, seconds, "Pareto front", FRONT), error=[])
            how = [column.notes[column.letters[key]] for key, column in zip(keys, both, strict=True) if column.letters]
            panels.append(Panel("; ".join(how), [front, *points], levels=_floor(group, measure)))
            fronts.append("; ".join(map(label, best)))
        if not panels:
            continue
        alone = [label(part[0]) for part in alike.values() if len(part) == 1]
        note = f"The Pareto front holds the rows that no other row beats in both: {' / '.join(fronts)}."
        note += f" Left out, because no other row was measured alike: {'; '.join(alone)}." if alone else ""
        yield replace(_plot("seconds", TIME, measure, SECONDS_LABEL, panels, note), log_y=True, paper=True)


def _differ(group: Group, name: str) -> bool:
    return len({row.values[name].mean for row in group.rows if name in row.values}) > 1


def pareto(rows: Iterable[Row], measure: Measure) -> list[Row]:
    """The Pareto front of seconds and the measure, by increasing seconds."""
    sign = 1 if measure.better == LOW else -1
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.values[SECONDS].mean, sign * row.values[measure.name].mean)):
        if not front or sign * row.values[measure.name].mean < sign * front[-1].values[measure.name].mean:
            front.append(row)
    return front


def bounds_by_steps(table: Table, group: Group) -> Iterator[Plot]:
    """Bits/dim by number of steps, from scores that hold the whole curve: one plot per spacing, one line per row."""
    rows = [row for row in group.rows if any(cell.curves.get(_BITS, {}).get(_COUNTS) for cell in row.done)]
    spacings = dict.fromkeys(name for row in rows for cell in row.done for name in cell.curves.get(_BITS, {}))
    for spacing in (name for name in spacings if name != _COUNTS):
        measured, panels = [row for row in rows if any(f"bits_{spacing}_" in name for name in row.values)], []
        for title, part in _in_panels(table, group, measured):
            lines = _in_lines(table, group, part)
            each = [
                _bits_by_steps(row, spacing, name, colour, line) for name, colour, line, same in lines for row in same
            ]
            panels.append(Panel(title, each))
        yield Plot(
            key=f"{_BITS}_{spacing}",
            heading=LIKELIHOOD,
            name=f"bits/dim, {spacing.replace('_', ' ')} spacing",
            x_label="ancestral steps",
            y_label="bits/dim, lower is better",
            panels=panels,
            log_x=True,
            log_y=_spans_decades(panels),
            note="The bound of ancestral steps on held-out images, without guidance; all chains share their noise.",
        )


def _bits_by_steps(row: Row, spacing: str, name: str, colour: int, line: int) -> Series:
    steps = dict.fromkeys(int(n) for cell in row.done for n in cell.curves.get(_BITS, {}).get(_COUNTS, []))
    found = {n: row.values[key] for n in steps if (key := f"bits_{spacing}_{n}") in row.values}
    means, errors = [one.mean for one in found.values()], [one.error for one in found.values()]
    return Series(name or "all", list(map(float, found)), means, errors, colour, line, [row.number] * len(found))


def trade_off(table: Table, group: Group) -> Iterator[Plot]:
    """Precision against recall along a numeric option, such as the scale of guidance: lines labelled with its values."""
    measures, knob = {measure.name: measure for measure in group.measures}, _knob(table, group)
    if knob is None or not measures.keys() >= {"precision", "recall"}:
        return
    precision, recall = measures["precision"], measures["recall"]
    along = Cost("", recall.name, "")
    place, others, series = table.axes.index(knob), [axis for axis in table.axes if axis != knob], []
    parts = _by_choice(table, rows_along(group, precision, along), others)
    differ = [i for i, values in enumerate(zip(*parts, strict=True)) if len(set(values)) > 1]
    for number, (choice, part) in enumerate(parts.items()):
        part.sort(key=lambda row: float(row.choice[place] or "-inf"))
        name = " · ".join(with_axis(table.names[others[i]], choice[i] or "none") for i in differ)
        points = _series(part, precision, along, name, number, number)
        series.append(replace(points, labels=[row.names[place] or "none" for row in part]))
    if all(len(line.x) < 2 for line in series):
        return
    yield Plot(
        key="precision_recall",
        heading=TRADE,
        name=precision.name,
        x_label=_ordinate(recall),
        y_label=_ordinate(precision),
        panels=[Panel("", series)],
        note=f"Numbers are the values of {table.names[knob]}. {_BEST_CORNER}",
    )


def _knob(table: Table, group: Group) -> str | None:
    """The first numeric axis that varies and does not set steps, which the plots against steps show."""
    for axis in table.axes:
        values = [row.choice[table.axes.index(axis)] for row in group.rows]
        numbers = {value for value in values if value is not None}
        if len(numbers) > 1 and all(map(reads_as_number, numbers)) and not sets_steps(table, group, axis):
            return axis
    return None


# ---- panels and lines


def _look(table: Table, group: Group) -> tuple[str | None, str | None, list[str]]:
    """The axes of colours, lines and panels, without the axis of steps and without axes that follow from others."""
    axes = [
        axis for axis in table.axes if len(values_of(table, group, axis)) > 1 and not sets_steps(table, group, axis)
    ]
    colour = COLOUR if COLOUR in axes else next((axis for axis in axes if axis != LINE), None)
    line = LINE if LINE in axes else next((axis for axis in axes if axis != colour), None)
    shown = [axis for axis in (colour, line) if axis is not None]
    for axis in axes:
        if len(_by_choice(table, group.rows, [*shown, axis])) > len(_by_choice(table, group.rows, shown)):
            shown.append(axis)
    return colour, line, [axis for axis in shown if axis not in (colour, line)]


def _in_panels(table: Table, group: Group, rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    """(title, rows) for each panel."""
    _, _, axes = _look(table, group)
    return [
        (", ".join(f"{table.names[axis]} {value}" for axis, value in zip(axes, values, strict=True) if value), part)
        for values, part in list(_by_choice(table, rows, axes).items())[:_MOST_PANELS]
    ]


def _in_lines(table: Table, group: Group, rows: Iterable[Row]) -> list[tuple[str, int, int, list[Row]]]:
    """(name, colour, line, rows) for each colour and line, in the order of the axes' values."""
    of_colour, of_line, _ = _look(table, group)
    axes = [axis for axis in (of_colour, of_line) if axis is not None]
    parts = []
    for chosen, part in _by_choice(table, rows, axes).items():
        place = {axis: values_of(table, group, axis).index(value) for axis, value in zip(axes, chosen, strict=True)}
        colour, line = (0 if axis is None else place[axis] for axis in (of_colour, of_line))
        named = (with_axis(table.names[axis], value) for axis, value in zip(axes, chosen, strict=True) if value)
        parts.append((" · ".join(named), colour, line, part))
    return sorted(parts, key=lambda part: part[1:3])


def _by_look(table: Table, group: Group, rows: Sequence[Row], measure: Measure, cost: Cost) -> list[Series]:
    """One series per colour and line."""
    return [
        _series(sorted(part, key=lambda row: row.values[cost.name].mean), measure, cost, name, colour, line)
        for name, colour, line, part in _in_lines(table, group, rows)
    ]


def _series(rows: Sequence[Row], measure: Measure, cost: Cost, name: str, colour: int = 0, line: int = 0) -> Series:
    """The rows' means and errors of a measure against a cost, in the given order."""
    return Series(
        name or "all",
        [row.values[cost.name].mean / cost.per_unit for row in rows],
        [row.values[measure.name].mean for row in rows],
        [row.values[measure.name].error for row in rows],
        colour,
        line,
        [row.number for row in rows],
    )


def _floor(group: Group, measure: Measure) -> list[tuple[str, float]]:
    """The value of real images as a horizontal line; none if it is not known."""
    floor = group.fact(measure.floor_of)
    return [] if floor is None else [("real images", floor)]


def _plot(kind: str, heading: str, measure: Measure, x_label: str, panels: list[Panel], note: str) -> Plot:
    """A plot of one measure, with a logarithmic abscissa."""
    logs = measure.logs or _spans_decades(panels)
    key, y_label = f"{kind}_{measure.name}", _ordinate(measure)
    return Plot(key, heading, measure.label, x_label, y_label, panels, True, logs, note, measure.headline)


def _ordinate(measure: Measure) -> str:
    """The axis label of a measure."""
    return f"{measure.axis}, {measure.better} is better"


def _spans_decades(panels: Iterable[Panel]) -> bool:
    """Whether a logarithmic axis is the better choice."""
    values = [y for panel in panels for series in panel.series for y in series.y]
    return bool(values) and min(values) > 0 and max(values) > 8 * min(values)


def _by_choice(table: Table, rows: Iterable[Row], axes: Iterable[str]) -> dict[Choice, list[Row]]:
    """Rows by their names on these axes."""
    places = [table.axes.index(axis) for axis in axes]
    return grouped(rows, lambda row: tuple(row.names[place] for place in places))
