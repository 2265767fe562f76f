"""Make the file of drawings that `data=emoji` reads: emoji.npz, or sprites.npz for our own tables (contenders/images.py).

    python benchmarks/data/drawings.py emoji|sprites [--to FOLDER]

emoji: npm's packages emoji-datasource-google and emoji-datasource-twitter, 140 MB, of which 20 MB are kept. sprites: Debian's
package wesnoth-1.18-data, 128 MB, of which 4 MB are kept; its file `copyright` names authors and licence of each. npm, or apt-get
and dpkg-deb, fetch from where they are configured to, and verify what they fetch; archives are read as streams.

Of equal drawings the first is kept. A group is one emoji by both artists, in all skin tones, directions and genders; or the frames
of a unit of the game, or of the units of a folder whose names begin with the same word.
"""

import argparse
import io
import json
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

import numpy as np
from PIL import Image

from diffusion_lab.data.published import cache_folder

Drawing = tuple[str, str, bytes]  # class, group, content of a PNG file
SIDES = {"emoji": 64, "sprites": 72}

_EMOJI_VERSION = "16.0.0"
# Skin tones, gender signs, direction, and joiners of the parts.
_VARIANTS = re.compile(r"-(1F3F[B-F]|2640|2642|27A1|200D|FE0F)\b")
# Man, woman → person; boy, girl → child; couples → two persons.
_ALIKE = {"1F468": "1F9D1", "1F469": "1F9D1", "1F466": "1F9D2", "1F467": "1F9D2", "1F491": "1F9D1-2764-1F9D1"} | {
    "1F48F": "1F9D1-2764-1F48B-1F9D1",
    **dict.fromkeys(("1F46B", "1F46C", "1F46D"), "1F9D1-1F91D-1F9D1"),
}


def emoji(folder: Path) -> Iterator[Drawing]:
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


def sprites(folder: Path) -> Iterator[Drawing]:
    run(folder, "apt-get", "download", "wesnoth-1.18-data")
    (package,) = folder.glob("*.deb")
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as unpacked:
        assert unpacked.stdout is not None
        for path, content in sorted(read_tar(unpacked.stdout, "r|", r".*/data/core/images/units/[^/]+/.*\.png")):
            kind, *_, name = path.rpartition("/units/")[2].split("/")
            yield kind, f"{kind}/{re.split('[^A-Za-z]', name)[0]}", content


def run(folder: Path, *command: str) -> None:
    """Run a program in a folder; SystemExit with its message if it is not installed or fails."""
    try:
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"{' '.join(command[:2])}: {error}") from None


def read_tar(stream: IO[bytes], mode: Literal["r|", "r|gz"], pattern: str) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each file of an archive whose name matches the pattern."""
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for member in archive:
            if member.isfile() and re.fullmatch(pattern, member.name):
                content = archive.extractfile(member)
                assert content is not None
                yield member.name, content.read()


def make(kind: str, to: Path) -> Path:
    """Write the file of `kind` into a folder."""
    found: dict[bytes, tuple[str, str]] = {}
    side, source = SIDES[kind], {"emoji": emoji, "sprites": sprites}[kind]
    with tempfile.TemporaryDirectory() as folder:
        for name, group, content in source(Path(folder)):
            with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                if image.size == (side, side):
                    pixels = np.array(image.convert("RGBA"))
                    pixels[pixels[..., 3] == 0] = 0  # invisible pixels must not make drawings different
                    found.setdefault(pixels.tobytes(), (name, group))
    classes, groups = zip(*found.values(), strict=True)
    names, labels = np.unique(classes, return_inverse=True)
    to.mkdir(parents=True, exist_ok=True)
    file, staged = to / f"{kind}.npz", to / f"{kind}.staged.npz"
    np.savez_compressed(
        staged,
        images=np.frombuffer(b"".join(found), np.uint8).reshape(-1, side, side, 4),
        labels=labels,
        groups=np.unique(groups, return_inverse=True)[1],
        names=np.frombuffer("\n".join(names).encode(), np.uint8),
    )
    return staged.replace(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=SIDES)
    parser.add_argument("--to", type=Path, help="default: the user's cache folder, where the data sets look")
    wanted = parser.parse_args()
    print(make(wanted.kind, wanted.to or cache_folder(wanted.kind)))


if __name__ == "__main__":
    main()
