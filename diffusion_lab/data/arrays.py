"""Arrays of numbers in .npy and .npz files, which may be anybody's.

Nothing is unpickled, nothing is unpacked to the disk, and the size in the header of an array is checked before memory is allocated.
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

from diffusion_lab.data.in_memory import InMemoryDataModule, Split
from diffusion_lab.data.module import DataError
from diffusion_lab.data.order import held_out
from diffusion_lab.diffusion.levels import MOST_LEVELS
from diffusion_lab.store.records import printable

MOST_CLASSES = 2**20  # a label beyond is none: a model has a row of weights for each class


def read_npy(path: Path, most: int) -> np.ndarray:
    """The array of a .npy file. DataError if it holds objects, is cut short, or has more than `most` bytes."""
    with one_sentence(path, ".npy file"), path.open("rb") as stream:
        size = path.stat().st_size
        _check_header(stream, str(path), size, most)
        stream.seek(0)
        return np.lib.format.read_array(stream, allow_pickle=False)


def read_array(path: Path, archive: zipfile.ZipFile, name: str, most: int) -> np.ndarray:
    """One array of numbers of an npz. DataError if it is not there, holds objects, or has more than `most` bytes."""
    if name not in members(archive):
        there = ", ".join(map(printable, members(archive)[:8])) or "nothing"
        raise DataError(f"{path} has no {name}: it holds {there}.")
    info = archive.getinfo(f"{name}.npy")
    check_member(path, info, most)
    with archive.open(info) as stream:
        _check_header(stream, f"{printable(name)} of {path}", info.file_size, most)
    with archive.open(info) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type in the header of an array of an npz. Its values are not read."""
    with archive.open(f"{name}.npy") as stream:
        shape, _, dtype = _header(stream)
    return shape, dtype


def members(archive: zipfile.ZipFile) -> list[str]:
    """The names of the arrays of an npz."""
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def check_member(path: Path, info: zipfile.ZipInfo, most: int) -> None:
    """DataError for a file of a zip that is encrypted or unfolds to more than `most` bytes, which bounds what is read of it."""
    if info.flag_bits & 1:
        raise DataError(f"{path} is encrypted: save it without a password.")
    if info.file_size > most:
        name = printable(info.filename)
        raise DataError(
            f"{name} in {path} unpacks to {info.file_size / 2**20:,.0f} MiB, more than {most / 2**20:,.0f} MiB, and may be a "
            "decompression bomb."
        )


def _check_header(stream: IO[bytes], name: str, there: int, most: int) -> None:
    """there: bytes that the file has, header included."""
    shape, _, dtype = _header(stream)
    if dtype.hasobject or dtype.kind not in "biuf":
        raise DataError(f"{name} holds {dtype}, not numbers; objects are not unpickled.")
    wanted = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if min(shape, default=0) < 0 or wanted > there:
        raise DataError(f"{name} claims to have {wanted:,} bytes, but has {there:,} at most.")
    if wanted > most:
        raise DataError(f"{name} has {wanted / 2**20:,.0f} MiB, more than {most / 2**20:,.0f} MiB.")


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(stream)
    if version not in readers:
        raise ValueError(f"its npy format has version {version}")
    return readers[version](stream)


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


MOST_BYTES = 2**33
LAYOUTS = ("nhwc", "nchw")
_KNOWN = {"arr_0": "arr_1", "images": "labels", "x": "y"}  # names of images in an npz, and of their labels


class Arrays(InMemoryDataModule):
    """Images (N, H, W), (N, H, W, C) or (N, C, H, W) of whole levels, and, where there are classes, labels (N,).

    train, test, train_labels, test_labels: FILE.npy, FILE.npz or FILE.npz:NAME, below `root`. test=None: a fixed random share of
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
        root: str | None = None,
        layout: str | None = None,
        num_levels: int | None = None,
        test_fraction: float = 0.1,
        flip: bool = False,
        max_bytes: int = MOST_BYTES,
    ) -> None:
        super().__init__(batch_size, seed, flip)
        if layout not in (None, *LAYOUTS):
            raise DataError(f"data.layout={layout} must be null, nhwc or nchw.")
        if num_levels is not None and not 2 <= num_levels <= MOST_LEVELS:
            raise DataError(f"data.num_levels={num_levels} must lie between 2 and {MOST_LEVELS}.")
        if test is None and not 0 < test_fraction < 1:
            raise DataError(f"data.test_fraction={test_fraction} must lie between 0 and 1.")
        if max_bytes < 1:
            raise DataError(f"data.max_bytes={max_bytes} must be at least 1.")
        self._files = {"train": train, "test": test, "train_labels": train_labels, "test_labels": test_labels}
        self.root, self.layout = Path(root or "."), layout
        self.num_levels = self._chosen_levels = num_levels
        self.test_fraction, self.max_bytes = test_fraction, max_bytes

    def _read(self) -> tuple[Split, Split]:
        train = self._split("train")
        test = None if self._files["test"] is None else self._split("test")
        if test is None:
            train, test = parted(train, self.test_fraction)
        elif test.values.shape[1:] != train.values.shape[1:]:
            shapes = [tuple(split.values.shape[1:]) for split in (train, test)]
            raise DataError(
                f"data.test holds images {shapes[1]}, data.train {shapes[0]} (C, H, W): use the same shape and type."
            )
        if (train.labels is None) != (test.labels is None):
            raise DataError(
                "give both data.train_labels and data.test_labels: one split has labels, the other has none."
            )
        self.num_classes = None if train.labels is None else int(train.labels.max()) + 1
        if test.labels is not None and int(test.labels.max()) >= self.num_classes:
            raise DataError(
                f"data.test_labels has the class {int(test.labels.max())}, but data.train_labels ends at {self.num_classes - 1}."
            )
        return train, test

    def _split(self, split: str) -> Split:
        array, labels, where = self._array(split)
        values = as_levels(channels_first(array, self.layout, where), self._chosen_levels, where)
        if len(values) < 2:
            raise DataError(f"{where} holds one image: at least two are needed.")
        levels = self._chosen_levels or own_levels(array.dtype)
        check_levels(levels, self.num_levels, where)
        self.num_levels = levels
        if split == "train":
            self.how_read = how_read(where, array.shape, array.dtype, values, levels)
        if self._files[f"{split}_labels"] is not None:
            labels, _, where = self._array(f"{split}_labels")
        return Split(values, None if labels is None else as_labels(labels, len(values), where))

    def _array(self, option: str) -> tuple[np.ndarray, np.ndarray | None, str]:
        """The array that an option names, the labels that an npz has beside it, and how messages name the array."""
        file, _, name = self._files[option].partition(".npz:")
        path = Path(self.root, f"{file}.npz" if name else file)
        if path.suffix not in (".npy", ".npz"):
            raise DataError(f"data.{option}={path}: give FILE.npy, FILE.npz or FILE.npz:NAME.")
        if not path.is_file():
            raise DataError(f"data.{option}={path}: there is no such file.")
        where = f"data.{option}={path}"
        if path.suffix == ".npy":
            return read_npy(path, self.max_bytes), None, where
        with one_sentence(path, "npz of arrays"), zipfile.ZipFile(path) as archive:
            there = members(archive)
            wanted = name or next((known for known in _KNOWN if known in there), there[0] if len(there) == 1 else "")
            if not wanted:
                raise DataError(
                    f"{where} holds {', '.join(there[:8]) or 'no arrays'}: choose one with {path.name}:NAME."
                )
            beside = None if name else _KNOWN.get(wanted)
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
    if array.ndim != 4 or 0 in array.shape:
        raise DataError(f"{where} has the shape {array.shape}: images must be (N, H, W), (N, H, W, C) or (N, C, H, W).")
    return array.transpose(0, 3, 1, 2)


def how_read(where: str, shape: Sequence[int], dtype: np.dtype, values: Tensor, levels: int) -> str:
    """One sentence on how an array was read, so that a user notices a wrong reading. values (N, C, H, W)."""
    count, channels, height, width = values.shape
    kind = "grey images" if channels == 1 else f"images of {channels} channels"
    size = f"{height} × {width} pixels (height × width), {levels:,} levels"
    return f"{where}: {dtype} {tuple(shape)} is read as {count:,} {kind}, {size}"


def own_levels(dtype: np.dtype) -> int | None:
    """How many levels a type holds; None for one that does not say."""
    return {"bool": 2, "uint8": 256, "uint16": 65536}.get(dtype.name)


def check_levels(levels: int | None, earlier: int | None, where: str) -> None:
    """DataError where the split that was read earlier has another number of levels. None: no split was, or no number is known."""
    if None not in (levels, earlier) and levels != earlier:
        raise DataError(
            f"{where} has {levels} levels, the training images have {earlier}: use the same type, or set data.num_levels."
        )


def as_levels(array: np.ndarray, num_levels: int | None, where: str) -> Tensor:
    """Levels as uint8, or as uint16 where there are more than 256. DataError for floats, and for what lies beyond the levels."""
    if array.dtype.kind == "f":
        raise DataError(f"{where} is {array.dtype}, but levels are whole numbers from 0: save {_conversion(array)}.")
    num_levels = num_levels or own_levels(array.dtype)
    if num_levels is None:
        raise DataError(f"{where} is {array.dtype}: set data.num_levels=N, the number of its levels.")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= num_levels:
        raise DataError(
            f"{where} has values from {low} to {high}, but data.num_levels={num_levels} allows only 0 to {num_levels - 1}."
        )
    return torch.from_numpy(np.ascontiguousarray(array, np.uint8 if num_levels <= 256 else np.uint16))


def as_labels(labels: np.ndarray, count: int, where: str) -> Tensor:
    """int64 (N,). DataError if they are not the class of each of `count` images."""
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.shape != (count,) or labels.dtype.kind not in "biu" or not _are_classes(labels):
        raise DataError(
            f"The labels in {where} are {labels.dtype} of shape {labels.shape}: they must be whole numbers from 0 "
            f"to at most {MOST_CLASSES - 1:,}, of shape ({count},)."
        )
    return torch.from_numpy(labels.astype(np.int64))


def _are_classes(labels: np.ndarray) -> bool:
    return 0 <= int(labels.min()) <= int(labels.max()) < MOST_CLASSES


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


def parted(whole: Split, fraction: float) -> tuple[Split, Split]:
    """(what trains, what tests): a fixed random share is held out."""
    test = held_out(len(whole), fraction)
    parts = [Split(whole.values[of], None if whole.labels is None else whole.labels[of]) for of in (~test, test)]
    return parts[0], parts[1]
