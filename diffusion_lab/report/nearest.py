"""Which training images are nearest to the samples of each row?"""

from __future__ import annotations

from dataclasses import dataclass

from diffusion_lab.report.cells import Cell
from diffusion_lab.report.layout import label
from diffusion_lab.report.sprites import Sprite, sprites
from diffusion_lab.report.table import Table
from diffusion_lab.store.measures import Measure, ends

_MOST = 24  # pictures on the page


@dataclass(frozen=True)
class NearestImages:
    """The nearest training images of one row, of its first seed. said: how often that copies."""

    label: str
    said: list[str]
    sprite: Sprite


def nearest_images(table: Table) -> list[NearestImages]:
    """One for each row whose first seed has a nearest.png, and no more than _MOST."""
    rows = [(group, row) for group in table.groups for row in group.rows if row.done[0].run.nearest_png.is_file()]
    rows = rows[:_MOST]
    pictures = sprites([(row.done[0].run.nearest_png, row.done[0].protocol["data"]["shape"]) for _, row in rows])
    found = []
    for (group, row), sprite in zip(rows, pictures, strict=True):
        said = [_value_with_interval(measure, row.done[0]) for measure in group.measures if "copying" in measure.agrees]
        if sprite is not None:
            found.append(NearestImages(label(row), list(filter(None, said)), sprite))
    return found


def _value_with_interval(measure: Measure, cell: Cell) -> str:
    """A value with its interval."""
    numbers = [cell.values.get(name) for name in (measure.name, *ends(measure.name))]
    if None in numbers:
        return ""
    value, low, high = (f"{number:.3f}" for number in numbers)
    return f"{measure.label} {value} [{low}, {high}]"
