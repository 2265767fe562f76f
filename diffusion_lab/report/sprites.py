"""samples.png of a run -> a small lossless picture for the page, one sample beside the next.

The scored picture enlarges small images and puts a frame around each (pictures.grid); the page enlarges for itself, so both
are undone, and a report on hundreds of runs stays small.
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

from diffusion_lab.store.records import RunError, inside, read_bytes

# As pictures.grid draws: the smallest longer side of an image on the screen, and the frame around it; a test compares the two.
_SMALLEST_SIDE, _FRAME = 48, 2
_MOST_BYTES = 16 * 2**20  # of all pictures of a report together
_LARGEST = 2**26  # bytes of a file
_MOST_PIXELS = 2**26  # of one picture


@dataclass(frozen=True)
class Sprite:
    """src: a data URI. columns × rows samples of width × height pixels each; 1 × 1 where it is one picture of all samples."""

    src: str
    columns: int
    rows: int
    width: int
    height: int


def sprites(pictures: Sequence[tuple[Path, Sequence[int]]]) -> list[Sprite | None]:
    """One for each (samples.png, shape of a sample); None where the file is missing or broken. When there are so many that
    they would not fit, each shows its first rows of samples only."""
    rows: int | None = None
    made: list[Sprite | None] = []
    for path, shape in pictures:
        try:
            # No other format: for some of them Pillow starts programs.
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
        ):  # as Pillow meets damaged files
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
