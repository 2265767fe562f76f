"""Data sets on disk, small enough for a test, in the true formats."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion_lab.data import DataError
from diffusion_lab.data import fashion_mnist as fashion


@pytest.fixture(scope="session")
def fashion_package() -> None:
    """Skips a test where Debian's dataset-fashion-mnist is not installed."""
    try:
        fashion.FashionMNIST(batch_size=1, seed=0).prepare()
    except DataError as error:
        pytest.skip(str(error))


@pytest.fixture
def idx_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the four gzipped files of a Fashion-MNIST of 20 + 10 images."""
    monkeypatch.setattr(fashion, "_SIZES", {"train": 20, "t10k": 10})
    random = np.random.default_rng(0)
    for part, size in (("train", 20), ("t10k", 10)):
        images = random.integers(256, size=(size, 28, 28), dtype=np.uint8)
        labels = (np.arange(size) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
            (tmp_path / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))
    return tmp_path


@pytest.fixture
def image_root(tmp_path: Path) -> Path:
    return write_images(tmp_path / "own")


def write_images(root: Path) -> Path:
    """Twenty pictures of assorted sizes and kinds in two class folders."""
    random = np.random.default_rng(0)
    for i in range(20):
        folder = root / ("bees" if i % 2 else "ants")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(256, size=(5 + i, 30 - i, 3), dtype=np.uint8)
        suffix, mode = (("png", "RGB"), ("jpg", "RGB"), ("bmp", "L"), ("gif", "P"), ("png", "RGBA"))[i % 5]
        Image.fromarray(pixels).convert(mode).save(folder / f"{i:02}.{suffix}")
    (root / "notes.txt").write_text("not an image")
    return root
