"""MNIST, and Fashion-MNIST in its format: 1×28×28, 60,000 + 10,000 images, ten classes, in four idx files.

An idx file is two zero bytes, a type byte (8: unsigned bytes), the number of axes, each axis as a big-endian 32-bit
integer, then the bytes (Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits). torchvision
downloads the files and checks them; they are read here because its reader checks neither their shape nor their
labels, and needs them unzipped.
"""

import gzip
import math
import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets

from diffusion_lab.data.array_files import one_sentence
from diffusion_lab.data.checks import require
from diffusion_lab.data.in_memory import InMemoryDataModule, Split
from diffusion_lab.data.published import Published

_SIZES = {"train": 60_000, "t10k": 10_000}
_NAMES = [f"{part}-{kind}-ubyte" for part in _SIZES for kind in ("images-idx3", "labels-idx1")]


class IdxImages(Published, InMemoryDataModule):
    """Grey images from the four idx files in a folder, from a Debian package, or through torchvision's download.

    `root` is a folder with the idx files, gzipped or not, or one that torchvision downloaded into. Without it they
    are searched in the place of a Debian package and of an earlier download. The identity is computed
    from the decoded images, so it does not depend on the source.
    """

    torchvisions: str  # its class, and the folder inside its root
    package: str | None = None  # Debian's
    num_classes = 10
    num_levels = 256

    def __init__(
        self, batch_size: int, seed: int, flip: bool = False, root: str | None = None, download: bool = False
    ) -> None:
        super().__init__(batch_size, seed, flip)
        self._look_in(root, download)
        self._folders = [self.folder] if root or not self.package else [*_package_folders(self.package), self.folder]
        self.fetched_into = f"{self.torchvisions}/raw"

    def _fetch(self, root: str) -> object:
        return getattr(datasets, self.torchvisions)(root, download=True)

    @property
    def _by_hand(self) -> str:
        files = ", ".join(f"{name}.gz" for name in _NAMES)
        package = f"install Debian's package {self.package}, or " if self.package else ""
        return f"{package}put {files} into {self.folder}, or name the folder that holds them with data.root=FOLDER"

    def _wrong(self) -> str | None:
        return None if self._files() else f"the files were not found in {self.folder}"

    def _files(self) -> dict[str, Path]:
        """The four files of the first folder that holds them all; empty if none does."""
        for folder in self._folders:
            for place in (folder, folder / self.fetched_into):
                files = {
                    name: path for name in _NAMES for path in (place / f"{name}.gz", place / name) if path.is_file()
                }
                if len(files) == len(_NAMES):
                    return files
        return {}

    def _read(self) -> tuple[Split, Split]:
        self._find()
        files = self._files()
        train, test = (
            Split(
                read_idx(files[f"{part}-images-idx3-ubyte"], (size, 28, 28))[:, None],
                read_idx(files[f"{part}-labels-idx1-ubyte"], (size,)).long(),
            )
            for part, size in _SIZES.items()
        )
        return train, test


class MNIST(IdxImages):
    """70,000 grey scans of the digits 0 … 9 (LeCun, Bottou, Bengio, Haffner 1998). Mirrored digits are not digits."""

    name = "mnist"
    title = torchvisions = "MNIST"
    class_names = tuple("0123456789")


class FashionMNIST(IdxImages):
    """70,000 grey pictures of clothes in ten classes (H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, arXiv 1708.07747, 2017)."""

    name = "fashion_mnist"
    title = "Fashion-MNIST"
    torchvisions = "FashionMNIST"
    class_names = (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    )  # fmt: skip
    package = "dataset-fashion-mnist"


def read_idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    """The array in an idx file of unsigned bytes (.gz: gzipped), uint8; DataError unless it has exactly this `shape`."""
    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, dtype=">u4").tobytes()
    size = len(header) + math.prod(shape)
    with one_sentence(path, "idx file"), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        content = file.read(size + 1)  # a small file may expand to fill the memory
    fits = content[: len(header)] == header and len(content) == size
    require(fits, f"{path} is not an idx file of unsigned bytes of shape {shape}: fetch the file again.")
    # The array is a view of immutable bytes; torch needs memory of its own.
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape).copy())


def _package_folders(package: str) -> list[Path]:
    shares = [f"{sys.prefix}/share", "/usr/share", "/usr/local/share", *os.environ.get("XDG_DATA_DIRS", "").split(":")]
    return [Path(share, "datasets", package.removeprefix("dataset-")) for share in shares if share]
