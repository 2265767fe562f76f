"""benchmarks/data/drawings.py: what npm and apt fetch is imitated by small archives of the same form."""

import io
import json
import os
import shutil
import tarfile
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_lab.data.emoji import Emoji
from diffusion_lab.metrics.features.classifiers import FOLDER

UNITS = "./usr/share/games/wesnoth/1.18/data/core/images/units"


def png(colour: tuple[int, ...], side: int) -> bytes:
    """A square of one RGBA colour, its left half transparent."""
    image = Image.new("RGBA", (side, side), (9, 9, 9, 0))
    image.paste(colour, (side // 2, 0, side, side))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> None:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def entry(unified: str, category: str, artists: tuple[str, ...] = ("google", "twitter"), **more) -> dict:
    drawn = {f"has_img_{artist}": artist in artists for artist in ("google", "twitter")}
    return {"unified": unified, "image": f"{unified.lower()}.png", "category": category, **drawn, **more}


@pytest.fixture
def npm(tmp_path, monkeypatch) -> None:
    """`npm pack PACKAGE` gives a small package: a runner in two skin tones, a fruit, its double, and what is left out."""
    tone = entry("1F3C3-1F3FB", "")
    listed = [
        entry("1F3C3", "People & Body", skin_variations={"1F3FB": tone}),
        entry("1F34E", "Food & Drink"),
        entry("1F34F", "Food & Drink"),  # equal to the one before, by Google
        entry("1F3FB", "Component"),
        entry("1F9C3", "Food & Drink", artists=("google",)),  # by Twitter, a fallback that others drew
    ]
    for artist, shade in (("google", 0), ("twitter", 1)):
        colours = [(200, shade, 0), (100, shade, 0), (0, 200, shade), (0, 200, 5 * shade), (7, 7, 7), (0, 0, 200)]
        names = ["1f3c3", "1f3c3-1f3fb", "1f34e", "1f34f", "1f3fb", "1f9c3"]
        images = {
            f"package/img/{artist}/64/{name}.png": png((*colour, 255), 64)
            for name, colour in zip(names, colours, strict=True)
        }
        files = {**images, "package/emoji.json": json.dumps(listed).encode(), "package/img/sheet.png": b"not looked at"}
        write_tar(tmp_path / f"emoji-datasource-{artist}-16.0.0.tgz", files)
    program(tmp_path / "bin", "npm", f'for last; do :; done; cp {tmp_path}/"$(echo $last | tr @ -)".tgz .')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")


@pytest.fixture
def drawings(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks" / "data")
    return import_module("drawings")


def test_emoji_are_what_npm_fetches(npm, drawings, tmp_path):
    drawings.make("emoji", tmp_path / "new")
    data = Emoji(batch_size=2, seed=0, root=str(tmp_path / "new"), image_size=16, alpha="#0000ff")
    data.prepare()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["emoji.npz"]
    assert list(data.class_names) == ["Food & Drink", "People & Body"]
    assert (data.num_train + data.num_test, data.shape) == (8, (3, 16, 16))
    shown = torch.cat([x for split in ("train", "test") for x, _ in data.batches(split, 8)])
    levels = ((shown + 1) * 127.5).round().to(torch.uint8)
    assert (levels[..., 2] == torch.tensor([0, 0, 255])[:, None]).all()  # the background is seen through the left half
    right = {tuple(pixel) for pixel in levels[..., 8, -2].tolist()}
    assert {(200, 0, 0), (100, 1, 0), (0, 200, 0), (0, 200, 5), (0, 0, 200)} < right
    assert (7, 7, 7) not in right


def test_sprites_are_what_apt_fetches(drawings, tmp_path, monkeypatch):
    names = ["elves/archer/archer-bow-1.png", "elves/archer/archer.png", "elves/shaman+female.png", "bats/bat-ne-1.png"]
    files = {f"{UNITS}/{name}": png((i, 0, 0, 255), 72) for i, name in enumerate(names)}
    files |= {f"{UNITS}/die.png": png((8, 0, 0, 255), 72), f"{UNITS}/bats/small.png": png((9, 0, 0, 255), 70)}
    write_tar(tmp_path / "data.tar", {**files, "./usr/share/doc/x.png": b""}, "w")
    program(tmp_path / "bin", "apt-get", "touch $2_1.deb")
    program(tmp_path / "bin", "dpkg-deb", f"cat {tmp_path}/data.tar")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with np.load(drawings.make("sprites", tmp_path / "new")) as made:
        assert made["names"].tobytes() == b"bats\nelves"
        assert made["groups"].tolist() == [0, 1, 1, 2]  # bat, archer twice, shaman


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("1F3C3", "1F3C3-1F3FE-200D-2640-FE0F-200D-27A1-FE0F", True),  # a woman with dark skin runs to the right
        ("1F9D1-200D-1F373", "1F468-1F3FB-200D-1F373", True),  # cooks
        ("1F46B-1F3FD", "1F9D1-1F3FB-200D-1F91D-200D-1F9D1-1F3FF", True),  # two persons hold hands
        ("1F9D1-200D-1F373", "1F9D1-200D-1F33E", False),  # cook and farmer
        ("1F1E9-1F1EA", "1F1E9-1F1F0", False),  # flags
    ],
)
def test_variants_of_an_emoji_are_one_group(drawings, first, second, same):
    assert (drawings.group_of(first) == drawings.group_of(second)) == same


@pytest.mark.thorough
@pytest.mark.needs("npm and a network")
def test_what_is_fetched_is_what_features_were_trained_on(drawings, tmp_path):
    if shutil.which("npm") is None:
        pytest.skip("there is no npm")
    drawings.make("emoji", tmp_path)
    data = Emoji(batch_size=2, seed=0, root=str(tmp_path))
    data.prepare()
    assert (data.num_train, data.num_test) == (5927, 1582)
    card = json.loads((FOLDER / "emoji_ssl.json").read_text())
    assert card["data"]["identity"] == data.identity
