"""Your own images: a folder, or one folder per class, streamed through worker processes."""

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from diffusion_lab.data.base import Batch, DataError, DataModule, Pick
from diffusion_lab.data.images import SUFFIXES, check_image, read_image
from diffusion_lab.data.levels import from_levels
from diffusion_lab.data.splits import fixed_subset


class ImageFolder(DataModule):
    """All images under `root`, however deep, cropped to squares and resized to `image_size`. channels: 1 is grey, 3 is RGB.

    If `root` holds train/ and test/, they are the splits; else a fixed random share of `test_fraction` is held out.
    classes="subfolders": the class of an image is the folder it is in, directly below `root` (or below train/ and
    test/), in alphabetical order.
    """

    name = "image_folder"
    num_levels = 256

    def __init__(
        self,
        batch_size: int,
        seed: int,
        root: str,
        image_size: int,
        channels: int = 3,
        classes: str | None = None,
        test_fraction: float = 0.1,
        flip: bool = False,
        num_workers: int = 2,
    ) -> None:
        super().__init__(batch_size, seed, flip)
        if channels not in (1, 3):
            raise DataError(f"data.channels={channels} must be 1 (grey) or 3 (RGB).")
        if image_size < 1:
            raise DataError(f"data.image_size={image_size} must be at least 1.")
        if classes not in (None, "subfolders"):
            raise DataError(f"data.classes={classes} must be null or subfolders.")
        if not 0 < test_fraction < 1:
            raise DataError(f"data.test_fraction={test_fraction} must lie between 0 and 1.")
        if num_workers < 0:
            raise DataError(f"data.num_workers={num_workers} must not be negative.")
        self.root = Path(root)
        self.shape = (channels, image_size, image_size)
        self.classes = classes
        self.test_fraction = test_fraction
        self.num_workers = num_workers

    def _load(self) -> None:
        if not self.root.is_dir():
            raise DataError(f"data.root={self.root} is not a folder: name the folder that holds your images.")
        folders = {split: self.root / split for split in ("train", "test")}
        if any(folder.is_dir() for folder in folders.values()):
            paths = {split: _image_paths(folder) for split, folder in folders.items()}
        else:
            folders = dict.fromkeys(folders, self.root)
            paths = self._hold_out(_image_paths(self.root))

        labels = dict.fromkeys(paths)
        self.num_classes = None
        if self.classes:
            of = {split: [_class_of(path, folders[split]) for path in paths[split]] for split in paths}
            self.class_names = sorted(set(of["train"]))
            if unseen := sorted(set(of["test"]) - set(of["train"])):
                raise DataError(f"{self.root} has no training images of the class {unseen[0]}: add some, or remove it.")
            labels = {split: torch.tensor([self.class_names.index(c) for c in of[split]]) for split in paths}
            self.num_classes = len(self.class_names)

        self._images = {split: _Images(paths[split], labels[split], self.shape) for split in paths}
        self.num_train, self.num_test = len(paths["train"]), len(paths["test"])
        self.identity = self._identify()

    def _hold_out(self, paths: list[Path]) -> dict[str, list[Path]]:
        if len(paths) < 2:
            raise DataError(f"{self.root} holds one image: at least two are needed, to train and to test.")
        num_test = min(max(round(self.test_fraction * len(paths)), 1), len(paths) - 1)
        held_out = set(fixed_subset(len(paths), num_test).tolist())
        return {
            "train": [path for i, path in enumerate(paths) if i not in held_out],
            "test": [path for i, path in enumerate(paths) if i in held_out],
        }

    def _identify(self) -> str:
        """The SHA-256 of names, content and split of the images, and of how they are shown. Checks every file on the way."""
        identity = hashlib.sha256(f"{self.shape} {self.classes}".encode())
        with ThreadPoolExecutor(max_workers=8) as readers:
            for split, images in self._images.items():
                for path, digest in zip(images.paths, readers.map(_checked_digest, images.paths), strict=True):
                    identity.update(f"{split} {path.relative_to(self.root).as_posix()} {digest}\n".encode())
        return identity.hexdigest()

    def _show(self, split: str, picks: Iterable[Pick]) -> Iterator[Batch]:
        loader = DataLoader(
            self._images[split],
            batch_size=None,
            sampler=picks,
            num_workers=self.num_workers,
            collate_fn=_as_it_is,
            pin_memory=torch.cuda.is_available(),
        )
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            levels, labels = batch
            yield from_levels(levels, self.num_levels), labels


@dataclass(frozen=True)
class _Images(Dataset):
    """images[pick] is a batch: uint8 (B, C, H, W) and labels."""

    paths: list[Path]
    labels: Tensor | None
    shape: tuple[int, int, int]

    def __getitem__(self, pick: Pick) -> tuple[Tensor, Tensor | None] | DataError:
        indices, mirrored = pick
        channels, image_size, _ = self.shape
        try:
            levels = torch.stack([read_image(self.paths[i], image_size, channels) for i in indices.tolist()])
        except DataError as error:
            # Raised in a worker it would reach the user wrapped in the worker's traceback; handed over, it stays
            # one sentence.
            return error
        levels[mirrored] = levels[mirrored].flip(-1)
        return levels, None if self.labels is None else self.labels[indices]


def _as_it_is(batch: object) -> object:
    return batch


def _image_paths(folder: Path) -> list[Path]:
    """All images in the folder, however deep, sorted by name: the same on every machine."""
    if not folder.is_dir():
        raise DataError(f"{folder} is missing beside the other split: train/ and test/ are both needed, or neither.")
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not paths:
        raise DataError(f"{folder} holds no images: their names must end in one of {', '.join(sorted(SUFFIXES))}.")
    return paths


def _class_of(path: Path, folder: Path) -> str:
    names = path.relative_to(folder).parts
    if len(names) == 1:
        raise DataError(
            f"{path} is in no class: with data.classes=subfolders every image lies in a folder in {folder}."
        )
    return names[0]


def _checked_digest(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}): give permission to read it, or remove it."
        ) from error
    check_image(path, content)
    return hashlib.sha256(content).hexdigest()
