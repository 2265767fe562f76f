"""A dataset that Hugging Face `datasets` saved to disk: a column of images, or of arrays of whole levels, and one of classes."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from diffusion_lab.data.array_files import one_sentence, optional_package
from diffusion_lab.data.arrays import (
    LAYOUTS,
    MOST_BYTES,
    as_labels,
    as_levels,
    channels_first,
    how_read,
    levels_of,
)
from diffusion_lab.data.checks import check_fraction, one_of, require
from diffusion_lab.data.in_memory import InMemoryDataModule, Split
from diffusion_lab.data.read_image import MAX_PIXELS, kind_of, read_image, sides_of

_AT_A_TIME = 256  # rows read at a time


class HFDataset(InMemoryDataModule):
    """A folder `root` written by `Dataset.save_to_disk` or `DatasetDict.save_to_disk`; nothing is fetched, and no code is run.

    batch_size, seed, flip: as in `DataModule`. train, test: names of splits. test=None: the split `test` if there is one; otherwise
    a fixed random share of `test_fraction` is held out, also of a single split. image: the column of images (PNG, JPEG, …) or of
    arrays; None: the only one. label: the column of classes; None: the only ClassLabel, if there is one. image_size: images are
    cropped and resized to it; None: all have one size. channels, num_levels: None: those of the first image, or of the type of the
    array. layout: the order of the axes of arrays, as in `Arrays`. max_bytes: the most memory for all images. max_pixels: of one
    image file.
    """

    name = "hf_dataset"

    def __init__(
        self,
        batch_size: int,
        seed: int,
        root: str,
        train: str = "train",
        test: str | None = None,
        image: str | None = None,
        label: str | None = None,
        image_size: int | Sequence[int] | None = None,
        channels: int | None = None,
        layout: str | None = None,
        num_levels: int | None = None,
        test_fraction: float = 0.1,
        flip: bool = False,
        max_bytes: int = MOST_BYTES,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        super().__init__(batch_size, seed, flip)
        one_of((None, 1, 3), channels=channels)
        if image_size is not None:
            sides_of(image_size)
        one_of(LAYOUTS, layout=layout)
        check_fraction(test_fraction)
        self.root, self.train, self.test, self.image, self.label = Path(root), train, test, image, label
        self.image_size, self.channels, self.layout = image_size, channels, layout
        self.num_levels = self._chosen_levels = num_levels
        self.test_fraction, self.max_bytes, self.max_pixels = test_fraction, max_bytes, max_pixels

    def _read(self) -> tuple[Split, Split]:
        splits = self._splits_on_disk()
        name = self.test or ("test" if "test" in splits and self.train != "test" else None)
        for option, chosen in (("train", self.train), ("test", name)):
            fits = chosen is None or chosen in splits
            require(fits, f"data.{option}={chosen}: {self.root} has the splits {', '.join(splits)}.")
        whole = self._split(splits[self.train])
        train, test = whole.parted(self.test_fraction) if name is None else (whole, self._split(splits[name]))
        shapes = [tuple(split.values.shape[1:]) for split in (train, test)]
        require(
            shapes[0] == shapes[1],
            f"{self.root} has training images {shapes[0]} and test images {shapes[1]} (C, H, W): set data.image_size or "
            "data.channels, or, for arrays, save both splits in one shape.",
        )
        having, lacking = (self.train, name) if test.labels is None else (name, self.train)
        require(
            (train.labels is None) == (test.labels is None),
            f"{self.root}: the split {having} has labels, {lacking} has none: set data.label to a column of both, "
            "or data.test to a split with the same columns.",
        )
        self.num_classes = max(train.num_classes or 0, test.num_classes or 0) or None
        self.class_names = self.class_names and self.class_names[: self.num_classes]
        return train, test

    def _splits_on_disk(self) -> dict[str, Any]:
        datasets = optional_package("datasets", "huggingface", "data=hf_dataset")
        require(self.root.is_dir(), f"data.root={self.root} is not a folder: name one that save_to_disk wrote.")
        with one_sentence(f"data.root={self.root}", "dataset on disk"):
            found = datasets.load_from_disk(str(self.root))
        return dict(found) if isinstance(found, datasets.DatasetDict) else {self.train: found}

    def _split(self, rows: Any) -> Split:
        import datasets

        require(len(rows) > 1, f"{self.root} has a split of {len(rows)} images: at least two are needed.")
        pictures = [name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)]
        arrays = {name: kind for name, kind in rows.features.items() if _type_of_array(kind)}
        image = _the_only("image", self.image, [*pictures, *arrays], self.root) or ""
        classes = [name for name, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)]
        label = _the_only("label", self.label, rows.column_names if self.label else classes, self.root, needed=False)
        if label in classes:
            self.class_names = self.class_names or rows.features[label].names  # the training split's come first
        if image in pictures:
            rows = rows.cast_column(image, datasets.Image(decode=False))
            values = self._pictures(image, rows)
        else:
            values = self._arrays(image, rows, np.dtype(_type_of_array(arrays[image])))
        where = f"{self.root}, column {label}"
        return Split(values, None if label is None else as_labels(np.asarray(rows[label]), len(rows), where))

    def _pictures(self, column: str, rows: Any) -> Tensor:
        first = _content(rows[0][column], self.root)
        own, deep = kind_of(f"row 0 of {self.root}", first, self.max_pixels)
        channels = self.channels or own
        self.num_levels = levels = self.num_levels or (65536 if deep and channels == 1 else 256)
        fits = levels == 256 or (levels == 65536 and channels == 1)
        require(fits, f"data.num_levels={levels}: set 256, or 65536 for images of one channel.")

        def decode(i: int, row: Any) -> Tensor:
            name, content = f"row {i} of {self.root}", _content(row, self.root)
            return read_image(name, self.image_size, channels, self.max_pixels, levels > 256, content)

        return self._stacked(decode, rows, column)

    def _arrays(self, column: str, rows: Any, dtype: np.dtype) -> Tensor:
        where = f"{self.root}, column {column}"
        for option in ("image_size", "channels"):
            value = getattr(self, option)
            said = f"data.{option}={value} has no effect on arrays, and {where} holds arrays: remove it."
            require(value is None, said)

        def convert(i: int, row: Any) -> Tensor:
            array = channels_first(np.asarray(row).astype(dtype)[None], self.layout, where)
            return as_levels(array, self._chosen_levels, where)[0]

        arrays = rows.with_format("numpy")
        values = self._stacked(convert, arrays, column)
        self.num_levels = levels = levels_of(dtype, self._chosen_levels, self.num_levels, where)
        shape = (len(rows), *np.shape(arrays[0][column]))
        self.how_read = self.how_read or how_read(where, shape, dtype, values.shape, levels)
        return values

    def _stacked(self, convert: Callable[[int, Any], Tensor], rows: Any, column: str) -> Tensor:
        """All rows converted; the first one's size determines the required memory."""
        first = convert(0, rows[0][column])
        size = len(rows) * first.numel() * first.element_size()
        require(
            size <= self.max_bytes,
            f"{self.root} holds {size:,} bytes of images, more than data.max_bytes={self.max_bytes}: raise this limit, or, for "
            "images that are not arrays, choose a smaller data.image_size.",
        )
        values = torch.empty((len(rows), *first.shape), dtype=first.dtype)
        each = (row for some in rows.select_columns([column]).iter(_AT_A_TIME) for row in some[column])
        for i, row in enumerate(track(each, f"reading {self.root.name}", len(rows), transient=True)):
            value = convert(i, row)
            require(
                value.shape == first.shape,
                f"Row {i} of {self.root} has the shape {tuple(value.shape)}, row 0 {tuple(first.shape)}: set data.image_size, "
                "or, for arrays, save all in one shape.",
            )
            values[i] = value
        return values


def _content(row: Any, root: Path) -> io.BytesIO:
    content = row.get("bytes") if isinstance(row, dict) else None
    require(content, f"{root} refers to images elsewhere: save it again with save_to_disk, which embeds them.")
    return io.BytesIO(content or b"")


def _type_of_array(kind: Any) -> str | None:
    """The number type of an Array2D, an Array3D or nested lists; None for a column without arrays."""
    depth, inner = len(getattr(kind, "shape", ())), kind
    while hasattr(inner, "feature"):
        inner, depth = inner.feature, depth + 1
    dtype = getattr(inner, "dtype", None)
    return dtype if depth in (2, 3) and isinstance(dtype, str) and dtype != "string" else None


def _the_only(option: str, chosen: str | None, there: Sequence[str], root: Path, needed: bool = True) -> str | None:
    listed = ", ".join(there) or "none"
    said = f"data.{option}={chosen}: the columns of this type in {root} are {listed}."
    require(chosen is None or chosen in there, said)
    fits = chosen is not None or len(there) == 1 or not (needed or there)
    require(fits, f"data.{option}: set the name of a column; those of this type in {root} are {listed}.")
    return chosen or next(iter(there), None)
