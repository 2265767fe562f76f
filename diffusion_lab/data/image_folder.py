"""Your own images: a folder, or one folder per class, streamed through worker processes."""

from collections.abc import Sequence
from pathlib import Path

import torch

from diffusion_lab.data.error import DataError
from diffusion_lab.data.image_files import ImageFiles
from diffusion_lab.data.images import MAX_PIXELS, SUFFIXES
from diffusion_lab.data.splits import held_out


class ImageFolder(ImageFiles):
    """All images under `root`, however deep, cropped and resized to `image_size`. channels: 1 is grey, 3 is RGB.

    If `root` holds train/ and test/, they are the splits; else a fixed random share of `test_fraction` is held out.
    classes="subfolders": the class of an image is the folder it is in, directly below `root` (or below train/ and
    test/), in alphabetical order.
    """

    name = "image_folder"

    def __init__(
        self,
        batch_size: int,
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
    ) -> None:
        where = (Path(root), image_size, channels, num_workers, on_error, max_pixels, num_levels)
        super().__init__(batch_size, seed, flip, *where)
        if classes not in (None, "subfolders"):
            raise DataError(f"data.classes={classes} must be null or subfolders.")
        if not 0 < test_fraction < 1:
            raise DataError(f"data.test_fraction={test_fraction} must lie between 0 and 1.")
        self.classes = classes
        self.test_fraction = test_fraction

    def missing(self) -> str | None:
        try:
            self._split_folders()
        except DataError as error:
            return str(error)
        return None

    def _load(self) -> None:
        folders = self._split_folders()
        if folders:
            listed = {split: _image_paths(folder) for split, folder in folders.items()}
            digests = self._usable([path for paths in listed.values() for path in paths])
            paths = {split: [path for path in listed[split] if path in digests] for split in listed}
        else:
            folders = dict.fromkeys(("train", "test"), self.root)
            digests = self._usable(_image_paths(self.root))
            paths = self._hold_out(list(digests))

        labels = dict.fromkeys(paths)
        self.num_classes = None
        if self.classes:
            of = {split: [_class_of(path, folders[split]) for path in paths[split]] for split in paths}
            self.class_names = sorted(set(of["train"]))
            if unseen := sorted(set(of["test"]) - set(of["train"])):
                raise DataError(
                    f"{self.root} has no training images of the class {unseen[0]}: add some, or remove the class."
                )
            labels = {split: torch.tensor([self.class_names.index(c) for c in of[split]]) for split in paths}
            self.num_classes = len(self.class_names)
        self._hold(paths, labels, digests)

    def _split_folders(self) -> dict[str, Path] | None:
        """The folders of the splits, if any of them is there."""
        if not self.root.is_dir():
            raise DataError(f"data.root={self.root} is not a folder: name the folder that holds your images.")
        folders = {split: self.root / split for split in ("train", "test")}
        return folders if any(folder.is_dir() for folder in folders.values()) else None

    def _hold_out(self, paths: list[Path]) -> dict[str, list[Path]]:
        if len(paths) < 2:
            raise DataError(f"{self.root} holds one image: at least two are needed, to train and to test.")
        test = held_out(len(paths), self.test_fraction).tolist()
        return {
            "train": [path for path, is_test in zip(paths, test, strict=True) if not is_test],
            "test": [path for path, is_test in zip(paths, test, strict=True) if is_test],
        }


def _image_paths(folder: Path) -> list[Path]:
    """All images in the folder, however deep, sorted by name: the same on every machine."""
    if not folder.is_dir():
        raise DataError(f"{folder} is missing: give both train/ and test/, or neither.")
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
            f"{path} has no class: with data.classes=subfolders every image must lie in a subfolder of {folder}."
        )
    return names[0]
