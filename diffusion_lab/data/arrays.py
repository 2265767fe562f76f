"""Your own images as arrays: .npy or .npz files, with any number of channels, any height and width, up to 65,536 levels.

The files may be anybody's: nothing is unpickled, nothing is unpacked to the disk, and the size in the header of an array is checked
before memory is allocated.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from diffusion_lab.data.checks import DataError, at_least, check_fraction, one_of, require
from diffusion_lab.data.in_memory import InMemoryDataModule, Split
from diffusion_lab.diffusion.levels import MOST_LEVELS
from diffusion_lab.store.records import printable

MOST_BYTES = 2**33
MOST_CLASSES = 2**20  # a label beyond is none: a model has a row of weights for each class
LAYOUTS = (None, "nhwc", "nchw")
_KNOWN = {"arr_0": "arr_1", "images": "labels", "x": "y"}  # names of images in an npz, and of their labels


class Arrays(InMemoryDataModule):
    """Images (N, H, W), (N, H, W, C) or (N, C, H, W) of whole levels, and, where there are classes, labels (N,).

    train_vectors, train_fields: what condition=vector and condition=field take, (N, D) and (N, C, *spatial). train, test,
    train_labels, test_labels and those: FILE.npy, FILE.npz or FILE.npz:NAME, below `root`. test=None: a fixed random share of
    `test_fraction` is held out. layout: of four dimensions, nhwc or nchw; None: nhwc, unless that looks wrong, which is refused.
    num_levels: None: 256 for uint8, 65,536 for uint16, 2 for bool. max_bytes: what an array may unfold to.
    """

    name = "arrays"

    def __init__(
        self,
        batch_size: int,
        seed: int,
        train: str,
        test: str | None = None,
        train_labels: str | None = None,
        test_labels: str | None = None,
        train_vectors: str | None = None,
        test_vectors: str | None = None,
        train_fields: str | None = None,
        test_fields: str | None = None,
        root: str | None = None,
        layout: str | None = None,
        num_levels: int | None = None,
        test_fraction: float = 0.1,
        flip: bool = False,
        max_bytes: int = MOST_BYTES,
    ) -> None:
        super().__init__(batch_size, seed, flip)
        one_of(LAYOUTS, layout=layout)
        fits = num_levels is None or 2 <= num_levels <= MOST_LEVELS
        require(fits, f"data.num_levels={num_levels} must lie between 2 and {MOST_LEVELS}.")
        if test is None:
            check_fraction(test_fraction)
        at_least(1, max_bytes=max_bytes)
        self.train, self.test, self._labels = train, test, {"train": train_labels, "test": test_labels}
        vectors, fields = {"train": train_vectors, "test": test_vectors}, {"train": train_fields, "test": test_fields}
        self._beside = {"vector": vectors, "field": fields}
        self.root, self.layout = Path(root or "."), layout
        self.num_levels = self._chosen_levels = num_levels
        self.test_fraction, self.max_bytes = test_fraction, max_bytes

    def _read(self) -> tuple[Split, Split]:
        whole = self._split("train", self.train)
        train, test = whole.parted(self.test_fraction) if self.test is None else (whole, self._split("test", self.test))
        shapes = [tuple(split.values.shape[1:]) for split in (train, test)]
        said = f"data.test holds images {shapes[1]}, data.train {shapes[0]} (C, H, W): use the same shape and type."
        require(shapes[0] == shapes[1], said)
        for name in self._beside:
            said = f"give both data.train_{name}s and data.test_{name}s, of the same shape."
            require(
                len({tuple(s.beside[name].shape[1:]) if name in s.beside else None for s in (train, test)}) == 1, said
            )
        said = "give both data.train_labels and data.test_labels: one split has labels, the other has none."
        require((train.labels is None) == (test.labels is None), said)
        self.num_classes = train.num_classes
        if test.num_classes and train.num_classes and test.num_classes > train.num_classes:
            highest, most = test.num_classes - 1, train.num_classes - 1
            raise DataError(f"data.test_labels has the class {highest}, but data.train_labels ends at {most}.")
        return train, test

    def _split(self, split: str, file: str) -> Split:
        array, labels, where = self._array(split, file)
        values = as_levels(channels_first(array, self.layout, where), self._chosen_levels, where)
        require(len(values) > 1, f"{where} holds one image: at least two are needed.")
        self.num_levels = levels = levels_of(array.dtype, self._chosen_levels, self.num_levels, where)
        if split == "train":
            self.how_read = how_read(where, array.shape, array.dtype, values, levels)
        if own := self._labels[split]:
            labels, _, where = self._array(f"{split}_labels", own)
        beside = {
            name: self._lent(f"{split}_{name}s", files[split], len(values)) for name, files in self._beside.items()
        }
        found = {name: rows for name, rows in beside.items() if rows is not None}
        return Split(values, None if labels is None else as_labels(labels, len(values), where), found)

    def _lent(self, option: str, file: str | None, count: int) -> Tensor | None:
        """The vectors (N, D) or fields (N, C, *spatial) of a file, float32; bytes 0 … 255 become −1 … 1."""
        if file is None:
            return None
        array, _, where = self._array(option, file)
        least = 2 if option.endswith("vectors") else 3
        fits = (
            len(array) == count and (array.ndim == 2 if least == 2 else array.ndim > 2) and array.dtype.kind in "fiub"
        )
        need = "(N, D)" if least == 2 else "(N, C, *spatial)"
        require(fits, f"{where} is {array.dtype} {array.shape}: it must hold numbers {need} for {count} images.")
        rows = torch.from_numpy(array.astype(np.float32))
        require(rows.isfinite().all(), f"{where} holds values that are not finite: leave these images out.")
        return rows / 127.5 - 1 if array.dtype == np.uint8 else rows

    def _array(self, option: str, text: str) -> tuple[np.ndarray, np.ndarray | None, str]:
        """The array that an option names, the labels that an npz has beside it, and how messages name the array."""
        file, _, name = text.partition(".npz:")
        path = Path(self.root, f"{file}.npz" if name else file)
        where = f"data.{option}={path}"
        require(path.suffix in (".npy", ".npz"), f"{where}: give FILE.npy, FILE.npz or FILE.npz:NAME.")
        require(path.is_file(), f"{where}: there is no such file.")
        if path.suffix == ".npy":
            return read_npy(path, self.max_bytes), None, where
        with one_sentence(path, "npz of arrays"), zipfile.ZipFile(path) as archive:
            there = members(archive)
            wanted = name or next((known for known in _KNOWN if known in there), there[0] if len(there) == 1 else "")
            said = f"{where} holds {', '.join(there[:8]) or 'no arrays'}: choose one with {path.name}:NAME."
            require(wanted, said)
            beside = "" if name else _KNOWN.get(wanted, "")
            labels = read_array(path, archive, beside, self.max_bytes) if beside in there else None
            return read_array(path, archive, wanted, self.max_bytes), labels, where


def channels_first(array: np.ndarray, layout: str | None, where: str) -> np.ndarray:
    """(N, C, H, W), a view. DataError for another number of dimensions, no images, or a layout that is in doubt."""
    if array.ndim == 3:
        array = array[..., None]
    elif array.ndim == 4 and layout == "nchw":
        array = array.transpose(0, 2, 3, 1)
    elif array.ndim == 4 and layout is None and array.shape[1] <= 4 < array.shape[3]:
        raise DataError(f"{where} has the shape {array.shape}: set data.layout=nchw, or nhwc if channels come last.")
    fits = array.ndim == 4 and 0 not in array.shape
    require(fits, f"{where} has the shape {array.shape}: images must be (N, H, W), (N, H, W, C) or (N, C, H, W).")
    return array.transpose(0, 3, 1, 2)


def how_read(where: str, shape: Sequence[int], dtype: np.dtype, values: Tensor, levels: int) -> str:
    """One sentence on how an array was read, so that a user notices a wrong reading. values (N, C, H, W)."""
    count, channels, height, width = values.shape
    kind = "grey images" if channels == 1 else f"images of {channels} channels"
    size = f"{height} × {width} pixels (height × width), {levels:,} levels"
    return f"{where}: {dtype} {tuple(shape)} is read as {count:,} {kind}, {size}"


def levels_of(dtype: np.dtype, chosen: int | None, earlier: int | None, where: str) -> int:
    """How many levels there are: those that the user chose, or those of the type.

    DataError for a type that does not say, and where the split that was read earlier has another number.
    """
    levels = chosen or {"bool": 2, "uint8": 256, "uint16": 65536}.get(dtype.name)
    if levels is None:
        raise DataError(f"{where} is {dtype}: set data.num_levels=N, the number of its levels.")
    fix = "use the same type, or set data.num_levels"
    require(earlier in (None, levels), f"{where} has {levels} levels, the training images have {earlier}: {fix}.")
    return levels


def as_levels(array: np.ndarray, num_levels: int | None, where: str) -> Tensor:
    """Levels as uint8, or as uint16 where there are more than 256. DataError for floats, and for what lies beyond the levels."""
    if array.dtype.kind == "f":
        raise DataError(f"{where} is {array.dtype}, but levels are whole numbers from 0: save {_conversion(array)}.")
    num_levels = levels_of(array.dtype, num_levels, None, where)
    low, high = int(array.min()), int(array.max())
    require(
        0 <= low <= high < num_levels,
        f"{where} has values from {low} to {high}, but data.num_levels={num_levels} allows only 0 to {num_levels - 1}.",
    )
    return torch.from_numpy(np.ascontiguousarray(array, np.uint8 if num_levels <= 256 else np.uint16))


def as_labels(labels: np.ndarray, count: int, where: str) -> Tensor:
    """int64 (N,). DataError if they are not the class of each of `count` images."""
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    fits = labels.shape == (count,) and labels.dtype.kind in "biu"
    require(
        fits and 0 <= int(labels.min()) <= int(labels.max()) < MOST_CLASSES,
        f"The labels in {where} are {labels.dtype} of shape {labels.shape}: they must be whole numbers from 0 "
        f"to at most {MOST_CLASSES - 1:,}, of shape ({count},).",
    )
    return torch.from_numpy(labels.astype(np.int64))


def _conversion(x: np.ndarray) -> str:
    """How to turn floats into levels, by the range that they have."""
    low, high = float(x.min()), float(x.max())
    if low >= 0 and high <= 1:
        return "(255 * x).round().astype(np.uint8)"
    if low >= -1 and high <= 1:
        return "(127.5 * (x + 1)).round().astype(np.uint8)"
    if low >= 0 and high <= 255:
        return "x.round().astype(np.uint8)"
    return "them scaled to 0 … 255 as np.uint8, or to 0 … 65535 as np.uint16"


def read_npy(path: Path, most: int) -> np.ndarray:
    """The array of a .npy file. DataError if it holds objects, is cut short, or has more than `most` bytes."""
    with one_sentence(path, ".npy file"), path.open("rb") as stream:
        return _read(stream, str(path), path.stat().st_size, most)


def read_array(path: Path, archive: zipfile.ZipFile, name: str, most: int) -> np.ndarray:
    """One array of numbers of an npz. DataError if it is not there, holds objects, or has more than `most` bytes."""
    if name not in members(archive):
        there = ", ".join(map(printable, members(archive)[:8])) or "nothing"
        raise DataError(f"{path} has no {name}: it holds {there}.")
    info = archive.getinfo(f"{name}.npy")
    check_member(path, info, most)
    with archive.open(info) as stream:
        return _read(stream, f"{printable(name)} of {path}", info.file_size, most)


def header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type in the header of an array of an npz. Its values are not read."""
    with archive.open(f"{name}.npy") as stream:
        return _header(stream)


def members(archive: zipfile.ZipFile) -> list[str]:
    """The names of the arrays of an npz."""
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def check_member(path: Path, info: zipfile.ZipInfo, most: int) -> None:
    """DataError for a file of a zip that is encrypted or unfolds to more than `most` bytes, which bounds what is read of it."""
    require(not info.flag_bits & 1, f"{path} is encrypted: save it without a password.")
    require(
        info.file_size <= most,
        f"{printable(info.filename)} in {path} unpacks to {info.file_size / 2**20:,.0f} MiB, more than {most / 2**20:,.0f} MiB, "
        "and may be a decompression bomb.",
    )


def _read(stream: IO[bytes], name: str, there: int, most: int) -> np.ndarray:
    """there: bytes that the file has, header included."""
    shape, dtype = _header(stream)
    fits = not dtype.hasobject and dtype.kind in "biuf"
    require(fits, f"{name} holds {dtype}, not numbers; objects are not unpickled.")
    wanted = int(np.prod(shape, dtype=object)) * dtype.itemsize
    fits = min(shape, default=0) >= 0 and wanted <= there
    require(fits, f"{name} claims to have {wanted:,} bytes, but has {there:,} at most.")
    require(wanted <= most, f"{name} has {wanted / 2**20:,.0f} MiB, more than {most / 2**20:,.0f} MiB.")
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(stream)
    if version not in readers:
        raise ValueError(f"its npy format has version {version}")
    shape, _, dtype = readers[version](stream)
    return shape, dtype


@contextmanager
def one_sentence(path: Path, what: str) -> Iterator[None]:
    """Damaged files raise BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError and others."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:
        reason = printable(" ".join(str(error).split())) or type(error).__name__
        raise DataError(f"{path} is not a readable {what} ({reason}).") from error
