"""Real-valued arrays read on demand, and the results of one pass over them: hash, moments and missing values."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from diffusion_lab.conditions.units import Units
from diffusion_lab.data.array_files import Stored, one_sentence

_AT_ONCE = 2**24  # bytes of a block of the pass
_DIGITS = 12  # significant digits of shift and scale, because the last ones differ between machines


@dataclass(frozen=True)
class Rows:
    """Rows (n, C, *spatial) of a stored array.

    axis: of its channels; None without one. places: indices of the selected rows; None: all. units: removed from the values; None:
    values are as stored.
    """

    stored: Stored
    axis: int | None
    places: np.ndarray | None = None
    units: Units | None = None

    def __len__(self) -> int:
        return self.stored.shape[0] if self.places is None else len(self.places)

    @property
    def shape(self) -> tuple[int, ...]:
        sides = list(self.stored.shape[1:])
        channels = 1 if self.axis is None else sides.pop(self.axis - 1)
        return (len(self), channels, *sides)

    def only(self, places: Tensor) -> Rows:
        """These rows of the stored array, indices int64 (n,)."""
        return replace(self, places=places.numpy())

    def __getitem__(self, indices: Tensor) -> Tensor:
        """(B, C, *spatial): float32, normalised in float64; float64 without units."""
        wanted = indices.numpy() if self.places is None else self.places[indices.numpy()]
        ascending, back = np.unique(wanted, return_inverse=True)
        together = ascending[-1] - ascending[0] + 1 == len(ascending)
        which = slice(ascending[0], ascending[-1] + 1) if together else ascending
        x = torch.from_numpy(self.read(which)[back].astype(np.float64))
        return x if self.units is None else self.units.normalised(x)

    def read(self, which: slice | np.ndarray) -> np.ndarray:
        """Rows of the stored array, unchanged except that channels come first."""
        with one_sentence(self.stored.where, "array"):  # the file may have changed, or be gone, since it was opened
            rows = self.stored.rows(which)
        return rows[:, None] if self.axis is None else np.moveaxis(rows, self.axis, 1)


@dataclass(frozen=True)
class Summary:
    """The results of one pass over a stored array.

    sha256: of its content. missing: bool (N,), the rows with missing values; num_missing, num_infinite: the number of such values.
    mean, std: float64 (C,), of the fitted rows. like_levels: an expression that turns the first rows into whole levels; None if
    they are not scaled levels. low, high: the smallest and largest of whole numbers.
    """

    sha256: str
    missing: Tensor
    num_missing: int
    num_infinite: int
    mean: np.ndarray
    std: np.ndarray
    like_levels: str | None
    low: int
    high: int


def summary(rows: Rows, fitted: Tensor | None) -> Summary:
    """Statistics of all rows of the stored array, in one pass. fitted: bool (N,), rows used for moments; None: no moments.

    Blocks' moments are combined as in Chan et al. (1979), in float64: no cancellation if the mean is far from 0.
    """
    shape = rows.shape
    content = hashlib.sha256(f"{rows.stored.shape} {rows.axis} {rows.stored.dtype.str[1:]};".encode())
    missing, num_missing, num_infinite, like_levels = [], 0, 0, None
    count, mean, squares = (np.zeros(shape[1]) for _ in range(3))
    low = high = 0
    for number, (block, part) in enumerate(_blocks(rows)):
        content.update(np.ascontiguousarray(block, block.dtype.newbyteorder("<")).data)
        lost = np.isnan(block)
        missing.append(lost.reshape(len(block), -1).any(1))
        num_missing, num_infinite = num_missing + int(lost.sum()), num_infinite + int(np.isinf(block).sum())
        if number == 0:
            like_levels = _like_levels(block[~lost].astype(np.float64))
        if block.dtype.kind != "f":
            low, high = min(low, int(block.min())), max(high, int(block.max()))
        if fitted is None or num_infinite:
            continue
        chosen = fitted[part].numpy()
        x = block[chosen].astype(np.float64).reshape(-1, shape[1], math.prod(shape[2:]))
        known = ~lost[chosen].reshape(x.shape)
        x = np.where(known, x, 0)
        n = known.sum((0, 2)).astype(float)
        here = x.sum((0, 2)) / np.maximum(n, 1)
        apart = np.where(known, x - here[:, None], 0)
        total = np.maximum(count + n, 1)
        with np.errstate(over="ignore", invalid="ignore"):
            squares += (apart**2).sum((0, 2)) + (here - mean) ** 2 * count * n / total
        mean += (here - mean) * n / total
        count += n
    std = np.sqrt(squares / np.maximum(count, 1))
    lost_rows = torch.from_numpy(np.concatenate(missing))
    return Summary(content.hexdigest(), lost_rows, num_missing, num_infinite, mean, std, like_levels, low, high)


def _blocks(rows: Rows) -> Iterator[tuple[np.ndarray, slice]]:
    size = rows.stored.shape[0]
    row = rows.stored.dtype.itemsize * int(np.prod(rows.shape[1:], dtype=object))
    step = max(1, _AT_ONCE // max(row, 1))
    for first in range(0, size, step):
        part = slice(first, min(first + step, size))
        yield rows.read(part), part


def fitted_units(found: Summary, names: list[str] | None) -> Units:
    """Mean 0 and standard deviation 1 in every channel; constant channels are only shifted."""
    shift, std = ([float(f"{value:.{_DIGITS}g}") for value in part] for part in (found.mean, found.std))
    return Units(shift, [value if value > 0 else 1.0 for value in std], names)


def _like_levels(x: np.ndarray) -> str | None:
    """An expression that saves x as levels, if its values are 256 levels scaled to 0 … 1, to −1 … 1 or not at all; else None."""
    if not len(x) or not np.isfinite(x).all():
        return None
    low, high = x.min(), x.max()
    forms = (
        (0, 1, 255 * x, "(255 * x).round().astype(np.uint8)"),
        (-1, 1, 127.5 * (x + 1), "(127.5 * (x + 1)).round().astype(np.uint8)"),
        (0, 255, x, "x.astype(np.uint8)"),
    )
    for least, most, levels, conversion in forms:
        if least <= low < high <= most and np.abs(levels - levels.round()).max() < 1e-3:
            return conversion
    return None
