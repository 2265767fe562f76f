"""Samples and statistics from somebody else that are broken or mean harm: refused in one sentence, and nothing of them runs.

`pytest -s tests/commands/test_samples_from_others.py` prints what was said at each door.
"""

import io
import pickle
import subprocess
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_lab.interop.given_images import read_images

from .conftest import files, scored

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), np.uint8)
MU, SIGMA = np.zeros(64), np.eye(64)


class Harm:
    """A pickle that makes a file where it is read."""

    def __reduce__(self):
        return (subprocess.call, (["touch", "harm"],))


class Huge:
    """An array of 10¹⁵ bytes, by the function that every array is unpickled with."""

    def __reduce__(self):
        return (np.zeros(1).__reduce__()[0], (np.ndarray, (10**15,), b"b"))


def npz(name: str = "bad.npz", **arrays: object):
    def write(folder: Path) -> None:
        np.savez(folder / name, **{key: np.asarray(array) for key, array in arrays.items()})

    return write


def objects(name: str):
    def write(folder: Path) -> None:
        harm = np.empty(6, object)
        harm[:] = [Harm()] * 6
        np.savez(folder / "bad.npz", **({"arr_0": PIXELS} | {name: harm}))

    return write


def raw(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


def archive(name: str, **members: bytes):
    def write(folder: Path) -> None:
        with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as opened:
            for member, content in members.items():
                opened.writestr(member.replace("__", "/").replace("_dot_", "."), content)

    return write


def npy(array: np.ndarray, **header: object) -> bytes:
    """An array whose header says something else."""
    stream = io.BytesIO()
    said = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape} | header
    np.lib.format.write_array_header_1_0(stream, said)
    return stream.getvalue() + array.tobytes()


def png(size: tuple[int, int] = (8, 8), value: int = 200, mode: str = "L") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, value if mode == "L" else (value, 0, 9)).save(stream, "png")
    return stream.getvalue()


def encrypted(folder: Path) -> None:
    archive("bad.zip", a_dot_png=png(), b_dot_png=png())(folder)
    content = bytearray((folder / "bad.zip").read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = content.find(mark)
        while start >= 0:
            content[start + offset] |= 1
            start = content.find(mark, start + 4)
    (folder / "bad.zip").write_bytes(content)


def folder_of(**images: bytes):
    def write(folder: Path) -> None:
        (folder / "bad").mkdir()
        for name, content in images.items():
            (folder / "bad" / name.replace("_dot_", ".")).write_bytes(content)

    return write


def link(folder: Path) -> None:
    """A zip with a link to a file outside of it."""
    with zipfile.ZipFile(folder / "bad.zip", "w") as opened:
        opened.writestr("a.png", png())
        info = zipfile.ZipInfo("b.png")
        info.external_attr = 0o120777 << 16
        opened.writestr(info, "/etc/passwd")


def twice(folder: Path) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(folder / "bad.zip", "w") as opened:
        warnings.simplefilter("ignore", UserWarning)
        for value in (1, 2, 3):
            opened.writestr("a.png", png(value=value))


def saved(form: str, mode: str) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (8, 8), 200).save(stream, form)
    return stream.getvalue()


# What samples=… finds, and what is said of it.
# fmt: off
SAMPLES = {
    "nothing there": ("bad.npz", lambda folder: None, "There is no bad.npz"),
    "a pickle called npz": ("bad.npz", raw("bad.npz", pickle.dumps(Harm())), "is not a readable npz of images"),

    "objects in arr_0": ("bad.npz", objects("arr_0"), "holds object, not numbers; objects are not unpickled"),

    "an npz of two sets": (
        "bad.npz",
        npz(real=PIXELS, generated=PIXELS),
        "several arrays of images (real, generated): save the samples as arr_0",
    ),
    "floats from 0 to 255": (
        "bad.npz",
        npz(arr_0=PIXELS.astype(np.float32)),
        "is float32: save it as uint8",
    ),


    "channels anywhere": (
        "bad.npz",
        npz(x=np.repeat(PIXELS, 8, 3)),
        "any axis may be the channels: save it as (N, H, W, C) named arr_0",
    ),
    "8 bits kept as 16": (
        "bad.npz",
        npz(arr_0=PIXELS.astype(np.uint16) // 16),
        "its pixels must go from 0 to 65535, not from 0 to 16. Multiply them by 65535/16",
    ),

    "one image": ("bad.npz", npz(arr_0=PIXELS[:1]), "a score needs at least two images"),


    "labels of other data": (
        "bad.npz",
        npz(arr_0=PIXELS, arr_1=np.arange(6) * 9),
        "has classes up to 45, but digits has 10",
    ),

    "another size": (
        "bad.npz",
        npz(arr_0=np.repeat(PIXELS, 4, axis=1)),
        "images of 8×32 pixels, digits of 8×8, and images are not resized",
    ),


    "a folder of two sizes": (
        "bad",
        folder_of(a_dot_png=png(), b_dot_png=png((9, 8))),
        "b.png in bad has 9×8 pixels of 8 bits, a.png 8×8 pixels of 8 bits",
    ),
    "a folder of two depths": (
        "bad",
        folder_of(a_dot_png=png(), b_dot_png=saved("png", "I;16")),
        "b.png in bad has 8×8 pixels of 16 bits, a.png 8×8 pixels of 8 bits",
    ),




    "a link out of the zip": ("bad.zip", link, "b.png in bad.zip is not an image that can be read"),
    "one name for three files": ("bad.zip", twice, "has two files of one name"),
    "a zip with a password": ("bad.zip", encrypted, "is encrypted"),


    "a name that steers the terminal": (
        "bad.zip",
        archive("bad.zip", **{"a_dot_png": png(), "\x1b[2Jb_dot_png": b"x"}),
        "\ufffd[2Jb.png in bad.zip is not an image",
    ),
}


@pytest.mark.parametrize("door", SAMPLES)
def test_bad_samples_are_refused_in_one_sentence_and_run_nothing(lab, door):
    name, write, said = SAMPLES[door]
    write(lab.folder)
    lab.refused("evaluate", f"samples={name}", "data=digits", "features=pixels", said=said)


FORMS = {
    "(N, C, H, W)": {"arr_0": PIXELS.transpose(0, 3, 1, 2)},
    "(N, H, W)": {"arr_0": PIXELS[..., 0]},
    "(N, H, W, C)": {"pictures": PIXELS, "z": np.zeros((6, 3))},
}


@pytest.mark.parametrize("read_as", FORMS)
def test_other_forms_of_arrays_are_read(lab, read_as):
    npz("usual.npz", arr_0=PIXELS)(lab.folder)
    npz("other.npz", **FORMS[read_as])(lab.folder)
    usual, other = (
        lab("evaluate", f"samples={name}.npz", "data=digits", "features=pixels", "metrics=[frechet_distance]")
        for name in ("usual", "other")
    )
    assert (usual[0], other[0]) == (0, 0), other[2]
    assert f"read as {read_as}" in other[1]
    runs = scored(lab.folder)
    assert len({run["values"]["fd_pixels"] for run in runs}) == 1
    assert len({run["protocol"]["samples"]["given"]["digest"] for run in runs}) == 1


def test_channels_are_where_the_sides_of_the_data_are_not(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (5, 2, 6, 3), np.uint8)
    np.savez(tmp_path / "a.npz", x=values, y=np.arange(5))
    first = read_images(tmp_path / "a.npz", lambda: (2, 6, 3))
    last = read_images(tmp_path / "a.npz", lambda: (3, 2, 6))
    assert np.array_equal(first.pixels, values)
    assert np.array_equal(last.pixels, values.transpose(0, 3, 1, 2))
    assert first.labels.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", ["__etc__harm_dot_png", "..__..__harm_dot_png"])
def test_a_zip_whose_names_lead_away_is_read_and_not_unpacked(tmp_path, name):
    archive("a.zip", a_dot_png=png(), b_dot_png=png(), **{name: png(value=90)})(tmp_path)
    assert len(read_images(tmp_path / "a.zip")) == 3
    assert files(tmp_path) == ["a.zip"]
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
    return lambda folder: torch.save(content, folder / "bad.pt")


REFERENCES = {

    "a torch file that runs": (
        "bad.pt",
        pt({"mu": Harm(), "sigma": SIGMA}),
        "is not a readable file of statistics",
    ),




    "clean-fid's for KID": (
        "bad_kid.npz",
        npz("bad_kid.npz", feats=np.ones((9, 64))),
        "holds the features of clean-fid's KID",
    ),
    "not finite": ("bad.npz", npz(mu=MU * np.nan, sigma=SIGMA), "not finite"),
    "not a covariance": ("bad.npz", npz(mu=MU, sigma=np.arange(4096.0).reshape(64, 64)), "is not a covariance"),
    "of other features": (
        "bad.npz",
        npz(mu=np.zeros(2048), sigma=np.eye(2048)),
        "have 2048 features, but features=pixels has 64; choose features=inception",
    ),
    "a torch file that asks for memory": ("bad.pt", pt({"mu": Huge(), "sigma": SIGMA}), "is not a readable file of statistics"),


    "spatial features of another shape": (
        "bad.npz",
        npz(mu=MU, sigma=SIGMA, mu_s=np.zeros(9), sigma_s=np.eye(8)),
        "has mu_s of shape (9,) and sigma_s of shape (8, 8)",
    ),

    "images of another size": (
        "bad.npz",
        npz(arr_0=np.repeat(PIXELS, 2, axis=1)),
        "images of 8×8 pixels, bad.npz of 8×16",
    ),
}


@pytest.mark.parametrize("door", REFERENCES)
def test_bad_references_are_refused_in_one_sentence_and_run_nothing(lab, door):
    name, write, said = REFERENCES[door]
    npz("good.npz", arr_0=PIXELS)(lab.folder)
    write(lab.folder)
    lab.refused("evaluate", "samples=good.npz", f"reference={name}", "features=pixels", said=said)


def test_a_palette_has_the_numbers_of_its_colours(tmp_path):
    """64 colours: what the palette says, not its indices; and one with a transparent colour is shown on white."""
    drawn = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    image = Image.fromarray(drawn).quantize(64)
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "b.png", transparency=image.getpixel((3, 2)))
    found = read_images(tmp_path).pixels.permute(0, 2, 3, 1).numpy()
    assert np.array_equal(found[0], np.asarray(image.convert("RGB")))
    assert found[1, 2, 3].tolist() == [255, 255, 255]
    assert np.array_equal(np.asarray(image) == image.getpixel((3, 2)), (found[1] != found[0]).any(-1))
