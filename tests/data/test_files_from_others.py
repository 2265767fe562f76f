"""Image files of other programs: each is read correctly, refused in one sentence, or skipped where the option says so."""

import io
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion_lab.data import DataError
from diffusion_lab.data.image_folder import ImageFolder
from diffusion_lab.data.read_image import read_image

PIXELS = np.random.default_rng(0).integers(256, size=(40, 60, 3), dtype=np.uint8)
SQUARE = PIXELS[:, 10:50]
PHOTO = Image.fromarray(PIXELS)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def transparent_palette() -> bytes:
    image = Image.new("P", (40, 40), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(0, (0, 0, 40, 20))
    return encoded(image, "PNG", transparency=0)


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90° to see it
    pixels = np.zeros((40, 40), dtype=np.uint8)
    pixels[:, :20] = 255  # left half, which is the top once turned
    return encoded(Image.fromarray(pixels), "PNG", exif=exif)


def png(width: int, height: int, depth: int, colour_type: int, rows: Iterable[bytes]) -> bytes:
    """A PNG of a kind that Pillow does not write; each row without its filter byte."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(b"\0" + row) for row in rows) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def deep_png() -> bytes:
    return png(60, 40, 16, 2, (row.tobytes() for row in PIXELS.astype(">u2") * np.array(257, ">u2")))


def flipped_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :]


def halves(top: tuple[int, int, int], bottom: tuple[int, int, int]) -> Callable[[np.ndarray], bool]:
    return lambda shown: bool((shown[:20] == top).all() and (shown[20:] == bottom).all())


JPEG = encoded(PHOTO, "JPEG", quality=95)
BROKEN = "is not an image that can be read"
# Kind of file -> (name, content, the picture (rows, columns, RGB) or a part of the message).
FILES: dict[str, tuple[str, bytes, str | Callable[[np.ndarray], bool]]] = {
    "16-bit RGB PNG": ("a.png", deep_png(), lambda shown: np.array_equal(shown, SQUARE)),
    "palette, one colour transparent": ("a.png", transparent_palette(), halves((255, 255, 255), (0, 0, 255))),
    "CMYK": ("a.jpg", encoded(Image.new("CMYK", (40, 40), (0, 255, 255, 0)), "JPEG"), lambda x: x[..., 0].min() > 250),
    "rotated by EXIF": ("a.png", rotated(), halves((255, 255, 255), (0, 0, 0))),
    "32-bit float TIFF": ("a.tif", encoded(PHOTO.convert("F"), "TIFF"), "has 32-bit pixels (mode F)"),
    # Pillow would hand PostScript to an interpreter.
    "PostScript called .png": (
        "a.png",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
        f"{BROKEN} (its content is not BMP",
    ),
    "PNG, a bit flipped": ("a.png", flipped_bit(encoded(PHOTO, "PNG")), BROKEN),
    "JPEG, truncated": ("a.jpg", JPEG[: len(JPEG) // 2], BROKEN),
}


def shown(root: Path, name: str, **options) -> np.ndarray | None:
    """uint8 (rows, columns, RGB) of the file as the data set shows it; None if it was left out. DataError."""
    data = ImageFolder(1, 0, str(root), image_size=40, num_workers=0, **options)
    data.prepare()
    for split, images in data._images.items():
        for i, path in enumerate(images.paths):
            if path.name == name:
                x, _ = list(data.batches(split, 1))[i]
                return ((x[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    return None


@pytest.mark.parametrize("what", FILES)
def test_a_file_is_shown_or_named(tmp_path: Path, what: str) -> None:
    name, content, expected = FILES[what]
    (tmp_path / name).write_bytes(content)
    for i in range(3):
        Image.new("RGB", (40, 40)).save(tmp_path / f"good{i}.png")
    if callable(expected):
        assert expected(shown(tmp_path, name))
        return
    with pytest.raises(DataError) as error:
        shown(tmp_path, name)
    said = str(error.value)
    assert said.startswith(f"{tmp_path / name} {expected}")
    assert said.endswith("data.on_error=skip.")
    assert "\n" not in said
    assert shown(tmp_path, name, on_error="skip") is None


def test_sixteen_bits_are_scaled_and_rounded(tmp_path: Path) -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(levels).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", 256, 1)[0].numpy()
    assert np.array_equal(image, (levels / 65535 * 255).round())


def test_a_large_image_is_let_in_by_raising_the_limit(tmp_path: Path) -> None:
    Image.new("L", (1000, 1000)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"1000×1000 pixels, more than data\.max_pixels=999999, .*raise that limit"):
        read_image(tmp_path / "a.png", 8, 1, max_pixels=999_999)
    assert read_image(tmp_path / "a.png", 8, 1, max_pixels=1_000_000).shape == (1, 8, 8)
