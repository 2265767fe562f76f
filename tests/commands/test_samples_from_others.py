"""Samples and statistics from somebody else that are broken or mean harm: refused in one sentence, and nothing of them runs.

`pytest -s tests/commands/test_samples_from_others.py` prints what was said at each door.
"""

import io
import os
import pickle
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_lab.interop.given_images import read_images

from .conftest import files

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), np.uint8)
MU, SIGMA = np.zeros(64), np.eye(64)


class Harm:
    """A pickle that makes a file where it is read."""

    def __reduce__(self):
        return (subprocess.call, (["touch", "harm"],))


def npz(name: str = "bad.npz", **arrays: object):
    def write(folder: Path) -> str:
        np.savez(folder / name, **arrays)
        return name

    return write


def objects(folder: Path) -> str:
    return npz(arr_0=np.array([Harm()] * 6, object))(folder)


def png(side: int = 8, value: int = 200) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (side, side), value).save(stream, "png")
    return stream.getvalue()


def two_sizes(folder: Path) -> str:
    (folder / "bad").mkdir()
    for name, side in (("a.png", 8), ("b.png", 9)):
        (folder / "bad" / name).write_bytes(png(side))
    return "bad"


def archive(members: dict[str, bytes]):
    def write(folder: Path) -> str:
        with zipfile.ZipFile(folder / "bad.zip", "w") as opened:
            for name, content in members.items():
                opened.writestr(name, content)
        return "bad.zip"

    return write


def pickled(folder: Path) -> str:
    (folder / "bad.npz").write_bytes(pickle.dumps(Harm()))
    return "bad.npz"


# How the files for samples=… are written, and a part of the message.
SAMPLES = {
    "nothing there": (lambda folder: "bad.npz", "There is no bad.npz"),
    "a pickle called npz": (pickled, "is not a readable npz of images"),
    "objects in arr_0": (objects, "holds object, not numbers; objects are not unpickled"),
    "an npz of two sets": (
        npz(real=PIXELS, generated=PIXELS),
        "several arrays of images (real, generated): save the samples as arr_0",
    ),
    "floats from 0 to 255": (npz(arr_0=PIXELS.astype(np.float32)), "is float32: save it as uint8"),
    "channels anywhere": (
        npz(x=np.repeat(PIXELS, 8, 3)),
        "any axis may be the channels: save it as (N, H, W, C) named arr_0",
    ),
    "8 bits kept as 16": (
        npz(arr_0=PIXELS.astype(np.uint16) // 16),
        "its pixels must go from 0 to 65535, not from 0 to 16. Multiply them by 65535/16",
    ),
    "one image": (npz(arr_0=PIXELS[:1]), "a score needs at least two images"),
    "labels of other data": (npz(arr_0=PIXELS, arr_1=np.arange(6) * 9), "has classes up to 45, but digits has 10"),
    "another size": (
        npz(arr_0=np.repeat(PIXELS, 4, axis=1)),
        "images of 8×32 pixels, digits of 8×8: image_size=[8,8] crops",
    ),
    "a folder of two sizes": (two_sizes, "b.png in bad has 9×9 pixels of 8 bits, a.png 8×8 pixels of 8 bits"),
    "a name that steers the terminal": (
        archive({"a.png": png(), "\x1b[2Jb.png": b"x"}),
        "\ufffd[2Jb.png in bad.zip is not an image",
    ),
}


@pytest.mark.parametrize("door", SAMPLES)
def test_bad_samples_are_refused_in_one_sentence_and_run_nothing(lab, door):
    write, said = SAMPLES[door]
    lab.refused("evaluate", f"samples={write(lab.folder)}", "data=digits", "features=pixels", said=said)


def test_two_folders_are_compared_with_all_their_images(lab):
    """Of several sizes too, once `image_size` chooses one."""
    (lab.folder / "good").mkdir()
    for value in range(10):
        (lab.folder / "good" / f"{value}.png").write_bytes(png(9, 20 * value))
    folders = (
        "evaluate",
        f"samples={two_sizes(lab.folder)}",
        "reference=good",
        "features=pixels",
        "metrics=frechet_distance",
    )
    lab.refused(*folders, said="choose one with image_size=…")
    out = lab.done(*folders, "image_size=8")
    assert "n = 2 vs 10 images of good" in " ".join(out.split())
    assert "n = 2 real reference images vs the other 8" in " ".join(out.split()), "the distance of real images"
    assert "(2 images; cropped to the middle and resized to 8×8)" in out
    assert "reference=good compares with all" in lab.done(
        *folders[:2], *folders[3:], "data=image_folder", "data.root=good", "data.image_size=8", "image_size=8"
    )


def test_a_file_not_named_in_utf8_is_named(lab):
    """Printably: as samples, where only its pixels count, if it is broken; as data, whose names are recorded, in any case."""
    folder = lab.folder / "images"
    folder.mkdir()
    name = os.fsdecode(b"\xff.png")
    for each in ("a.png", "b.png", name):
        (folder / each).write_bytes(png())
    data = ("train", "data=image_folder", "data.root=images", "data.image_size=8")
    lab.refused(*data, said="images/\ufffd.png is not named in UTF-8: rename it, or leave it out")
    assert len(read_images(folder)) == 3
    (folder / name).write_bytes(b"x")
    said = "\ufffd.png in images is not an image"
    lab.refused("evaluate", "samples=images", "data=digits", "features=pixels", said=said)


FORMS = {
    "(N, C, H, W)": {"arr_0": PIXELS.transpose(0, 3, 1, 2)},
    "(N, H, W)": {"arr_0": PIXELS[..., 0]},
    "(N, H, W, C)": {"pictures": PIXELS, "z": np.zeros((6, 3))},
}


@pytest.mark.parametrize("read_as", FORMS)
def test_other_forms_of_arrays_are_read(tmp_path, read_as):
    npz("usual.npz", arr_0=PIXELS)(tmp_path)
    npz("other.npz", **FORMS[read_as])(tmp_path)
    usual, other = (read_images(tmp_path / f"{name}.npz", (1, 8, 8)) for name in ("usual", "other"))
    assert f"read as {read_as}" in other.read_as
    assert other.digest == usual.digest


def test_channels_are_where_the_sides_of_the_data_are_not(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (5, 2, 6, 3), np.uint8)
    np.savez(tmp_path / "a.npz", x=values, y=np.arange(5))
    first = read_images(tmp_path / "a.npz", (2, 6, 3))
    last = read_images(tmp_path / "a.npz", (3, 2, 6))
    assert np.array_equal(first.pixels, values)
    assert np.array_equal(last.pixels, values.transpose(0, 3, 1, 2))
    assert first.labels.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", ["/etc/harm.png", "../../harm.png"])
def test_a_zip_whose_names_lead_away_is_read_and_not_unpacked(tmp_path, name):
    archive({"a.png": png(), "b.png": png(), name: png(value=90)})(tmp_path)
    assert len(read_images(tmp_path / "bad.zip")) == 3
    assert files(tmp_path) == ["bad.zip"]
    assert not list(tmp_path.parent.glob("harm.*"))
    assert not Path("/etc/harm.png").exists()


@pytest.mark.parametrize("option", ["samples", "reference"])
def test_an_npz_that_unfolds_to_too_much_is_refused_before_it_does(lab, monkeypatch, option):
    """Sixteen kilobytes that unfold to 16 MiB, where 1 MiB is the most."""
    for module in ("given_images.MOST_BYTES", "given_statistics.MOST_BYTES"):
        monkeypatch.setattr(f"diffusion_lab.interop.{module}", 2**20)
    name = {"samples": "arr_0", "reference": "mu"}[option]
    np.savez_compressed(lab.folder / "bomb.npz", **{name: np.zeros(2**24, np.uint8)})
    npz("good.npz", arr_0=PIXELS)(lab.folder)
    assert (lab.folder / "bomb.npz").stat().st_size < 2**15
    given = {"samples": ["samples=bomb.npz", "data=digits"], "reference": ["samples=good.npz", "reference=bomb.npz"]}
    said = f"{name} of bomb.npz has 16 MiB, more than 1 MiB"
    lab.refused("evaluate", *given[option], "features=pixels", said=said)


def pt(content: object):
    def write(folder: Path) -> str:
        torch.save(content, folder / "bad.pt")
        return "bad.pt"

    return write


REFERENCES = {
    "a torch file that runs": (pt({"mu": Harm(), "sigma": SIGMA}), "is not a readable file of statistics"),
    "clean-fid's for KID": (npz(feats=np.ones((9, 64))), "holds the features of clean-fid's KID"),
    "not finite": (npz(mu=MU * np.nan, sigma=SIGMA), "not finite"),
    "not a covariance": (npz(mu=MU, sigma=np.arange(4096.0).reshape(64, 64)), "is not a covariance"),
    "of other features": (
        npz(mu=np.zeros(2048), sigma=np.eye(2048)),
        "have 2048 features, but features=pixels has 64; choose features=inception",
    ),
    "spatial features of another shape": (
        npz(mu=MU, sigma=SIGMA, mu_s=np.zeros(9), sigma_s=np.eye(8)),
        "has mu_s of shape (9,) and sigma_s of shape (8, 8)",
    ),
    "images of another size": (npz(arr_0=np.repeat(PIXELS, 2, axis=1)), "images of 8×8 pixels, bad.npz of 8×16"),
}


@pytest.mark.parametrize("door", REFERENCES)
def test_bad_references_are_refused_in_one_sentence_and_run_nothing(lab, door):
    write, said = REFERENCES[door]
    npz("good.npz", arr_0=PIXELS)(lab.folder)
    lab.refused("evaluate", "samples=good.npz", f"reference={write(lab.folder)}", "features=pixels", said=said)
