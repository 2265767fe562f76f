"""Arrays of the user's own: every layout, number of channels and of levels; and what is said of files that are no such arrays."""

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from diffusion_lab.data import DataError
from diffusion_lab.data.arrays import Arrays
from tests.hostile import Harm

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(65536, size=(20, 5, 7, 3), dtype=np.uint16)


def arrays(root: Path, train: str = "a.npz", **options) -> Arrays:
    data = Arrays(**{"batch_size": 4, "seed": 0, "train": train, "root": str(root)} | options)
    data.prepare()
    return data


def levels(data: Arrays, split: str = "train") -> np.ndarray:
    """The levels that scoring sees, (N, C, H, W)."""
    x = torch.cat([x for x, _ in data.batches(split, 7)]).double()
    return ((x + 1) / 2 * (data.num_levels - 1)).round().numpy()


def test_every_layout_and_file_holds_the_same_images(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", PIXELS)
    np.save(tmp_path / "last.npy", PIXELS)
    np.save(tmp_path / "first.npy", np.asfortranarray(PIXELS.transpose(0, 3, 1, 2)))
    np.savez(tmp_path / "named.npz", mine=PIXELS.astype(">u2"), other=np.ones(3))
    forms = [
        {},
        {"train": "last.npy"},
        {"train": "first.npy", "layout": "nchw"},
        {"train": "named.npz:mine"},
        {"train": str(tmp_path / "a.npz"), "root": None},
    ]
    found = [arrays(**{"root": tmp_path} | form) for form in forms]
    assert len({data.identity for data in found}) == 1
    for data in found:
        assert (data.shape, data.num_levels, data.num_train, data.num_test) == ((3, 5, 7), 65536, 18, 2)
        shown = np.concatenate([levels(data), levels(data, "test")])
        assert {image.tobytes() for image in shown} == {
            image.tobytes() for image in PIXELS.transpose(0, 3, 1, 2).astype(float)
        }


@pytest.mark.parametrize(
    ("array", "num_levels", "expected"),
    [
        (np.tile(np.uint8([0, 255]), (6, 4, 2)), None, ((1, 4, 4), 256)),
        (np.tile([False, True], (6, 4, 2)), None, ((1, 4, 4), 2)),
        (np.tile(np.uint16([0, 4095]), (6, 4, 2)), 4096, ((1, 4, 4), 4096)),
        (np.tile([0, 16], (6, 4, 2)), 17, ((1, 4, 4), 17)),
        (np.tile(np.uint8([0, 9]), (6, 4, 2))[..., None], 10, ((1, 4, 4), 10)),
        (np.zeros((6, 8, 8, 13), np.uint8), None, ((13, 8, 8), 256)),
    ],
)
def test_levels_are_those_of_the_type_unless_said(tmp_path, array, num_levels, expected) -> None:
    np.savez(tmp_path / "a.npz", array)
    data = arrays(tmp_path, num_levels=num_levels)
    assert (data.shape, data.num_levels) == expected
    assert np.unique(levels(data)).tolist() == np.unique(array).astype(float).tolist()


def test_splits_of_two_types_have_the_levels_that_are_said(tmp_path) -> None:
    np.save(tmp_path / "train.npy", np.tile(np.uint16([0, 9]), (6, 4, 2)))
    np.save(tmp_path / "test.npy", np.tile(np.uint8([0, 9]), (6, 4, 2)))
    data = arrays(tmp_path, "train.npy", test="test.npy", num_levels=10)
    assert levels(data, "test").max() == 9


def test_labels_lie_beside_the_images_or_in_files_of_their_own(tmp_path: Path) -> None:
    y = np.arange(20) % 3
    np.savez(tmp_path / "a.npz", x=PIXELS, y=y)
    np.savez(
        tmp_path / "med.npz", train_images=PIXELS, test_images=PIXELS[:6], train_labels=y[:, None], test_labels=y[:6]
    )
    inside = arrays(tmp_path)
    named = {f"{part}_labels": f"med.npz:{part}_labels" for part in ("train", "test")}
    apart = arrays(tmp_path, "med.npz:train_images", test="med.npz:test_images", **named)
    assert inside.num_classes == apart.num_classes == 3
    assert (apart.num_train, apart.num_test) == (20, 6)
    assert torch.equal(next(apart.batches("train", 20))[1], torch.from_numpy(y))
    assert arrays(tmp_path, "med.npz:train_images").num_classes is None


def npy(array: object):
    return lambda folder: np.save(folder / "a.npy", array, allow_pickle=True)


def npz(**named: object):
    return lambda folder: np.savez(folder / "a.npz", **named)


def pickled(folder: Path) -> None:
    (folder / "a.npz").write_bytes(pickle.dumps(Harm()))


def half_an_npy(folder: Path) -> None:
    np.save(folder / "a.npy", PIXELS)
    os.truncate(folder / "a.npy", 1000)


def bomb(folder: Path) -> None:
    """A few kilobytes that unfold to 4 MiB."""
    np.savez_compressed(folder / "a.npz", np.zeros((1, 2**22), np.uint8))


def header_of_too_much(folder: Path) -> None:
    with zipfile.ZipFile(folder / "a.npz", "w") as archive, archive.open("arr_0.npy", "w") as stream:
        head = {"descr": "|u1", "fortran_order": False, "shape": (10**9, 64, 64)}
        np.lib.format.write_array_header_1_0(stream, head)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16])
def test_levels_that_are_too_many_for_memory_are_read_by_rows(tmp_path, dtype) -> None:
    random = np.random.default_rng(0)
    np.save(tmp_path / "a.npy", random.integers(2 if dtype is bool else 200, size=(20, 5, 7, 2)).astype(dtype))
    named = {"layout": "nhwc", "num_levels": None if dtype is bool else 200, "flip": True}
    held, by_rows = (arrays(tmp_path, train="a.npy", max_bytes=most, **named) for most in (1400 * 2, 9))
    assert by_rows.on_disk
    assert not held.on_disk
    assert (held.num_levels, held.shape) == (by_rows.num_levels, by_rows.shape)
    for data in zip(held.train_dataloader(), by_rows.train_dataloader(), range(5), strict=False):
        assert torch.equal(data[0][0], data[1][0])


HARM = np.array([Harm()] * 3, object)
GREY = np.zeros((6, 4, 4), np.uint8)
# What the folder holds, the options, and what is said.
REFUSED = {
    "nothing there": (lambda folder: None, {}, r"data.train=.*a.npz: there is no such file"),
    "another form": (lambda folder: None, {"train": "a.pkl"}, "give FILE.npy, FILE.npz or FILE.npz:NAME"),
    "a pickle called npz": (pickled, {}, "is not a readable npz of arrays"),
    "objects": (npy(HARM), {"train": "a.npy"}, "is not a readable .npy file .*objects"),
    "half an npy": (half_an_npy, {"train": "a.npy"}, "is not a readable .npy file"),
    "a bomb": (bomb, {"max_bytes": 2**20}, r"arr_0 of .*a.npz has 4 MiB, more than 1 MiB"),
    "more than its levels, by rows": (
        npy(GREY + 17),
        {"train": "a.npy", "max_bytes": 9, "num_levels": 17},
        "from 0 to 17",
    ),
    "a header of too much": (header_of_too_much, {}, "has 3,906,250 MiB, more than"),
    "no array of that name": (npz(b=GREY), {"train": "a.npz:c"}, "has no array c; it holds b"),
    "floats to test levels on": (npz(b=GREY, c=GREY / 255), {"train": "a.npz:b", "test": "a.npz:c"}, "the same type"),
    "integers of no range": (npz(arr_0=GREY.astype(np.int64)), {}, "is int64: set data.num_levels"),
    "more than its levels": (
        npz(arr_0=GREY + 17),
        {"num_levels": 17},
        "has values from 17 to 17, but data.num_levels=17",
    ),
    "a layout in doubt": (npz(arr_0=PIXELS.transpose(0, 3, 1, 2)), {}, "set data.layout=nchw, or nhwc"),
    "all held out": (npz(arr_0=GREY), {"test_fraction": 1.0}, "data.test_fraction"),
    "one image": (npz(arr_0=GREY[:1]), {}, "holds one image"),
    "rows": (npz(arr_0=GREY[0]), {}, r"it must be \(N, H, W\)"),
    "labels of another number": (npz(arr_0=GREY, arr_1=np.arange(5)), {}, r"at most 1,048,575, of shape \(6,\)"),
    "labels of more classes than a model has": (npz(arr_0=GREY, arr_1=np.full(6, 2**40)), {}, "at most 1,048,575"),
    "labels of one split": (
        npz(b=GREY, c=np.arange(6)),
        {"train": "a.npz:b", "test": "a.npz:b", "train_labels": "a.npz:c"},
        "give both",
    ),
    "another shape to test on": (npz(b=GREY, c=GREY[:, :3]), {"train": "a.npz:b", "test": "a.npz:c"}, "the same shape"),
    "fewer levels to test on": (
        npz(b=PIXELS, c=PIXELS.astype(np.uint8)),
        {"train": "a.npz:b", "test": "a.npz:c"},
        "data.test=.* has 256 levels",
    ),
    "a class that only test has": (
        npz(b=GREY, y=np.arange(6), z=np.arange(6) * 2),
        {"train": "a.npz:b", "test": "a.npz:b", "train_labels": "a.npz:y", "test_labels": "a.npz:z"},
        "has the class 10, but data.train_labels ends at 5",
    ),
}


@pytest.mark.parametrize("door", REFUSED)
def test_what_is_no_array_of_images_is_refused_in_one_sentence_and_runs_nothing(tmp_path, monkeypatch, door) -> None:
    write, options, said = REFUSED[door]
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    with pytest.raises(DataError, match=said) as refusal:
        arrays(tmp_path, **options)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "harm").exists()
