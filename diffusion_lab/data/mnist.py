"""MNIST's idx files and the data sets that come in them: 1×28×28, 60,000 + 10,000 images, ten classes.

An idx file is two zero bytes, a type byte (8: unsigned bytes), the number of axes, each axis as a big-endian 32-bit
integer, then the bytes (Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits). torchvision
downloads the files and checks them; they are read here because its reader checks neither their shape nor their
labels, and needs them unzipped.
"""

import gzip
import math
import os
import sys
import zlib
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffusion_lab.data.in_memory import InMemoryDataModule, Split
from diffusion_lab.data.module import DataError
from diffusion_lab.data.published import cache_folder, download

_SIZES = {"train": 60_000, "t10k": 10_000}
_IMAGE_SHAPE = (28, 28)
_UNSIGNED_BYTE = 8


class IdxImages(InMemoryDataModule):
    """Grey images from the four idx files in a folder, from a Debian package, or through torchvision's download.

    `root` is a folder with the idx files, gzipped or not, or one that torchvision downloaded into. Without it they
    are looked for where a Debian package puts them and where an earlier download left them. `download` fetches them
    if they are not found. The identity is taken from the decoded images, so it is the same whichever source they
    came from.
    """

    title: str  # the name in sentences
    raw: str  # where torchvision puts the files, inside its root
    package: str | None = None  # Debian's package
    num_classes = 10
    num_levels = 256

    def __init__(
        self, batch_size: int, seed: int, flip: bool = False, root: str | None = None, download: bool = False
    ) -> None:
        super().__init__(batch_size, seed, flip)
        self.root = root
        self.download = download

    @abstractmethod
    def _fetch(self, root: str) -> object:
        """torchvision's download into `root`."""

    def missing(self) -> str | None:
        if self._find() is not None:
            return None
        package = f"install Debian's package {self.package}, " if self.package else ""
        return f"{self.title} was not found in {self._folder}: set data.download=true, {package}or {self._by_hand}."

    def _read(self) -> tuple[Split, Split]:
        if self.download and self._find() is None:
            download(self.title, self._folder, self._fetch, self.raw, self._by_hand)
        files = self._find()
        if files is None:
            raise DataError(self.missing())
        train, test = (
            Split(
                read_idx(files[f"{part}-images-idx3-ubyte"], (size, *_IMAGE_SHAPE))[:, None],
                self._labels(files[f"{part}-labels-idx1-ubyte"], size),
            )
            for part, size in _SIZES.items()
        )
        return train, test

    @property
    def _folder(self) -> Path:
        return Path(self.root) if self.root else cache_folder(self.name)

    @property
    def _by_hand(self) -> str:
        files = ", ".join(f"{name}.gz" for name in _names())
        return f"put {files} into {self._folder}, or name the folder that holds them with data.root=FOLDER"

    def _find(self) -> dict[str, Path] | None:
        """The four files of the first folder that holds them all."""
        packages = _package_folders(self.package) if self.package else ()
        folders = [Path(self.root)] if self.root else [*packages, cache_folder(self.name)]
        for folder in folders:
            for place in (folder, folder / self.raw):
                files = {name: _plain_or_gzipped(place / name) for name in _names()}
                if all(files.values()):
                    return files
        return None

    def _labels(self, path: Path, size: int) -> Tensor:
        labels = read_idx(path, (size,)).long()
        if labels.max() >= self.num_classes:
            raise DataError(
                f"{path} holds the label {labels.max()}, but there are {self.num_classes} classes: fetch it again."
            )
        return labels


def read_idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    """The array in an idx file of unsigned bytes (.gz: gzipped), uint8; DataError unless it has just this `shape`."""
    header = bytes([0, 0, _UNSIGNED_BYTE, len(shape)]) + np.array(shape, dtype=">u4").tobytes()
    size = len(header) + math.prod(shape)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(size + 1)  # a small file of a stranger may unfold to all of the memory
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}): fetch the file again.") from error
    if content[: len(header)] != header or len(content) != size:
        raise DataError(f"{path} is not an idx file of unsigned bytes of shape {shape}: fetch the file again.")
    # The array is a view of immutable bytes; torch needs memory of its own.
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape).copy())


def _names() -> list[str]:
    return [f"{part}-{kind}-ubyte" for part in _SIZES for kind in ("images-idx3", "labels-idx1")]


def _plain_or_gzipped(path: Path) -> Path | None:
    return next((p for p in (path, path.with_name(path.name + ".gz")) if p.is_file()), None)


def _package_folders(package: str) -> Iterator[Path]:
    shares = [f"{sys.prefix}/share", "/usr/share", "/usr/local/share"]
    shares += filter(None, os.environ.get("XDG_DATA_DIRS", "").split(":"))
    return (Path(share) / "datasets" / package.removeprefix("dataset-") for share in shares)


class MNIST(IdxImages):
    """70,000 grey scans of the digits 0 … 9 (LeCun, Bottou, Bengio, Haffner 1998). Mirrored digits are not digits."""

    name = "mnist"
    title = "MNIST"
    class_names = tuple("0123456789")
    raw = "MNIST/raw"

    def _fetch(self, root: str) -> object:
        # Imported here: it takes a second, and only a download needs it.
        from torchvision import datasets

        return datasets.MNIST(root, download=True)


class FashionMNIST(IdxImages):
    """70,000 grey pictures of clothes in ten classes (H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, arXiv 1708.07747, 2017)."""

    name = "fashion_mnist"
    title = "Fashion-MNIST"
    class_names = (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    )  # fmt: skip
    raw = "FashionMNIST/raw"
    package = "dataset-fashion-mnist"

    def _fetch(self, root: str) -> object:
        # Imported here: it takes a second, and only a download needs it.
        from torchvision import datasets

        return datasets.FashionMNIST(root, download=True)
