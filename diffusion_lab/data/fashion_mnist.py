"""Fashion-MNIST, 1×28×28, 60,000 + 10,000 images, from a folder, from Debian's package, or through torchvision's download.

The files are in the idx format: two zero bytes, a type byte (8: unsigned bytes), the number of axes, each axis as a
big-endian 32-bit integer, then the bytes (Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten
digits). The identity is taken from the decoded images, so it is the same whichever source they came from.
"""

import gzip
import math
import os
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffusion_lab.data.base import DataError
from diffusion_lab.data.memory import InMemoryDataModule, Split

_SIZES = {"train": 60_000, "t10k": 10_000}
_IMAGE_SHAPE = (28, 28)
_UNSIGNED_BYTE = 8


class FashionMNIST(InMemoryDataModule):
    """70,000 grey pictures of clothes in ten classes (H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, arXiv 1708.07747, 2017).

    `root` is a folder with the idx files, gzipped or not, or one that torchvision downloaded into. Without it they
    are looked for where Debian's dataset-fashion-mnist puts them and where an earlier download left them.
    `download` fetches them if they are not found.
    """

    name = "fashion_mnist"
    num_classes = 10
    num_levels = 256

    def __init__(
        self, batch_size: int, seed: int, flip: bool = True, root: str | None = None, download: bool = False
    ) -> None:
        super().__init__(batch_size, seed, flip)
        self.root = root
        self.download = download

    def _read(self) -> tuple[Split, Split]:
        files = self._find()
        if files is None and self.download:
            _download(Path(self.root) if self.root else _download_folder())
            files = self._find()
        if files is None:
            where = self.root or "any share/datasets/fashion-mnist folder"
            raise DataError(
                f"Fashion-MNIST was not found in {where}: set data.download=true, install Debian's package "
                "dataset-fashion-mnist, or name the folder that holds its idx files with data.root=FOLDER."
            )
        return tuple(
            Split(
                read_idx(files[f"{part}-images-idx3-ubyte"], (size, *_IMAGE_SHAPE))[:, None],
                _labels(files[f"{part}-labels-idx1-ubyte"], size),
            )
            for part, size in _SIZES.items()
        )

    def _find(self) -> dict[str, Path] | None:
        """The four files of the first folder that holds them all."""
        folders = [Path(self.root)] if self.root else [*_package_folders(), _download_folder()]
        for folder in folders:
            # torchvision's download makes FashionMNIST/raw inside its root.
            for place in (folder, folder / "FashionMNIST" / "raw"):
                files = {name: _plain_or_gzipped(place / name) for name in _names()}
                if all(files.values()):
                    return files
        return None


def read_idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    """The array in an idx file of unsigned bytes (.gz: gzipped), uint8; DataError unless it has just this `shape`."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}): fetch the file again.") from error
    header = bytes([0, 0, _UNSIGNED_BYTE, len(shape)]) + np.array(shape, dtype=">u4").tobytes()
    if content[: len(header)] != header or len(content) != len(header) + math.prod(shape):
        raise DataError(f"{path} is not an idx file of unsigned bytes of shape {shape}: fetch the file again.")
    # The array is a view of immutable bytes; torch wants memory of its own.
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape).copy())


def _labels(path: Path, size: int) -> Tensor:
    labels = read_idx(path, (size,)).long()
    if labels.max() >= FashionMNIST.num_classes:
        raise DataError(
            f"{path} holds the label {labels.max()}, but there are {FashionMNIST.num_classes} classes: fetch it again."
        )
    return labels


def _names() -> list[str]:
    return [f"{part}-{kind}-ubyte" for part in _SIZES for kind in ("images-idx3", "labels-idx1")]


def _plain_or_gzipped(path: Path) -> Path | None:
    return next((p for p in (path, path.with_name(path.name + ".gz")) if p.is_file()), None)


def _package_folders() -> Iterator[Path]:
    shares = [f"{sys.prefix}/share", "/usr/share", "/usr/local/share"]
    shares += filter(None, os.environ.get("XDG_DATA_DIRS", "").split(":"))
    return (Path(share) / "datasets" / "fashion-mnist" for share in shares)


def _download_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffusion_lab" / "fashion_mnist"


def _download(folder: Path) -> None:
    """torchvision's download, moved into `folder` file by file once it is whole: another process may be doing the same."""
    # Imported here: it takes a second, and only a download needs it.
    from torchvision.datasets import FashionMNIST as Download

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as staging:
            Download(staging, download=True)
            for path in (Path(staging) / "FashionMNIST" / "raw").iterdir():
                os.replace(path, folder / path.name)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"Fashion-MNIST could not be downloaded into {folder} ({error}): name a folder that has it with data.root."
        ) from error
