import pickle
import shutil
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision import datasets

from diffusion_lab.data import DataError
from diffusion_lab.data.cifar import CIFAR10, CIFAR100
from tests.data.small_sets import write_cifar10, write_cifar100
from tests.hostile import Harm


def cifar10(root: Path, **options) -> CIFAR10:
    return CIFAR10(**{"batch_size": 4, "seed": 0, "root": str(root)} | options)


def test_small_files_are_read_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = cifar10(write_cifar10(tmp_path, monkeypatch))
    x, y = next(data.batches("train", 100))
    contents = [
        pickle.loads((tmp_path / "cifar-10-batches-py" / f"data_batch_{i}").read_bytes())["data"] for i in range(1, 6)
    ]
    pixels = torch.from_numpy(np.concatenate(contents)).view(-1, 3, 32, 32)  # red, green, blue; row by row
    assert torch.equal(((x + 1) * 127.5).round().to(torch.uint8), pixels)
    assert y.tolist() == [(i + 4) % 10 for i in range(20)]
    assert (data.num_train, data.num_test, data.num_classes, data.num_levels) == (20, 10, 10, 256)


def test_a_hundred_classes_are_the_fine_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = CIFAR100(4, 0, root=str(write_cifar100(tmp_path, monkeypatch)))
    _, y = next(data.batches("test", 100))
    assert y.tolist() == list(range(100))
    assert len(data.class_names) == 100


@pytest.mark.parametrize("name", ["data_batch_1", "batches.meta"])
def test_a_hostile_pickle_is_refused_and_does_not_run(tmp_path: Path, monkeypatch, name: str) -> None:
    root = write_cifar10(tmp_path / "data", monkeypatch)
    monkeypatch.chdir(tmp_path)
    (root / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(Harm()))
    with pytest.raises(DataError, match=rf"{name} is not the published file \(its MD5 is .*data\.download=true"):
        cifar10(root).prepare()
    assert not Path("harm").exists()
    pickle.loads((root / "cifar-10-batches-py" / name).read_bytes())
    assert Path("harm").exists()  # it would have


def test_a_failed_download_says_why_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fetch)
    with pytest.raises(DataError, match=r"could not be put into .*no route.*: put ") as error:
        cifar10(tmp_path / "new", download=True).prepare()
    assert "\n" not in str(error.value)
    assert list((tmp_path / "new").iterdir()) == []


def test_torchvision_downloads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = write_cifar10(tmp_path / "made", monkeypatch)

    def fetch(url: str, root: str, filename: str, md5: str) -> None:
        assert (filename, md5) == ("cifar-10-python.tar.gz", datasets.CIFAR10.tgz_md5)
        shutil.copytree(made, root, dirs_exist_ok=True)

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fetch)
    data = cifar10(tmp_path / "new", download=True)
    data.prepare()
    assert data.num_train == 20
    monkeypatch.delattr("torchvision.datasets.cifar.download_and_extract_archive")
    again = cifar10(tmp_path / "new", download=True)
    again.prepare()
    assert again.identity == data.identity
