"""MNIST, and Fashion-MNIST in its format, through torchvision: 1×28×28, 60,000 + 10,000 images, ten classes.

torchvision reads the four idx files in FOLDER/MNIST/raw without checking their shape and their labels; they are checked
here. Debian's package has them gzipped; they are unpacked once, into the user's cache folder.
"""

import gzip
import os
import shutil
import sys
from pathlib import Path

from torchvision import datasets

from diffusion_lab.data.array_files import one_sentence
from diffusion_lab.data.checks import require
from diffusion_lab.data.in_memory import InMemoryDataModule, Split
from diffusion_lab.data.published import Published

_SIZES = {"train": 60_000, "t10k": 10_000}
_NAMES = [f"{part}-{kind}-ubyte" for part in _SIZES for kind in ("images-idx3", "labels-idx1")]


class IdxImages(Published, InMemoryDataModule):
    """Grey images, 1×28×28.

    batch_size, seed, flip: as in `DataModule`. root: the folder of torchvision's data set; None: the user's cache folder.
    download: fetch the files if they are missing.
    """

    source: type[datasets.MNIST]
    package: str | None = None  # Debian's
    num_classes = 10
    num_levels = 256

    def __init__(
        self, batch_size: int, seed: int, flip: bool = False, root: str | None = None, download: bool = False
    ) -> None:
        super().__init__(batch_size, seed, flip)
        self._look_in(root, download)
        self._packed = None if root or not self.package else _folder_of(self.package)
        self._inside = Path(self.source.__name__, "raw")

    def _fetch(self, root: str) -> object:
        if self._packed is None:
            return self.source(root, download=True)
        raw = Path(root, self._inside)
        raw.mkdir(parents=True)
        for name in _NAMES:
            with gzip.open(self._packed / f"{name}.gz") as packed, (raw / name).open("wb") as file:
                shutil.copyfileobj(packed, file)
        return None

    @property
    def _by_hand(self) -> str:
        package = f"install Debian's package {self.package}, or " if self.package else ""
        return f"{package}put {', '.join(_NAMES)}, unpacked, into {self.folder / self._inside}"

    def _lacks(self) -> bool:
        return not all((self.folder / self._inside / name).is_file() for name in _NAMES)

    def _wrong(self) -> str | None:
        return (
            f"the files were not found in {self.folder / self._inside}" if self._lacks() and not self._packed else None
        )

    def _find(self) -> None:
        if self._packed and self._lacks():
            self._download()
        super()._find()

    def _read(self) -> tuple[Split, Split]:
        self._find()
        train, test = (self._split(part, size) for part, size in _SIZES.items())
        return train, test

    def _split(self, part: str, size: int) -> Split:
        files = f"{self.folder / self._inside / part}-…"
        with one_sentence(files, "pair of idx files"):
            found = self.source(str(self.folder), train=part == "train")
        labels = found.targets.long()
        fits = (*found.data.shape,) == (size, 28, 28) and (*labels.shape,) == (size,) and int(labels.max()) < 10
        require(fits, f"{files} are not {size:,} images of 28×28 pixels in ten classes: fetch the files again.")
        return Split(found.data[:, None], labels)


class MNIST(IdxImages):
    """70,000 grey scans of the digits 0 … 9 (LeCun, Bottou, Bengio, Haffner 1998). Mirrored digits are not digits."""

    name, title = "mnist", "MNIST"
    source = datasets.MNIST
    class_names = tuple("0123456789")


class FashionMNIST(IdxImages):
    """70,000 grey pictures of clothes in ten classes (H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, arXiv 1708.07747, 2017)."""

    name, title = "fashion_mnist", "Fashion-MNIST"
    source = datasets.FashionMNIST
    class_names = (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    )  # fmt: skip
    package = "dataset-fashion-mnist"


def _folder_of(package: str) -> Path | None:
    """The folder with the gzipped files of a package of Debian, if it is installed."""
    shares = [f"{sys.prefix}/share", "/usr/share", "/usr/local/share", *os.environ.get("XDG_DATA_DIRS", "").split(":")]
    folders = (Path(share, "datasets", package.removeprefix("dataset-")) for share in shares if share)
    return next((at for at in folders if all((at / f"{name}.gz").is_file() for name in _NAMES)), None)
