from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion_lab.data import DataError
from diffusion_lab.data.imagenet import ImageNet64
from tests.data.small_sets import write_imagenet64


def imagenet(root: Path, **options) -> ImageNet64:
    return ImageNet64(**{"batch_size": 4, "seed": 0, "root": str(root), "image_size": 64, "num_workers": 0} | options)


def test_the_downsampled_folders_are_shown_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = imagenet(write_imagenet64(tmp_path, monkeypatch))
    x, y = next(data.batches("test", 100))
    assert (data.num_train, data.num_test, data.num_classes, y) == (12, 5, None, None)
    first = np.asarray(Image.open(tmp_path / "valid_64x64" / "0000000.png"))
    assert np.array_equal(((x[0] + 1) * 127.5).round().permute(1, 2, 0).numpy(), first)


def test_the_class_folders_of_imagenet_itself_are_resized(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for i, wnid in enumerate(("n01440764", "n01443537")):
            (tmp_path / split / wnid).mkdir(parents=True)
            pixels = np.full((90, 120 + i, 3), 200 * i, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / split / wnid / f"{wnid}_{i}.JPEG")
    data = imagenet(tmp_path, classes="subfolders")
    x, y = next(data.batches("test", 100))
    assert (data.num_classes, y.tolist(), tuple(x.shape)) == (2, [0, 1], (2, 3, 64, 64))


def test_what_is_missing_is_named_and_where_to_put_it(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=rf"ImageNet was not found in {root}: get train_64x64\.tar and valid_64x64"):
            imagenet(root).prepare()
    (tmp_path / "train_64x64").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "train_64x64" / "0.png")
    with pytest.raises(DataError, match="valid_64x64 is missing: give both"):
        imagenet(tmp_path).prepare()
