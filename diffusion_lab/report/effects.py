"""The axes of a group of rows: their values, and the difference that each makes, averaged over the settings of the others."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from diffusion_lab.report.choices import natural, reads_as_number
from diffusion_lab.report.comparison import Measured, same
from diffusion_lab.report.table import Cell, Group, Table, measured
from diffusion_lab.store.measures import Measure


@dataclass(frozen=True)
class Effect:
    """The effect of one axis, averaged over the others: from sets of cells that were measured alike and differ only in that axis.

    values: of the axis, in order. means: one per value, by seed. left_out: values without such a set. settings: the number of
    those of the others, and `averaged`: those that vary. unchanged: further settings, in which all values give equal numbers
    because the axis is not used there, which say nothing about it and are not averaged over; 0 if it is so in all settings.
    """

    values: list[str | None]
    means: list[Measured]
    left_out: list[str | None]
    settings: int
    averaged: list[str]
    unchanged: int

    def in_order(self) -> tuple[list[str | None], list[Measured]]:
        """The values with their means: numbers in increasing order, else as requested."""
        pairs = list(zip(self.values, self.means, strict=True))
        if all(value is None or reads_as_number(value) for value in self.values):
            pairs.sort(key=lambda pair: natural(pair[0] or "-inf"))
        return [value for value, _ in pairs], [mean for _, mean in pairs]


def effect_of(table: Table, group: Group, measure: Measure, axis: str) -> Effect | None:
    """The effect of `axis` on a measure; None if no two cells measured alike differ only in `axis`."""
    # (all else, seed) -> value of the axis -> cell
    sets: dict[tuple[tuple[object, ...], str], dict[str | None, Cell]] = {}
    other_axes = [other for other in table.axes if other != axis]
    for cell in (cell for row in group.rows for cell in row.done if measure.name in cell.values):
        others = (*(cell.choices.get(other) for other in other_axes), measure.protocol_key(cell.protocol))
        sets.setdefault((others, cell.seed), {})[cell.choices.get(axis)] = cell
    order = [value for value in (None, *table.values[axis]) if any(value in one for one in sets.values())]
    kept = _values_together(order, sets.values())
    if len(kept) < 2:
        return None
    whole: dict[tuple[object, ...], dict[str, list[Cell]]] = {}  # all else -> seed -> cells, one per value
    for (setting, seed), one in sets.items():
        if one.keys() >= {*kept}:
            whole.setdefault(setting, {})[seed] = [one[value] for value in kept]

    def means(settings: Collection[dict[str, list[Cell]]]) -> list[Measured]:
        seeds = dict.fromkeys(seed for by_seed in settings for seed in by_seed)
        return [
            measured(
                measure.name, {seed: [by_seed[seed][i] for by_seed in settings if seed in by_seed] for seed in seeds}
            )
            for i in range(len(kept))
        ]

    def changed(by_seed: dict[str, list[Cell]]) -> bool:
        first, *rest = means([by_seed])
        return not all(same(first, one) for one in rest)

    settings = [by_seed for by_seed in whole.values() if changed(by_seed)] or [*whole.values()]
    return Effect(
        kept,
        means(settings),
        [value for value in order if value not in kept],
        len(settings),
        [other for i, other in enumerate(other_axes) if len({each[i] for each in whole}) > 1],
        len(whole) - len(settings),
    )


def _values_together(order: Sequence[str | None], sets: Collection[dict[str | None, Cell]]) -> list[str | None]:
    """The two or more values whose complete sets contain the most cells; of equals, the most values."""
    candidates = {tuple(value for value in order if value in one) for one in sets}
    return max(
        (list(values) for values in candidates if len(values) > 1),
        key=lambda values: (sum(one.keys() >= {*values} for one in sets) * len(values), len(values)),
        default=[],
    )


def values_of(table: Table, group: Group, axis: str) -> list[str | None]:
    """The values of an axis in the group, in the order of the command."""
    place, order = table.axes.index(axis), [None, *table.values[axis]]
    rows = sorted(group.rows, key=lambda row: order.index(row.choice[place]))
    return list(dict.fromkeys(row.names[place] for row in rows))


def sets_steps(table: Table, group: Group, axis: str) -> bool:
    """Whether a numeric axis counts steps of a chain, each with one network evaluation, or two with guidance."""
    place = table.axes.index(axis)
    if not all(value is None or reads_as_number(value) for value in values_of(table, group, axis)):
        return False
    rows = [row for row in group.rows if row.choice[place] and "nfe" in row.values]
    counts = [(float(row.choice[place] or 0), row.values["nfe"].mean) for row in rows]
    return len({nfe for _, nfe in counts}) > 1 and all(steps <= nfe <= 2 * steps for steps, nfe in counts)
