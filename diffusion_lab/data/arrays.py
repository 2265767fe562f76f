"""Your own data as arrays: images of up to 65,536 whole levels, or real numbers in any shape, in .npy, .npz, .zarr or HDF5."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion_lab.conditions.units import Units
from diffusion_lab.data.array_files import Stored, open_array
from diffusion_lab.data.checks import DataError, IncompleteError, at_least, check_fraction, check_range, one_of, require
from diffusion_lab.data.in_memory import InMemoryDataModule, Split, hash_of
from diffusion_lab.data.module import Batch
from diffusion_lab.data.order import fixed_subset, without_validation
from diffusion_lab.data.reals import Rows, Summary, fitted_units, summary
from diffusion_lab.diffusion.levels import MOST_LEVELS

MOST_BYTES = 2**33
MOST_CLASSES = 2**20  # larger labels are refused, because a model has a row of weights per class
# Axes in order: N items, C channels, and spatial axes; nd: points with D dimensions.
LAYOUTS = (None, "nd", "nl", "nlc", "ncl", "nhw", "nhwc", "nchw", "ndhw", "ndhwc", "ncdhw")
_POSSIBLE = {3: "ncl, nlc, or nhw", 4: "nchw, nhwc, or ndhw", 5: "ncdhw or ndhwc"}  # by the number of axes


class Arrays(InMemoryDataModule):
    """Images of whole levels, (N, H, W), (N, H, W, C) or (N, C, H, W), or real numbers (N, D) or (N, C, *spatial).

    batch_size, seed, flip: as in `DataModule`. train, test: FILE, or FILE:NAME where a file has several arrays, below `root`.
    test=None: a fixed random share of `test_fraction` is held out. train_labels, test_labels: such files of classes, (N,); None:
    unlabelled. train_vectors, test_vectors: of vectors (N, D) for condition=vector. train_fields, test_fields: of fields (N, C,
    *spatial) for condition=field. layout: the order of the axes; None: nhw or nhwc for levels, nd or channels first for real
    numbers, and an ambiguous shape is refused. num_levels: None: 256 for uint8, 65,536 for uint16, 2 for bool. max_bytes: the
    largest array kept in memory. A larger one is read by rows; one in an npz is refused.

    Real numbers are normalised; `units` restores them. normalize: per_channel (also None), by mean and standard deviation of the
    training images; none; or [shift, scale], each a number or one for each channel. channel_names: None: those in the file.
    missing: "mask": values may be NaN, and stay NaN in a batch; None: these are refused.
    """

    name = "arrays"
    _by_rows = False  # whether the levels are read by rows, because they exceed max_bytes

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
        normalize: str | Sequence[float | Sequence[float]] | None = None,
        channel_names: Sequence[str] | None = None,
        missing: str | None = None,
        test_fraction: float = 0.1,
        flip: bool = False,
        max_bytes: int = MOST_BYTES,
    ) -> None:
        super().__init__(batch_size, seed, flip)
        one_of(LAYOUTS, layout=layout)
        one_of((None, "mask"), missing=missing)
        if normalize is None or isinstance(normalize, str):
            one_of((None, "per_channel", "none", "[shift,scale]"), normalize=normalize)
        fits = num_levels is None or 2 <= num_levels <= MOST_LEVELS
        require(fits, f"data.num_levels={num_levels} must lie between 2 and {MOST_LEVELS}.")
        check_fraction(test_fraction)
        at_least(1, max_bytes=max_bytes)
        self.train, self.test, self._labels = train, test, {"train": train_labels, "test": test_labels}
        vectors, fields = {"train": train_vectors, "test": test_vectors}, {"train": train_fields, "test": test_fields}
        self._beside = {"vector": vectors, "field": fields}
        self.root, self.layout = Path(root or "."), layout
        self.num_levels = self._chosen_levels = num_levels
        self.normalize, self.channel_names, self.masks_missing = normalize, channel_names, missing is not None
        self.test_fraction, self.max_bytes = test_fraction, max_bytes
        self._notes: list[str] = []

    def _read(self) -> tuple[Split, Split]:
        whole = self._split("train", self.train)
        train, test = whole.parted(self.test_fraction) if self.test is None else (whole, self._split("test", self.test))
        shapes = [tuple(split.values.shape[1:]) for split in (train, test)]
        said = f"data.test holds images {shapes[1]}, data.train {shapes[0]} (C, H, W): use the same shape and type."
        require(shapes[0] == shapes[1] and isinstance(train.values, Rows) == isinstance(test.values, Rows), said)
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
        array = open_array(split, file, self.root, self.max_bytes)
        values = self._reals(array) if array.dtype.kind == "f" else self._levels(split, array)
        require(len(values) > 1, f"{array.where} holds one image: at least two are needed.")
        if split == "train":
            self.how_read = how_read(array.where, array.shape, array.dtype, values.shape, self.num_levels)
        own = self._labels[split]
        labels = array.labels if own is None else open_array(f"{split}_labels", own, self.root, self.max_bytes)
        beside: dict[str, Tensor | Rows] = {
            name: self._vectors_or_fields(f"{split}_{name}s", path, len(values))
            for name, files in self._beside.items()
            if (path := files[split]) is not None
        }
        classes = None if labels is None else as_labels(labels.whole(self.max_bytes), len(values), labels.where)
        return Split(values, classes, beside)

    def _vectors_or_fields(self, option: str, file: str, count: int) -> Rows:
        """The vectors (N, D) or fields (N, C, *spatial) in `file`, for `count` images."""
        array = open_array(option, file, self.root, self.max_bytes)
        vectors = option.endswith("vectors")
        fits = len(array.shape) == 2 if vectors else 3 <= len(array.shape) <= 5
        said = f"{array.where} is {array.dtype} {array.shape}: it must hold numbers {'(N, D)' if vectors else '(N, C, *spatial)'}"
        require(fits and array.shape[0] == count and 0 not in array.shape, f"{said} for {count} images.")
        return Rows(array, axis=1)

    def _levels(self, split: str, array: Stored) -> Tensor | Rows:
        given = {
            "normalize": self.normalize,
            "channel_names": self.channel_names,
            "missing": self.masks_missing or None,
        }
        for option, value in given.items():
            said = f"data.{option} is for floats, but {array.where} is {array.dtype}: save float32, or remove data.{option}."
            require(value is None, said)
        self._by_rows = array.size > self.max_bytes if split == "train" else self._by_rows
        if self._by_rows:
            self.num_levels = levels_of(array.dtype, self._chosen_levels, self.num_levels, array.where)
            return Rows(array, channel_axis(array.shape, self.layout, array.where, real=False))
        found = channels_first(array.whole(self.max_bytes), self.layout, array.where)
        values = as_levels(found, self._chosen_levels, array.where)
        self.num_levels = levels_of(array.dtype, self._chosen_levels, self.num_levels, array.where)
        return values

    def _reals(self, array: Stored) -> Rows:
        said = f"data.num_levels={self._chosen_levels}: {array.where} is {array.dtype}, and real numbers have no levels; remove it."
        require(self._chosen_levels is None, said)
        said = f"{array.where} is {array.dtype}, but the training images are whole levels: use the same type."
        require(self.num_levels is None, said)
        return Rows(array, channel_axis(array.shape, self.layout, array.where, real=True))

    def _load(self) -> None:
        super()._load()
        for split, here in self._splits.items():
            if isinstance(here.values, Rows):
                self._splits[split] = replace(here, values=replace(here.values, units=self.units))

    def _identify(self, train: Split, test: Split) -> str:
        """The SHA-256 of the content in memory, of files of real numbers, and of the options that affect the images."""
        pairs = {
            "x": (train.values, test.values),
            **{name: (train.beside[name], test.beside[name]) for name in train.beside},
        }
        files = {
            name: self._summarised(name, of_train, of_test)
            for name, (of_train, of_test) in pairs.items()
            if isinstance(of_train, Rows) and isinstance(of_test, Rows)
        }
        if not files:
            return super()._identify(train, test)
        held = [part for pair in pairs.values() for part in pair if isinstance(part, Tensor)]
        held += [labels for labels in (train.labels, test.labels) if labels is not None]
        units = self.units if isinstance(self.normalize, Sequence) and not isinstance(self.normalize, str) else None
        definition = {
            "files": files,
            "held": hash_of(held),
            "validation": self.num_validation,  # units are fitted without these images
            "test_fraction": self.test_fraction if self.test is None else None,
            "normalize": self.normalize if units is None else [list(units.shift), list(units.scale)],
        }
        return hashlib.sha256(json.dumps(definition).encode()).hexdigest()

    def _summarised(self, name: str, train: Rows, test: Rows) -> list[str]:
        """Digests of the files of x, or of vectors or fields, each read once; for x, also set the units."""
        places = torch.arange(len(train)) if train.places is None else torch.from_numpy(train.places)
        if self.num_validation:
            places = places[without_validation(len(places), self.num_validation)[0]]
        fitted = torch.zeros(train.stored.shape[0], dtype=torch.bool)
        fitted[places] = True
        moments = name != "x" or (self.num_levels is None and self.normalize in (None, "per_channel"))
        first = summary(train, fitted if moments else None)
        found = [first] if train.stored is test.stored else [first, summary(test, None)]
        for rows, one in zip((train, test), found, strict=False):
            self._check_values(rows, one, masks=name == "x" and self.masks_missing)
            if name == "x" and self.num_levels is not None:
                check_range(one.low, one.high, self.num_levels, rows.stored.where)
        if name != "x" or self.num_levels is not None:
            return [one.sha256 for one in found]
        if first.like_levels is not None:
            self._notes.append(
                f"data.train={self.train} looks like grey levels that are stored as floats; to have levels, with samples and "
                f"bits/dim of them, save {first.like_levels}"
            )
        self.units = self._units(train, first)
        self._incomplete = {
            split: one.missing if rows.places is None else one.missing[torch.from_numpy(rows.places)]
            for split, rows, one in (("train", train, first), ("test", test, found[-1]))
        }
        return [one.sha256 for one in found]

    def _check_values(self, rows: Rows, found: Summary, masks: bool) -> None:
        where, of = rows.stored.where, f"{int(found.missing.sum()):,} of {len(found.missing):,} rows"
        require(not found.num_infinite, f"{where} has {found.num_infinite:,} infinite values: leave those rows out.")
        fix = "" if "_vectors=" in where or "_fields=" in where else ", or set data.missing=mask"
        said = f"{where} has {found.num_missing:,} missing values (NaN) in {of}: fill them in{fix}."
        require(not found.num_missing or masks, said)
        require(bool(np.isfinite(found.std).all()), f"{where} has values too large to normalise: choose larger units.")

    def _units(self, rows: Rows, found: Summary) -> Units:
        channels = rows.shape[1]
        names = rows.stored.names if self.channel_names is None else [str(name) for name in self.channel_names]
        said = f"data.channel_names: there are {len(names or ())} names for {channels} channels."
        require(names is None or len(names) == channels, said)
        names = None if names is None else list(names)
        if self.normalize in (None, "per_channel"):
            return fitted_units(found, names)
        pair: Any = (0.0, 1.0) if self.normalize == "none" else list(self.normalize or ())
        said = f"data.normalize={pair}: give [shift,scale], each a number or one for each of {channels} channels, scale above 0."
        require(len(pair) == 2, said)
        parts = [
            [float(part)] * channels if isinstance(part, int | float) else [float(value) for value in part]
            for part in pair
        ]
        require(
            all(len(part) == channels and all(map(math.isfinite, part)) for part in parts) and min(parts[1]) > 0, said
        )
        return Units(parts[0], parts[1], names)

    def batches(self, split: str, batch_size: int, limit: int | None = None, start: int = 0) -> Iterator[Batch]:
        """IncompleteError if an item has missing values, because scores of images need all values."""
        found = super().batches(split, batch_size, limit, start)
        if self.masks_missing:
            order = fixed_subset(self.size(split), limit)[start:]
            here = "train" if split in self._places else split
            lost = int(self._incomplete[here][self._places[split][order] if split in self._places else order].sum())
            if lost:
                few = f"{lost:,} of {len(order):,} {split} items have missing values"
                raise IncompleteError(f"data.missing=mask: {few}, and all are needed here; fill them in")
        return found

    def notes(self) -> list[str]:
        return [*super().notes(), *self._notes]


def channel_axis(shape: Sequence[int], layout: str | None, where: str, real: bool) -> int | None:
    """The index of the channel axis; None without one. DataError for a shape that does not fit, or an ambiguous one.

    where: the array's name in messages. real: whether it holds real numbers, not levels.
    """
    shape, count = tuple(shape), len(shape)
    if layout in (None, "nhwc", "nchw") and count == 3 and not real:
        layout = "nhw"
    elif layout is None and real and count in (2, 3, 4, 5):
        certain = count == 2 or 2 * shape[1] <= min(shape[2:])
        said = f"{where} has the shape {shape}, and the axis of channels is in doubt: set data.layout={_POSSIBLE.get(count)}."
        require(certain, said)
        layout = {2: "nd", 3: "ncl", 4: "nchw", 5: "ncdhw"}[count]
    elif layout is None and not real and count == 4:
        said = f"{where} has the shape {shape}: set data.layout=nchw, or nhwc if channels come last."
        require(not shape[1] <= 4 < shape[3], said)
        layout = "nhwc"
    reals, images = "(N, D) or (N, C, …) with one to three axes of space", "(N, H, W), (N, H, W, C) or (N, C, H, W)"
    said = f"{where} has the shape {shape}, but data.layout={layout}: it must be {reals if real else images}."
    require(layout is not None and len(layout) == count and 0 not in shape, said)
    assert layout is not None
    return 1 if layout == "nd" else layout.find("c") if "c" in layout else None


def channels_first(array: np.ndarray, layout: str | None, where: str) -> np.ndarray:
    """(N, C, H, W), a view, of whole levels. DataError for another number of dimensions, no images, or an ambiguous layout."""
    axis = channel_axis(array.shape, layout, where, real=False)
    return array[:, None] if axis is None else np.moveaxis(array, axis, 1)


def how_read(where: str, shape: Sequence[int], dtype: np.dtype, read: Sequence[int], levels: int | None) -> str:
    """One sentence on the interpretation of an array, so that the user notices a wrong one.

    where: its name. shape, dtype: as stored. read: (N, C, *spatial) or (N, D), as interpreted. levels: their number; None: real
    numbers.
    """
    count, *sample = read
    axes = ("D", "channels, length", "channels, height, width", "channels, depth, height, width")[len(sample) - 1]
    values = "real numbers" if levels is None else f"{levels:,} levels"
    return f"{where}: {dtype} {tuple(shape)} is read as {count:,} samples of {tuple(sample)} ({axes}), {values}"


def levels_of(dtype: np.dtype, chosen: int | None, earlier: int | None, where: str) -> int:
    """The number of levels: the user's choice, or that of the type.

    chosen: data.num_levels, if set. earlier: the number of the training split, if it was read before. where: the array's name in
    messages. DataError for a type without a number of levels, and if the splits have different numbers.
    """
    levels = chosen or {"bool": 2, "uint8": 256, "uint16": 65536}.get(dtype.name)
    if levels is None:
        raise DataError(f"{where} is {dtype}: set data.num_levels=N, the number of its levels.")
    fix = "use the same type, or set data.num_levels"
    require(earlier in (None, levels), f"{where} has {levels} levels, the training images have {earlier}: {fix}.")
    return levels


def as_levels(array: np.ndarray, num_levels: int | None, where: str) -> Tensor:
    """Levels as uint8, or uint16 for more than 256. DataError for floats, and for values beyond the levels."""
    said = f"{where} is {array.dtype}, but levels are whole numbers from 0; data=arrays takes real numbers."
    require(array.dtype.kind != "f", said)
    num_levels = levels_of(array.dtype, num_levels, None, where)
    check_range(int(array.min()), int(array.max()), num_levels, where)
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
