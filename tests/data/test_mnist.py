import gzip
from pathlib import Path
from urllib.error import URLError

import pytest

from diffusion_lab.data import DataError
from diffusion_lab.data.mnist import MNIST, FashionMNIST


def test_the_format_is_fashion_mnists(idx_folder: Path) -> None:
    digits, clothes = (kind(batch_size=4, seed=0, root=str(idx_folder)) for kind in (MNIST, FashionMNIST))
    digits.prepare()
    clothes.prepare()
    assert digits.identity == clothes.identity
    assert (digits.name, digits.shape, digits.num_train, digits.num_test) == ("mnist", (1, 28, 28), 20, 10)


def test_without_it_the_files_are_named_and_where_to_put_them(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"MNIST was not found in .*: set data\.download=true, or put train-images-"
    ) as e:
        MNIST(batch_size=4, seed=0, root=str(tmp_path)).prepare()
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        assert f"{part}-ubyte.gz" in str(e.value)
    assert f"into {tmp_path}, or name the folder" in str(e.value)
    assert "Debian" not in str(e.value)


def test_torchvision_downloads_it(idx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(url: str, download_root: str, filename: str, md5: str) -> None:
        content = gzip.decompress((idx_folder / filename).read_bytes())
        (Path(download_root) / filename.removesuffix(".gz")).write_bytes(content)

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", fetch)
    data = MNIST(batch_size=4, seed=0, root=str(tmp_path / "new"), download=True)
    data.prepare()
    assert data.num_train == 20
    assert len(list((tmp_path / "new").iterdir())) == 4


def test_without_network_one_sentence_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(url: str, **options: str) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", fetch)
    with pytest.raises(
        DataError, match=r"MNIST could not be downloaded .*no route.*: put train-images-.*\.gz"
    ) as error:
        MNIST(batch_size=4, seed=0, root=str(tmp_path / "new"), download=True).prepare()
    assert "\n" not in str(error.value)
    assert list((tmp_path / "new").iterdir()) == []
