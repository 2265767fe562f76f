"""Datasets that Hugging Face `datasets` saved to disk: images and arrays, whole and wrong."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion_lab.data import DataError
from diffusion_lab.data.hf_dataset import HFDataset
from tests.data.small_sets import write_hf_dataset
from tests.data.test_arrays import levels

datasets = pytest.importorskip("datasets")
datasets.disable_progress_bars()
RANDOM = np.random.default_rng(0)
GREY = np.zeros((3, 2, 2), np.uint8)


def data_of(root: Path, **options) -> HFDataset:
    data = HFDataset(batch_size=4, seed=0, root=str(root), **options)
    data.prepare()
    return data


def saved(root: Path, columns: dict, **features) -> Path:
    types = datasets.Features(features) if features else None
    datasets.Dataset.from_dict(columns, features=types).save_to_disk(str(root))
    return root


def test_images_keep_their_sixteen_bits_and_their_splits(tmp_path: Path) -> None:
    root = write_hf_dataset(tmp_path / "own")
    pixels = np.random.default_rng(0).integers(65536, size=(24, 5, 7), dtype=np.uint16)
    pixels[:, 0, 0] = 65535
    data = data_of(root)
    assert (data.shape, data.num_levels, data.class_names) == ((1, 5, 7), 65536, ["even", "odd"])
    assert np.array_equal(levels(data, "train")[:, 0], pixels[:20])
    assert np.array_equal(levels(data, "test")[:, 0], pixels[20:])
    assert next(data.batches("test", 4))[1].tolist() == [0, 1, 0, 1]
    assert data_of(root, image_size=[2, 3], channels=3, num_levels=256).shape == (3, 2, 3)


def test_arrays_keep_their_channels(tmp_path: Path) -> None:
    pixels = RANDOM.integers(4096, size=(12, 5, 7, 2), dtype=np.uint16)
    root = saved(tmp_path / "own", {"x": pixels}, x=datasets.Array3D((5, 7, 2), "uint16"))
    data = data_of(root, num_levels=4096)
    assert (data.shape, data.num_levels, data.num_train, data.num_test) == ((2, 5, 7), 4096, 11, 1)
    shown = np.concatenate([levels(data, "train"), levels(data, "test")])
    assert sorted(shown.reshape(12, -1).tolist()) == sorted(pixels.transpose(0, 3, 1, 2).reshape(12, -1).tolist())
    lists = saved(tmp_path / "lists", {"x": pixels[..., 0].astype(np.uint8)})
    assert (data_of(lists).shape, data_of(lists).num_levels) == ((1, 5, 7), 256)


def pictures(*sizes: tuple[int, int]) -> list[Image.Image]:
    return [Image.new("RGB", size) for size in sizes]


@pytest.mark.parametrize(
    ("columns", "options", "said"),
    [
        ({"a": [1, 2, 3]}, {}, "data.image: set the name of a column; those of this type in .* are none"),
        ({"a": pictures((4, 4), (4, 4))}, {"image": "b"}, "data.image=b: the columns of this type in .* are a"),
        (
            {"a": pictures((4, 4), (5, 4))},
            {},
            r"Row 1 of .* has the shape \(3, 4, 5\), row 0 \(3, 4, 4\): set data.image_size",
        ),
        ({"a": pictures((4, 4), (4, 4))}, {"train": "b", "test": "c"}, r"data.test=c: .* has the splits b"),
        ({"a": pictures((4, 4), (4, 4))}, {"max_bytes": 95}, "holds 96 bytes of images, more than data.max_bytes=95"),
        ({"a": pictures((4, 4))}, {}, "at least two are needed"),
        ({"a": pictures((4, 4), (4, 4))}, {"num_levels": 65536}, "set 256, or 65536 for images of one channel"),
        ({"a": GREY}, {"image_size": 2}, "data.image_size=2 has no effect on arrays, and .*, column a holds arrays"),
        ({"a": [GREY[0], GREY[0, :1]]}, {}, "Row 1 of .*, or, for arrays, save all in one shape"),
        ({"a": np.zeros((3, 2, 2), np.uint8), "y": [0, 1, -1]}, {"label": "y"}, "must be whole numbers from 0"),
        ({"a": [{"bytes": b"%!PS\n(harm) run", "path": None}] * 2}, {}, "row 0 of .* is not an image that can be read"),
    ],
)
def test_what_is_no_set_of_images_is_refused_in_one_sentence(
    tmp_path: Path, columns: dict, options: dict, said: str
) -> None:
    first = next(iter(columns.values()))[0]
    features = {"a": datasets.Image()} if isinstance(first, dict | Image.Image) else {}
    root = saved(tmp_path / "own", columns, **features)
    with pytest.raises(DataError, match=said) as refusal:
        data_of(root, **options)
    assert "\n" not in str(refusal.value)


def test_splits_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    """Labels in one alone, and arrays of other levels."""
    images, deep = (datasets.Dataset.from_dict({"x": np.zeros((3, 2, 2), kind)}) for kind in (np.uint8, np.uint16))
    labelled = images.add_column("y", [0, 1, 0]).cast_column("y", datasets.ClassLabel(names=["even", "odd"]))
    for name, train, test, said in (
        ("labels", images, labelled, "the split test has labels, train has none"),
        ("levels", deep, images, "column x has 256 levels, the training images have 65536"),
    ):
        datasets.DatasetDict({"train": train, "test": test}).save_to_disk(str(tmp_path / name))
        with pytest.raises(DataError, match=said):
            data_of(tmp_path / name)


def test_a_folder_that_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder: name one that save_to_disk wrote"):
        data_of(tmp_path / "none")
    with pytest.raises(DataError, match="is not a readable dataset on disk"):
        data_of(tmp_path)
    root = write_hf_dataset(tmp_path / "half")
    for file in root.rglob("*.arrow"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match="is not a readable dataset on disk"):
        data_of(root)
