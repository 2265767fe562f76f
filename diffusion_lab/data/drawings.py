"""Colour drawings with transparency, from freely available packages: emoji by two artists, and sprites of a game.

`data.download=true` fetches the packages with npm, or apt-get and dpkg-deb, whose configuration determines the source, and which
verify what they fetch. The archives are read as streams and not unpacked to the disk. One file is
kept, with the original drawings in RGBA. Background and size are applied when it is read.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import tarfile
import zipfile
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import IO, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffusion_lab.data.array_files import one_sentence, read_array
from diffusion_lab.data.checks import check_fraction, require
from diffusion_lab.data.in_memory import InMemoryDataModule, Split
from diffusion_lab.data.order import held_out_groups
from diffusion_lab.data.published import Published
from diffusion_lab.data.read_image import colour_of

_MOST_IN_MEMORY = 2**30  # bytes, unpacked

Drawing = tuple[str, str, bytes]  # class, group, content of a PNG file


class Drawings(Published, InMemoryDataModule):
    """Drawings of `side` pixels on the colour `alpha`, resized to `image_size` pixels.

    Drawings of one group (variants or frames of one thing) are in the same split: a fixed `test_fraction` of the groups is held
    out. Of equal drawings the first is kept. `root` holds the prepared file; null: the user's cache folder.
    """

    num_levels = 256
    side: int
    programs: Mapping[str, str]  # programs for fetching -> how to install each
    fetched_into = "prepared"

    def __init__(
        self,
        batch_size: int,
        seed: int,
        image_size: int = 32,
        alpha: str | Sequence[int] = "white",
        test_fraction: float = 0.2,
        flip: bool = False,
        root: str | None = None,
        download: bool = False,
    ) -> None:
        super().__init__(batch_size, seed, flip)
        self._look_in(root, download)
        said = f"data.image_size={image_size} must be a side from 8 to {self.side} pixels."
        require(isinstance(image_size, int) and 8 <= image_size <= self.side, said)
        check_fraction(test_fraction)
        self.image_size, self.background, self.test_fraction = image_size, colour_of(alpha), test_fraction

    @abstractmethod
    def _drawn(self, folder: Path) -> Iterator[Drawing]:
        """Fetch the packages into a folder and read the drawings."""

    @property
    def _file(self) -> Path:
        return self.folder / f"{self.name}.npz"

    @property
    def _by_hand(self) -> str:
        return f"put the {self._file.name} of another machine into {self.folder}"

    def _wrong(self) -> str | None:
        return None if self._file.is_file() else f"{self._file} is missing"

    def _fetch(self, root: str) -> None:
        for program, how in self.programs.items():
            require(shutil.which(program), f"{program} is not installed: {how}")
        found: dict[bytes, tuple[str, str]] = {}
        for kind, group, content in self._drawn(Path(root)):
            with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                if image.size == (self.side, self.side):
                    pixels = np.array(image.convert("RGBA"))
                    pixels[pixels[..., 3] == 0] = 0  # invisible pixels must not make drawings different
                    found.setdefault(pixels.tobytes(), (kind, group))
        require(found, "the packages hold no drawings")
        kinds, groups = zip(*found.values(), strict=True)
        names, labels = np.unique(kinds, return_inverse=True)
        prepared = Path(root, self.fetched_into)
        prepared.mkdir()
        np.savez_compressed(
            prepared / self._file.name,
            images=np.frombuffer(b"".join(found), np.uint8).reshape(-1, self.side, self.side, 4),
            labels=labels,
            groups=np.unique(groups, return_inverse=True)[1],
            names=np.frombuffer("\n".join(names).encode(), np.uint8),
        )

    def _read(self) -> tuple[Split, Split]:
        self._find()
        with one_sentence(self._file, "file of drawings"), zipfile.ZipFile(self._file) as archive:
            images, labels, groups, names = (
                read_array(self._file, archive, name, _MOST_IN_MEMORY)
                for name in ("images", "labels", "groups", "names")
            )
            self.class_names = bytes(names).decode().split("\n")
            self.num_classes = len(self.class_names)
            values = torch.stack([self._shown(image) for image in images])
            of_image, classes = torch.from_numpy(groups).long(), torch.from_numpy(labels).long()
            is_test = held_out_groups(of_image, classes, self.test_fraction)
        self.groups = of_image[~is_test]
        train, test = (Split(values[of], classes[of]) for of in (~is_test, is_test))
        return train, test

    def _shown(self, image: np.ndarray) -> Tensor:
        """RGBA uint8 (side, side, 4) -> uint8 (3, image_size, image_size)."""
        drawing = Image.fromarray(image)
        on = Image.alpha_composite(Image.new("RGBA", drawing.size, self.background), drawing).convert("RGB")
        pixels = np.asarray(on.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC))
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


_EMOJI_VERSION = "16.0.0"
# Skin tones, gender signs, direction, and joiners of the parts.
_VARIANTS = re.compile(r"-(1F3F[B-F]|2640|2642|27A1|200D|FE0F)\b")
# Man, woman → person; boy, girl → child; couples → two persons.
_ALIKE = {"1F468": "1F9D1", "1F469": "1F9D1", "1F466": "1F9D2", "1F467": "1F9D2", "1F491": "1F9D1-2764-1F9D1"} | {
    "1F48F": "1F9D1-2764-1F48B-1F9D1",
    **dict.fromkeys(("1F46B", "1F46C", "1F46D"), "1F9D1-1F91D-1F9D1"),
}


class Emoji(Drawings):
    """Emoji 16.0 in nine categories by two artists: Google's Noto (Apache-2.0) and Twitter's Twemoji (CC BY 4.0), 64×64 pixels.

    From npm's packages emoji-datasource-google and emoji-datasource-twitter. A group is one emoji by both artists, in all skin
    tones, directions and genders.
    """

    name, title = "emoji", "Emoji"
    side = 64
    programs = MappingProxyType({"npm": "install Debian's package npm, or Node.js"})

    def _drawn(self, folder: Path) -> Iterator[Drawing]:
        for artist in ("google", "twitter"):
            package, images = f"emoji-datasource-{artist}", f"package/img/{artist}/64"
            run(folder, "npm", "pack", "--loglevel=error", "--ignore-scripts", f"{package}@{_EMOJI_VERSION}")
            with (folder / f"{package}-{_EMOJI_VERSION}.tgz").open("rb") as file:
                files = dict(read_tar(file, "r|gz", rf"package/emoji\.json|{images}/[^/]+\.png"))
            for entry in json.loads(files["package/emoji.json"]):
                for drawn in (entry, *entry.get("skin_variations", {}).values()):
                    if entry["category"] != "Component" and drawn[f"has_img_{artist}"]:
                        yield entry["category"], group_of(drawn["unified"]), files[f"{images}/{drawn['image']}"]


def group_of(unified: str) -> str:
    """One name for all variants of an emoji, given by code points such as 1F3C3-1F3FB-200D-2640-FE0F."""
    return "-".join(_ALIKE.get(point, point) for point in _VARIANTS.sub("", unified).split("-"))


class Sprites(Drawings):
    """Units of the game Battle for Wesnoth, 72×72 pixels, in the folders of its data (GPL-2+ or CC BY-SA 4.0, file by file).

    From Debian's package wesnoth-1.18-data, whose file `copyright` names authors and licence of each file. A group is the frames
    of a unit, or of the units of a folder whose names begin with the same word.
    """

    name, title = "sprites", "Sprites"
    side = 72
    programs = MappingProxyType(
        dict.fromkeys(("apt-get", "dpkg-deb"), "it is part of Debian, so use a container with it")
    )

    def _drawn(self, folder: Path) -> Iterator[Drawing]:
        run(folder, "apt-get", "download", "wesnoth-1.18-data")
        (package,) = folder.glob("*.deb")
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as unpacked:
            assert unpacked.stdout is not None
            for path, content in sorted(read_tar(unpacked.stdout, "r|", r".*/data/core/images/units/[^/]+/.*\.png")):
                kind, *_, name = path.rpartition("/units/")[2].split("/")
                yield kind, f"{kind}/{re.split('[^A-Za-z]', name)[0]}", content


def run(folder: Path, *command: str) -> None:
    """Run a program in a folder; if it fails, DataError with its message."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    said = " ".join(f"{done.stdout} {done.stderr}".split())[-300:]
    require(done.returncode == 0, f"{' '.join(command[:2])} failed: {said or done.returncode}")


def read_tar(stream: IO[bytes], mode: Literal["r|", "r|gz"], pattern: str) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each file of an archive whose name matches the pattern."""
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for member in archive:
            if member.isfile() and re.fullmatch(pattern, member.name):
                content = archive.extractfile(member)
                assert content is not None
                yield member.name, content.read()
