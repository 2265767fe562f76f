"""Published data sets that torchvision downloads; what is missing is named in tests/commands/test_doctor.py."""

from urllib.error import URLError

import pytest

from diffusion_lab.data import DataError
from diffusion_lab.data.celeba import CelebA
from diffusion_lab.data.cifar import CIFAR10
from diffusion_lab.data.mnist import MNIST

FETCH = {
    MNIST: "mnist.download_and_extract_archive",
    CIFAR10: "cifar.download_and_extract_archive",
    CelebA: "celeba.download_file_from_google_drive",
}


@pytest.mark.parametrize("kind", FETCH, ids=lambda kind: kind.__name__)
def test_a_failed_download_says_why_and_leaves_nothing(tmp_path, monkeypatch, kind):
    def fetch(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(f"torchvision.datasets.{FETCH[kind]}", fetch)
    options = {"image_size": 16, "num_workers": 0} if kind is CelebA else {}
    with pytest.raises(DataError, match=r"could not be downloaded .*no route.*: (put|unpack) ") as error:
        kind(batch_size=4, seed=0, root=str(tmp_path / "new"), download=True, **options).prepare()
    assert "\n" not in str(error.value)
    assert list((tmp_path / "new").iterdir()) == []
