"""MNIST and Fashion-MNIST: files from every source, whole and broken."""

import gzip
from pathlib import Path

import pytest
import torch

from diffusion_lab.data import DataError, mnist
from diffusion_lab.data.mnist import MNIST, FashionMNIST

RAW = Path("FashionMNIST/raw")


def test_torchvision_downloads_it(idx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(url: str, download_root: str, filename: str, md5: str) -> None:
        name = filename.removesuffix(".gz")
        (Path(download_root) / name).write_bytes((idx_folder / "MNIST" / "raw" / name).read_bytes())

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", fetch)
    data = MNIST(batch_size=4, seed=0, root=str(tmp_path / "new"), download=True)
    data.prepare()
    assert data.num_train == 20
    assert len(list((tmp_path / "new" / "MNIST" / "raw").iterdir())) == 4


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
    content = (idx_folder / RAW / "train-images-idx3-ubyte").read_bytes()
    assert ((x + 1) * 127.5).round().to(torch.uint8).numpy().tobytes() == content[16:]
    assert y.tolist() == [i % 10 for i in range(20)]
    assert x.shape == (20, 1, 28, 28)


@pytest.fixture
def packed(idx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of Debian's package, found in place of the machine's own; the cache folder is empty."""
    folder = tmp_path / "share" / "datasets" / "fashion-mnist"
    folder.mkdir(parents=True)
    for path in (idx_folder / RAW).iterdir():
        (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    return folder


def test_debians_files_are_unpacked_once(packed: Path, idx_folder: Path) -> None:
    first = FashionMNIST(batch_size=4, seed=0)
    assert first.missing() is None
    first.prepare()
    for path in packed.iterdir():
        path.unlink()
    again, plain = (FashionMNIST(batch_size=4, seed=0, root=root) for root in (None, str(idx_folder)))
    for data in (again, plain):
        data.prepare()
        assert data.identity == first.identity


def test_where_a_package_is_found(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.prefix", str(tmp_path / "nothing"))
    monkeypatch.setenv("XDG_DATA_DIRS", f"{tmp_path / 'nothing'}:{tmp_path / 'share'}")
    found = mnist._folder_of("dataset-fashion-mnist")
    assert found in (packed, Path("/usr/share/datasets/fashion-mnist"))


def test_an_incomplete_folder_is_not_a_source(idx_folder: Path) -> None:
    (idx_folder / RAW / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"not found .*put train-images-idx3-ubyte"):
        FashionMNIST(batch_size=4, seed=0, root=str(idx_folder)).prepare()


def test_a_broken_package_is_said(packed: Path) -> None:
    path = packed / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"could not be put into .*end-of-stream"):
        FashionMNIST(batch_size=4, seed=0).prepare()


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("images-idx3", lambda content: content[: len(content) // 2]),
        ("images-idx3", lambda content: b"\0\0\x0d" + content[3:]),
        ("images-idx3", lambda content: content[:4] + (19).to_bytes(4, "big") + content[8:-784]),
        ("labels-idx1", lambda content: content[:-1] + b"\x0a"),
    ],
    ids=["truncated", "other type", "an image short", "an eleventh class"],
)
def test_a_broken_file_is_named(idx_folder: Path, name: str, damage) -> None:
    path = idx_folder / RAW / f"train-{name}-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"raw/train-… (is not a readable pair of|are not 20 images)") as error:
        FashionMNIST(batch_size=4, seed=0, root=str(idx_folder)).prepare()
    assert "\n" not in str(error.value)
