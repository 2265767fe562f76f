"""What one axis does, the others averaged: over sets of cells that were measured alike and differ in that axis alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from diffusion_lab.report.compare import Measured
from diffusion_lab.report.table import Group, Table
from diffusion_lab.store.measures import Measure


@dataclass(frozen=True)
class Effect:
    """values: of the axis, in order; means and errors of each (over seeds; None with one seed). blocks: for each set of cells that
    differ in the axis alone, its numbers by value. left_out: values that share no such set with the others."""

    values: list[str | None]
    means: list[float]
    errors: list[float | None]
    blocks: list[list[float]]
    left_out: list[str | None]


def effects(table: Table, group: Group, measure: Measure, axis: str) -> Effect | None:
    """None where no two cells that were measured alike differ in `axis` alone, or the values do not differ in it."""
    cells = [
        {
            **dict(zip(table.axes, row.choice, strict=True)),
            "_seed": seed,
            "_key": measure.protocol_key(cell.protocol),
            "_y": cell.values[measure.name],
        }
        for row in group.rows
        for seed, cell in row.cells_with(measure.name).items()
    ]
    if not cells or len({cell[axis] for cell in cells}) < 2:
        return None
    frame = pd.DataFrame(cells).fillna("").astype(dict.fromkeys(table.axes, str))
    others = [other for other in table.axes if other != axis]
    wide = frame.pivot_table(index=[*others, "_seed", "_key"], columns=axis, values="_y", sort=False)
    there = set(frame[axis])
    order = [value for value in ("", *table.values[axis]) if value in there]
    kept = _values_together(wide[order])
    if len(kept) < 2:
        return None
    blocks = wide[kept].dropna()
    by_seed = blocks.groupby(level="_seed").mean()
    means = [Measured({str(seed): mean for seed, mean in by_seed[value].items()}, {}) for value in kept]
    return Effect(
        [value or None for value in kept],
        [mean.mean for mean in means],
        [mean.error for mean in means],
        blocks.groupby(level=[*others, "_key"], sort=False).mean().to_numpy().tolist()
        if others
        else blocks.to_numpy().tolist(),
        [value or None for value in order if value not in kept],
    )


def _values_together(wide: pd.DataFrame) -> Sequence[str]:
    """The columns, two or more, whose complete lines hold the most cells; more columns first where that is equal."""
    patterns = {tuple(line) for line in wide.notna().to_numpy()}
    candidates = [[c for c, there in zip(wide.columns, pattern, strict=True) if there] for pattern in patterns]
    candidates = [columns for columns in candidates if len(columns) > 1]
    return max(candidates, key=lambda columns: (len(wide[columns].dropna()) * len(columns), len(columns)), default=[])
