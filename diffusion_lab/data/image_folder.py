"""Images in separate files: checked and hashed when they are listed, decoded by worker processes when they are shown."""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import PIL
import torch
from lightning.pytorch.utilities import rank_zero_only
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from diffusion_lab.data import read_image as reading
from diffusion_lab.data.checks import DataError, at_least, check_fraction, one_of, require
from diffusion_lab.data.module import DataModule, Item, images_at_once
from diffusion_lab.data.order import held_out
from diffusion_lab.data.read_image import (
    FITS,
    MAX_PIXELS,
    SUFFIXES,
    WHITE,
    RememberedDigests,
    check_image,
    colour_of,
    read_image,
    sides_of,
)
from diffusion_lab.data.table import read_table
from diffusion_lab.diffusion.levels import MOST_LEVELS, from_levels
from diffusion_lab.store.records import printable

_AT_A_TIME = 4096  # files given to the threads that read them, so that a million do not wait in memory


def usual_batch(shape: Sequence[int], large: bool = False) -> int:
    """The default number of images per training step: 32, 16 of more than 128×128 pixels in colour; 128 if large."""
    return 128 if large else max(16, min(32, images_at_once(shape)))


class ImageFiles(DataModule):
    """Image files below `root`, cropped and resized. A subclass lists them: `_usable`, then `_hold`.

    batch_size: as in `DataModule`; None: chosen by size. seed, flip: as there. image_size: a side, or H and W. channels: 1 is grey,
    3 is RGB, 4 is RGB and opacity. num_workers: processes that decode. on_error: what to do with a file that is not a whole image
    when the set is listed: "raise" names it and stops; "skip" leaves it out of the number of images and of the identity. A file
    that breaks later stops the run in either case. max_pixels: the largest number of pixels of a file. num_levels: 256, or 65,536
    for 16-bit grey. fit, alpha: as `fit` and `background` of `read_image`.
    """

    num_levels: int

    def __init__(
        self,
        batch_size: int | None,
        seed: int,
        flip: bool,
        root: Path,
        image_size: int | Sequence[int],
        channels: int,
        num_workers: int = 2,
        on_error: str = "raise",
        max_pixels: int = MAX_PIXELS,
        num_levels: int = 256,
        fit: str = "crop",
        alpha: str | Sequence[int] = "white",
    ) -> None:
        one_of((1, 3, 4), channels=channels)
        one_of(FITS, fit=fit)
        sides = sides_of(image_size)
        shape = (channels, *sides)
        super().__init__(usual_batch(shape) if batch_size is None else batch_size, seed, flip)
        fits = num_levels in (256, MOST_LEVELS)
        require(fits, f"data.num_levels={num_levels} must be 256, or {MOST_LEVELS} for 16-bit grey.")
        require(
            num_levels == 256 or channels == 1,
            f"data.num_levels={num_levels} needs data.channels=1: colours are read with 8 bits; use data=arrays for 16 bits.",
        )
        at_least(0, num_workers=num_workers)
        one_of(("raise", "skip"), on_error=on_error)
        at_least(1, max_pixels=max_pixels)
        self.root, self.shape, self.num_levels = root, shape, num_levels
        self.num_workers, self.on_error, self.max_pixels = num_workers, on_error, max_pixels
        self.fit, self.background = fit, colour_of(alpha)

    def _usable(self, paths: list[Path]) -> dict[Path, str]:
        """The SHA-256 of each file that is a whole image, in the same order; DataError for one that is not, unless skipped."""
        # Everything that decides whether a file is usable.
        code = hashlib.sha256(Path(reading.__file__).read_bytes()).hexdigest()
        remembered = RememberedDigests(self.root, f"{code} {PIL.__version__} {self.max_pixels}")

        def digest_of(path: Path) -> str | DataError:
            try:
                return _checked_digest(path, self.max_pixels, remembered)
            except DataError as error:
                if self.on_error == "raise":
                    raise
                return error

        found: dict[Path, str | DataError] = {}
        try:
            with ThreadPoolExecutor(max_workers=8) as readers:
                parts = range(0, len(paths), _AT_A_TIME)
                for first in track(parts, "checking images", transient=True, disable=len(parts) < 2):
                    some = paths[first : first + _AT_A_TIME]
                    found.update(zip(some, readers.map(digest_of, some), strict=True))
        finally:
            remembered.save()
        digests = {path: digest for path, digest in found.items() if isinstance(digest, str)}
        broken = [error for error in found.values() if isinstance(error, DataError)]
        if broken and not digests:
            raise DataError(f"None of the {len(paths)} files in {self.root} is an image that can be used: {broken[0]}")
        if broken:
            named = "; ".join(str(error).rpartition(": ")[0] for error in broken)  # the fix is to skip it
            left_out = f"{len(broken)} of {len(paths)} files in {self.root} are left out: {named}"
            rank_zero_only(logging.getLogger(__name__).warning)(f"data.on_error=skip: {left_out}.")
        return digests

    def _hold(
        self, paths: dict[str, list[Path]], given: dict[str, dict[str, Tensor]], digests: dict[Path, str]
    ) -> None:
        """Make these files the splits, and set the facts that follow. given: the "classes" or the "vector" of each image."""
        for split in ("train", "test"):
            said = f"{self.root} holds no {split} images that can be used: add some, or repair the broken ones."
            require(paths[split], said)
        how = (self.shape, self.max_pixels, self.num_levels > 256, self.fit, self.background)
        self._images = {split: _Images(paths[split], given[split], *how) for split in ("train", "test")}
        self.num_train, self.num_test = len(paths["train"]), len(paths["test"])
        shown = "" if (self.fit, self.background) == ("crop", WHITE) else f" {self.fit} {self.background}"
        identity = hashlib.sha256(f"{self.shape}{shown}\n".encode())
        for split, images in self._images.items():
            classes, vectors = (
                images.given[name].tolist() if name in images.given else [None] * len(images.paths)
                for name in ("classes", "vector")
            )
            for path, label, vector in zip(images.paths, classes, vectors, strict=True):
                beside = f"{label}" if vector is None else f"{label} {vector}"
                identity.update(f"{split} {path.relative_to(self.root).as_posix()} {beside} {digests[path]}\n".encode())
        self.identity = identity.hexdigest()

    def _classes(self, split: str) -> Tensor | None:
        return self._images[split].given.get("classes")

    def _vectors(self, split: str) -> Tensor | None:
        return self._images[split].given.get("vector")

    def _show(self, split: str, picks: Iterable[Tensor]) -> Iterator[Item]:
        images, workers = self._images[split], self.num_workers
        loader = DataLoader(images, batch_size=None, sampler=picks, num_workers=workers)
        try:
            for batch in loader:
                if isinstance(batch, DataError):
                    raise batch
                levels, given = batch
                yield from_levels(levels, self.num_levels), given
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                f"A process that decodes images ended ({' '.join(str(error).split())}): this often means that memory ran out; "
                f"try data.num_workers={self.num_workers // 2} or a smaller data.batch_size."
            ) from error


@dataclass(frozen=True)
class _Images(Dataset):
    """A dataset whose item `indices` is a batch: uint8 or uint16 (B, C, H, W), and labels or vectors of each. deep: 16-bit grey."""

    paths: list[Path]
    given: dict[str, Tensor]
    shape: tuple[int, ...]
    max_pixels: int
    deep: bool
    fit: str
    background: Sequence[int]

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, dict[str, Tensor]] | DataError:
        try:
            levels = torch.stack([self._levels(self.paths[i]) for i in indices.tolist()])
        except DataError as error:
            # Returned, because an error raised in a worker would reach the user inside the worker's traceback,
            # not as one sentence.
            return error
        return levels, {name: rows[indices] for name, rows in self.given.items()}

    def _levels(self, path: Path) -> Tensor:
        channels, *sides = self.shape
        return read_image(path, sides, channels, self.max_pixels, self.deep, None, self.fit, self.background)


def _checked_digest(path: Path, max_pixels: int, remembered: RememberedDigests) -> str:
    """The SHA-256 of a file that is a whole image, with a name that can be written to records."""

    def read() -> str:
        content = path.read_bytes()
        require(content, f"{path} is empty (0 bytes): replace it, or leave it out with data.on_error=skip.")
        check_image(path, content, max_pixels)
        return hashlib.sha256(content).hexdigest()

    shown = str(path)
    said = f"{printable(shown)} is not named in UTF-8: rename it, or leave it out with data.on_error=skip."
    require(shown.encode(errors="ignore").decode() == shown, said)
    try:
        return remembered.of(path, read)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}): give permission to read it, or leave it out with data.on_error=skip."
        ) from error


class ImageFolder(ImageFiles):
    """All images under `root`, at any depth, cropped and resized to `image_size`.

    batch_size, seed, flip, channels, num_workers, on_error, max_pixels, num_levels, fit, alpha: as in `ImageFiles`.
    If `root` holds train/ and test/, they are the splits; otherwise a fixed random share of `test_fraction` is held out.
    classes="subfolders": the class of an image is the folder that it is in, directly below `root` (or below train/ and
    test/), in alphabetical order. table: a CSV with a row for each image, below `root` or the working directory. label_column: its
    column with the classes. vector_columns: its columns with the entries of each vector.
    """

    name = "image_folder"

    def __init__(
        self,
        batch_size: int | None,
        seed: int,
        root: str,
        image_size: int | Sequence[int],
        channels: int = 3,
        classes: str | None = None,
        test_fraction: float = 0.1,
        flip: bool = False,
        num_workers: int = 2,
        on_error: str = "raise",
        max_pixels: int = MAX_PIXELS,
        num_levels: int = 256,
        fit: str = "crop",
        alpha: str | Sequence[int] = "white",
        table: str | None = None,
        label_column: str | None = None,
        vector_columns: Sequence[str] = (),
    ) -> None:
        where = (Path(root), image_size, channels, num_workers, on_error, max_pixels, num_levels, fit, alpha)
        super().__init__(batch_size, seed, flip, *where)
        one_of((None, "subfolders"), classes=classes)
        check_fraction(test_fraction)
        has_columns = label_column is not None or len(vector_columns) > 0
        said = f"data.table={table}: set data.table=FILE.csv together with data.label_column or data.vector_columns."
        require((table is not None) == has_columns, said)
        said = (
            f"data.classes={classes} and data.label_column={label_column}: the class is one of them; remove the other."
        )
        require(classes is None or label_column is None, said)
        self.classes, self.test_fraction = classes, test_fraction
        self._table = None if table is None else (table, label_column, list(vector_columns))

    def missing(self) -> str | None:
        try:
            self._split_folders()
        except DataError as error:
            return str(error)
        return None

    def _load(self) -> None:
        folders = self._split_folders() or {"train": self.root}
        listed = {split: _image_paths(folder) for split, folder in folders.items()}
        digests = self._usable([path for paths in listed.values() for path in paths])
        paths = {split: [path for path in listed[split] if path in digests] for split in listed}
        if "test" not in paths:
            paths = self._hold_out(paths["train"])

        given: dict[str, dict[str, Tensor]] = {split: {} for split in paths}
        of: dict[str, list[str]] = {}
        self.num_classes = None
        if self.classes:
            of = {split: [_class_of(path, folders.get(split, self.root)) for path in paths[split]] for split in paths}
        if self._table is not None:
            file, label_column, vector_columns = self._table
            inside = self.root / file
            table = read_table(inside if inside.is_file() else Path(file), label_column, vector_columns)
            table.check(self._name(path) for files in listed.values() for path in files)
            for split, files in paths.items():
                names = [self._name(path) for path in files]
                if vector_columns:
                    given[split]["vector"] = table.vectors_of(names)
                if label_column is not None:
                    of[split] = [table.classes[name] for name in names]
        if of:
            whole = all(name.isdecimal() for name in of["train"]) and not self.classes
            self.class_names = sorted(set(of["train"]), key=int if whole else None)
            for name in sorted({*of["test"]} - {*of["train"]}):
                path = paths["test"][of["test"].index(name)]
                raise DataError(
                    f"{self.root} has no training images of the class {name}, which {self._name(path)} has: add some or correct it."
                )
            for split, names in of.items():
                given[split]["classes"] = torch.tensor([self.class_names.index(name) for name in names])
            self.num_classes = len(self.class_names)
        self._hold(paths, given, digests)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _split_folders(self) -> dict[str, Path] | None:
        """The folders of the splits, if any of them exists."""
        said = f"data.root={self.root} is not a folder: name the folder that holds your images."
        require(self.root.is_dir(), said)
        folders = {split: self.root / split for split in ("train", "test")}
        return folders if any(folder.is_dir() for folder in folders.values()) else None

    def _hold_out(self, paths: list[Path]) -> dict[str, list[Path]]:
        require(len(paths) > 1, f"{self.root} holds one image: at least two are needed, to train and to test.")
        is_test = held_out(len(paths), self.test_fraction)
        return {
            split: [paths[i] for i in of.nonzero().flatten().tolist()]
            for split, of in (("train", ~is_test), ("test", is_test))
        }


def _image_paths(folder: Path) -> list[Path]:
    """All images in the folder, at any depth, sorted by name, so that the order is the same on every machine."""
    require(folder.is_dir(), f"{folder} is missing: give both train/ and test/, or neither.")
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    said = f"{folder} holds no images: their names must end in one of {', '.join(sorted(SUFFIXES))}."
    require(paths, said)
    return paths


def _class_of(path: Path, folder: Path) -> str:
    names = path.relative_to(folder).parts
    said = f"{path} has no class: with data.classes=subfolders every image must lie in a subfolder of {folder}."
    require(len(names) > 1, said)
    return names[0]
