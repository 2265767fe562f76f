"""Your own images as arrays: .npy or .npz files, with any number of channels, any height and width, up to 65,536 levels."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffusion_lab.data.array_files import MOST_CLASSES, members, one_sentence, read_array, read_npy
from diffusion_lab.data.error import DataError
from diffusion_lab.data.levels import MOST_LEVELS
from diffusion_lab.data.memory import InMemoryDataModule, Split
from diffusion_lab.data.splits import held_out

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
