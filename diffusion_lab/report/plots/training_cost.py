"""Quality against what training cost: a line for every choice, through the moments and the budgets that it was scored at."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from diffusion_lab.report.crossings import Cost, in_sentences, races, ranked_measures
from diffusion_lab.report.lines import floor_level, plot_of, series_of
from diffusion_lab.report.panels import MINUTES_LABEL, TRAINING_COST, Panel, Plot
from diffusion_lab.report.table import Choice, Group, Row, Table
from diffusion_lab.store.measures import Measure
from diffusion_lab.store.weights import is_snapshot

COST = "training time"
_MINUTES = Cost("training_seconds", "minutes", per_unit=60.0)
_WEIGHTS = "evaluation.weights"
_BUDGETS = ("trainer.max_steps", "trainer.max_time", "default_steps")  # axes of how long training takes
_MOST_SENTENCES = 12
_BETWEEN = "Between two points, curves are interpolated linearly, as drawn."
_BEFORE_THE_END = (
    "Points before the end are measured during one training: if its learning rate falls until the end, a training of only that "
    "length would have scored better."
)


def plots(table: Table, group: Group) -> list[Plot]:
    """A plot for every measure of which some line has two points or more."""
    found = []
    for measure in ranked_measures(group):
        lines = _lines(table, group, measure)
        if all(len({row.values[_MINUTES.name].mean for row in rows}) < 2 for rows in lines.values()):
            continue
        series = [
            series_of(rows, measure, _MINUTES.name, name, number, number, _MINUTES.per_unit)
            for number, (name, rows) in enumerate(lines.items())
        ]
        panels = [Panel("", series, levels=floor_level(group, measure))]
        has_snapshots = any("moment" in cell.protocol for rows in lines.values() for row in rows for cell in row.done)
        note = [f"{said[0].upper()}{said[1:]}." for said, _ in sentences(table, group, measure)]
        note += [_BETWEEN] if note else []
        note += [_BEFORE_THE_END] if has_snapshots else []
        found.append(plot_of("training_cost", TRAINING_COST, measure, MINUTES_LABEL, panels, " ".join(note)))
    return found


def sentences(table: Table, group: Group, measure: Measure) -> list[tuple[str, bool]]:
    """(sentence, whether it is certain): which line is better, and from when, of those measured alike with the same seeds."""
    lines = {name: rows for name, rows in _lines(table, group, measure).items() if len(rows) > 1}
    compared = [
        ((first, second), found)
        for (first, some), (second, others) in combinations(lines.items(), 2)
        if (found := races(some, others, measure, _MINUTES))
    ]
    return in_sentences(compared, _MINUTES, len(ranked_measures(group)))[:_MOST_SENTENCES]


def _lines(table: Table, group: Group, measure: Measure) -> dict[str, list[Row]]:
    """Name -> rows by rising cost. Rows are of one line when nothing sets them apart but how long they were trained.

    The moments of a training are a line that ends with its finished model; the finished models of trainings of several lengths
    are another. Several finished models of one training (its averages) are lines of their own.
    """
    alike: dict[Choice, dict[Choice, list[Row]]] = {}  # by all choices but the length, then by the length
    all_but_length = [axis for axis in table.axes if axis not in _BUDGETS]
    for row in group.rows:
        if measure.name in row.values and _MINUTES.name in row.values:
            trainings = alike.setdefault(_without(table, row.choice, (*_BUDGETS, _WEIGHTS)), {})
            trainings.setdefault(_without(table, row.choice, all_but_length), []).append(row)
    lines: dict[Choice, list[Row]] = {}
    for choice, trainings in alike.items():
        for length, rows in trainings.items():
            weights = [dict(zip(table.axes, row.choice, strict=True)).get(_WEIGHTS) or "" for row in rows]
            snapshots = [row for row, name in zip(rows, weights, strict=True) if is_snapshot(name)]
            finals = [row for row in rows if row not in snapshots]
            of_training = choice if len(trainings) == 1 else tuple(a or b for a, b in zip(choice, length, strict=True))
            if snapshots:
                lines[of_training] = [*snapshots, *(finals if len(finals) == 1 else [])]
            if not snapshots or len(trainings) > 1 or len(finals) > 1:
                for row in finals:
                    own = choice if len(finals) == 1 else _without(table, row.choice, _BUDGETS)
                    lines.setdefault(own, []).append(row)
    return {
        name: sorted(rows, key=lambda row: row.values[_MINUTES.name].mean)
        for name, rows in zip(_names(list(lines)), lines.values(), strict=True)
    }


def _names(choices: Sequence[Choice]) -> list[str]:
    """The choices in which lines differ. What a line does not have is left out where the names stay different, and so is a
    True or False, which tells a reader nothing, where it follows from another choice."""
    columns = list(zip(*choices, strict=True))
    places = [i for i, values in enumerate(columns) if len(set(values)) > 1]
    distinguishing = [i for i in places if not set(columns[i]) <= {"True", "False"}]

    def follows(i: int) -> bool:
        return any(len(set(zip(columns[j], columns[i], strict=True))) == len(set(columns[j])) for j in distinguishing)

    places = [i for i in places if i in distinguishing or not follows(i)]
    short = [
        " · ".join(value for i in places if (value := choice[i])) or ("none" if places else "all") for choice in choices
    ]
    if len(set(short)) == len(choices):
        return short
    return [" · ".join(choice[i] or "none" for i in places) for choice in choices]


def _without(table: Table, choice: Choice, axes: Sequence[str]) -> Choice:
    return tuple(None if axis in axes else value for axis, value in zip(table.axes, choice, strict=True))
