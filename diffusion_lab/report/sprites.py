"""Small lossless pictures of samples for the page, made from samples.png with one sample beside the next.

samples.png enlarges small images and puts a frame around each (pictures.picture). The page enlarges images itself, so both are
undone, which keeps reports on hundreds of runs small.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from diffusion_lab.report.numbers import Column, Entry, columns, label
from diffusion_lab.report.table import Cell, Group, Row, Table
from diffusion_lab.store.measures import Measure, ends
from diffusion_lab.store.option_names import grouped
from diffusion_lab.store.records import RunError, inside, read_bytes

# As in pictures.picture for grey levels: the smallest longer side of an image on the screen, and the frame around it. A test
# compares them.
_SMALLEST_SIDE, _FRAME = 48, 2
_MOST_BYTES = 16 * 2**20  # of all pictures of a report
_LARGEST = 2**26  # bytes of a file
_MOST_PIXELS = 2**26  # of one picture
_MOST_NEAREST = 24  # pictures of nearest images


@dataclass(frozen=True)
class Sprite:
    """src: a data URI. columns × rows: samples, each width × height pixels; 1 × 1 for one picture of all samples."""

    src: str
    columns: int
    rows: int
    width: int
    height: int


def sprites(pictures: Sequence[tuple[Path, Sequence[int]]]) -> list[Sprite | None]:
    """One picture per (samples.png, shape of a sample); None if the file is missing or damaged. If there are too many for
    _MOST_BYTES, each shows only its first rows of samples."""
    rows: int | None = None
    made: list[Sprite | None] = []
    for path, shape in pictures:
        try:
            # No other format, because Pillow starts programs for some of them.
            content = io.BytesIO(read_bytes(inside(path.parent, path), _LARGEST))
            with Image.open(content, formats=("PNG",)) as image:
                if image.width * image.height > _MOST_PIXELS:
                    raise ValueError("a decompression bomb")
                pixels = np.asarray(image.convert("RGB"))
        except (
            OSError,
            RunError,
            ValueError,
            SyntaxError,
            Image.DecompressionBombError,
        ):  # Pillow's errors for damaged files
            made.append(None)
            continue
        sprite = _sprite(pixels, shape, rows)
        if rows is None and sprite.rows > 1:
            rows = max(1, min(sprite.rows, int(_MOST_BYTES / len(pictures) / (len(sprite.src) / sprite.rows))))
            sprite = _sprite(pixels, shape, rows)
        made.append(sprite)
    return made


def _sprite(pixels: np.ndarray, shape: Sequence[int], most_rows: int | None) -> Sprite:
    """pixels uint8 (H, W, 3)."""
    height, width = pixels.shape[:2]
    if len(shape) != 3:
        return Sprite(_uri(pixels), 1, 1, width, height)
    _, tile_height, tile_width = shape
    scale = max(1, math.ceil(_SMALLEST_SIDE / max(tile_height, tile_width)))
    rows, more_y = divmod(height - _FRAME, tile_height * scale + _FRAME)
    columns, more_x = divmod(width - _FRAME, tile_width * scale + _FRAME)
    if more_x or more_y or rows < 1 or columns < 1:
        return Sprite(_uri(pixels), 1, 1, width, height)
    rows = min(rows, most_rows or rows)
    y = _FRAME + np.add.outer(np.arange(rows) * (tile_height * scale + _FRAME), np.arange(tile_height) * scale)
    x = _FRAME + np.add.outer(np.arange(columns) * (tile_width * scale + _FRAME), np.arange(tile_width) * scale)
    return Sprite(_uri(pixels[np.ix_(y.ravel(), x.ravel())]), columns, rows, tile_width, tile_height)


def _uri(pixels: np.ndarray) -> str:
    grey = bool((pixels == pixels[..., :1]).all())
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if grey else pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@dataclass(frozen=True)
class NearestImages:
    """Nearest training images of one row, for its first seed. said: how often samples are copies."""

    label: str
    said: list[str]
    sprite: Sprite


def nearest_images(table: Table) -> list[NearestImages]:
    """One per row whose first seed has a nearest.png, at most _MOST_NEAREST."""
    rows = [(group, row) for group in table.groups for row in group.rows if row.done[0].run.nearest_png.is_file()]
    rows = rows[:_MOST_NEAREST]
    pictures = sprites([(row.done[0].run.nearest_png, row.done[0].shape) for _, row in rows])
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


@dataclass(frozen=True)
class Contender:
    """One model family. facts: (name, written value, meaning). cell: the one whose pictures are shown."""

    family: str
    label: str
    facts: list[tuple[str, Entry, str]]
    cell: Cell


def contenders(table: Table) -> list[Contender]:
    """The families in the largest group of rows, in order of appearance; empty for fewer than two.

    A family is represented by its row with the smallest distance, or by its first row if no distance was measured.
    """
    if not table.groups:
        return []
    group = table.groups[0]
    drawn = [row for row in group.rows if row.done[0].given is None]
    by_family = grouped(drawn, lambda row: str(row.done[0].part("model").get("family", "unknown")))
    if len(by_family) < 2:
        return []
    shown = columns(group)
    best = {family: min(rows, key=lambda row: _distance(group, row)) for family, rows in by_family.items()}
    return [Contender(family, label(row), _facts(row, shown), row.done[0]) for family, row in best.items()]


def _distance(group: Group, row: Row) -> float:
    measure = group.distance
    return row.values[measure.name].mean if measure and measure.name in row.values else float("inf")


def _facts(row: Row, shown: list[Column]) -> list[tuple[str, Entry, str]]:
    facts = []
    for column in shown:
        entry, meaning = column.entry(row, set()), column.measure.meaning
        if column.measure.name == "bits_per_dim":
            kinds = (cell.bound_kind for cell in row.cells_with("bits_per_dim").values())
            meaning = next(kinds, None) or entry.why
        facts.append((column.measure.label, entry, meaning))
    for name, what, scale, unit in (
        ("training_seconds", "s to train", 1, ""),
        ("training_images", "images seen", 1e-3, " k"),
        ("parameters", "parameters", 1e-6, " M"),
    ):
        if name in row.values:
            facts.append((what, Entry(f"{row.values[name].mean * scale:.3g}{unit}"), "of the model that is shown"))
    return facts
