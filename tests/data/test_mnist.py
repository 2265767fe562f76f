"""MNIST and Fashion-MNIST: files from every source, whole and broken."""

import gzip
import shutil
import tracemalloc
from pathlib import Path

import pytest
import torch

from diffusion_lab.data import DataError, mnist
from diffusion_lab.data.mnist import MNIST, FashionMNIST


def test_torchvision_downloads_it(idx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(url: str, download_root: str, filename: str, md5: str) -> None:
        content = gzip.decompress((idx_folder / filename).read_bytes())
        (Path(download_root) / filename.removesuffix(".gz")).write_bytes(content)

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", fetch)
    data = MNIST(batch_size=4, seed=0, root=str(tmp_path / "new"), download=True)
    data.prepare()
    assert data.num_train == 20
    assert len(list((tmp_path / "new").iterdir())) == 4


# ---- fashion_mnist ----


@pytest.mark.needs("dataset-fashion-mnist")
def test_the_real_set(fashion_package: None) -> None:
    data = FashionMNIST(batch_size=64, seed=0)
    data.prepare()
    assert (data.shape, data.num_train, data.num_test) == ((1, 28, 28), 60_000, 10_000)
    assert data.identity == "c9fed61f396c09902e5e10e4935cf776f353797cab68e233296726cbe346c2a6"
    for split, size in (("train", 6000), ("test", 1000)):
        assert torch.cat([y for _, y in data.batches(split, 10_000)]).bincount().tolist() == [size] * 10


def test_small_files_are_read_as_they_are(idx_folder: Path) -> None:
    data = FashionMNIST(batch_size=4, seed=0, root=str(idx_folder))
    x, y = next(data.batches("train", 20))
    content = gzip.decompress((idx_folder / "train-images-idx3-ubyte.gz").read_bytes())
    assert ((x + 1) * 127.5).round().to(torch.uint8).numpy().tobytes() == content[16:]
    assert y.tolist() == [i % 10 for i in range(20)]
    assert x.shape == (20, 1, 28, 28)


def test_every_source_has_the_same_identity(idx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gzipped = FashionMNIST(batch_size=4, seed=0, root=str(idx_folder))
    torchvisions = tmp_path / "torchvision" / "FashionMNIST" / "raw"
    package = tmp_path / "share" / "datasets" / "fashion-mnist"
    for folder in (torchvisions, package):
        folder.mkdir(parents=True)
    for path in idx_folder.glob("*.gz"):
        (torchvisions / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        shutil.copy(path, package)
    plain = FashionMNIST(batch_size=4, seed=0, root=str(tmp_path / "torchvision"))
    folders = mnist._package_folders

    def below(package):  # the machine's own package must not be found
        return [path for path in folders(package) if path.is_relative_to(tmp_path)]

    monkeypatch.setattr(mnist, "_package_folders", below)
    monkeypatch.setenv("XDG_DATA_DIRS", f"{tmp_path / 'nothing'}:{tmp_path / 'share'}")
    listed = FashionMNIST(batch_size=4, seed=0)
    monkeypatch.delenv("XDG_DATA_DIRS")
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    of_python = FashionMNIST(batch_size=4, seed=0)
    for data in (gzipped, plain, listed, of_python):
        data.prepare()
        assert data.identity == gzipped.identity


def test_an_incomplete_folder_is_not_a_source(idx_folder: Path) -> None:
    (idx_folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="not found"):
        FashionMNIST(batch_size=4, seed=0, root=str(idx_folder)).prepare()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:40] + bytes([content[40] ^ 255]) + content[41:],
        lambda content: gzip.compress(b"\0\0\x0d" + gzip.decompress(content)[3:]),
        lambda content: gzip.compress(gzip.decompress(content)[:-1]),
    ],
    ids=["truncated", "flipped bits", "other type", "a byte short"],
)
def test_a_broken_file_is_named(idx_folder: Path, damage) -> None:
    path = idx_folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is not (a readable|an) idx file") as error:
        FashionMNIST(batch_size=4, seed=0, root=str(idx_folder)).prepare()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("write", [gzip.open, open], ids=["gzipped", "plain"])
def test_what_is_longer_than_its_header_says_is_not_read_to_its_end(tmp_path: Path, write) -> None:
    path = tmp_path / ("images.gz" if write is gzip.open else "images")
    with write(path, "wb") as file:
        file.write(bytes([0, 0, 8, 1, 0, 0, 0, 10]) + bytes(2**24))
    tracemalloc.start()
    with pytest.raises(DataError, match=r"is not an idx file of unsigned bytes of shape \(10,\): fetch the file again"):
        mnist.read_idx(path, (10,))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20
