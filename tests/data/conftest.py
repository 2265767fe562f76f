"""Data sets on disk, small enough for a test, in the true formats."""

from pathlib import Path

import pytest

from diffusion_lab.data import DataError
from diffusion_lab.data.mnist import FashionMNIST
from tests.data.small_sets import write_idx, write_images


@pytest.fixture(scope="session")
def fashion_package() -> None:
    """Skips a test where Debian's dataset-fashion-mnist is not installed."""
    try:
        FashionMNIST(batch_size=1, seed=0).prepare()
    except DataError as error:
        pytest.skip(str(error))


@pytest.fixture
def idx_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an MNIST and a Fashion-MNIST of 20 + 10 images."""
    return write_idx(tmp_path, monkeypatch)


@pytest.fixture
def image_root(tmp_path: Path) -> Path:
    return write_images(tmp_path / "own")
