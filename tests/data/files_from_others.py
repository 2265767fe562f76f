"""Image files as others make them, whole and broken, and what is said of each.

    python -m tests.data.files_from_others

prints the table: the file, and what data.on_error=raise shows of it or says.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from diffusion_lab.data.image_folder import ImageFolder

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(256, size=(40, 60, 3), dtype=np.uint8)
SIZE = 40


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photo(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(PIXELS).convert(mode)


def ramp16() -> np.ndarray:
    """Each 8-bit level as the 16-bit level that stands for the same grey."""
    return (np.arange(1600) % 256).astype(np.uint16).reshape(40, 40) * 257


def transparent_palette() -> Image.Image:
    image = Image.new("P", (40, 40), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(0, (0, 0, 40, 20))
    return image


def animation() -> bytes:
    first, *others = (Image.new("RGB", (40, 40), colour) for colour in ("red", "lime", "blue"))
    return encoded(first, "GIF", save_all=True, append_images=others, duration=40)


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


def huge_png(side: int) -> bytes:
    """Less than a megabyte that unfold to side × side grey pixels."""
    return png(side, side, 8, 0, (bytes(side) for _ in range(side)))


def deep_png() -> bytes:
    return png(60, 40, 16, 2, (row.tobytes() for row in PIXELS.astype(">u2") * np.array(257, ">u2")))


def flipped_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :]


# PostScript, which Pillow would hand to an interpreter.
PROGRAM = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n"


Expected = str | Callable[[np.ndarray], bool]


def resembles(expected: np.ndarray, tolerance: float = 0.0) -> Callable[[np.ndarray], bool]:
    return lambda shown: bool(np.abs(shown.astype(float) - expected.astype(float)).max() <= tolerance)


def halves(top: tuple[int, int, int], bottom: tuple[int, int, int]) -> Callable[[np.ndarray], bool]:
    return lambda shown: bool((shown[:20] == top).all() and (shown[20:] == bottom).all())


SQUARE = PIXELS[:, 10:50]
GREY16 = np.repeat((ramp16() // 257)[..., None], 3, axis=2)
JPEG = encoded(photo(), "JPEG", quality=95)
BROKEN = "is not an image that can be read"

# What it is -> (file name, content, what is shown (rows, columns, RGB) or part of what is said).
FILES: dict[str, tuple[str, bytes, Expected]] = {
    "8-bit RGB": ("a.png", encoded(photo(), "PNG"), resembles(SQUARE)),
    "1-bit black and white": ("a.png", encoded(photo("1"), "PNG"), lambda x: set(np.unique(x)) == {0, 255}),
    "16-bit grey PNG": ("a.png", encoded(Image.fromarray(ramp16()), "PNG"), resembles(GREY16)),
    "16-bit grey TIFF": ("a.tif", encoded(Image.fromarray(ramp16()), "TIFF"), resembles(GREY16)),
    "16-bit RGB PNG": ("a.png", deep_png(), resembles(SQUARE)),
    "32-bit float TIFF": ("a.tif", encoded(photo("F"), "TIFF"), "has 32-bit pixels (mode F), whose range is not known"),
    "palette": ("a.png", encoded(photo("P"), "PNG"), resembles(np.asarray(photo("P").convert("RGB"))[:, 10:50])),
    "palette, one colour transparent": (
        "a.png",
        encoded(transparent_palette(), "PNG", transparency=0),
        halves((255, 255, 255), (0, 0, 255)),
    ),
    "grey with alpha": ("a.png", encoded(Image.new("LA", (40, 40), (0, 0)), "PNG"), lambda x: bool((x == 255).all())),
    "colour with alpha": (
        "a.png",
        encoded(Image.new("RGBA", (40, 40), (0, 0, 0, 51)), "PNG"),
        lambda x: bool((x == 204).all()),
    ),
    "CMYK JPEG": (
        "a.jpg",
        encoded(Image.new("CMYK", (40, 40), (0, 255, 255, 0)), "JPEG"),
        lambda x: bool(x[..., 0].min() > 250 and x[..., 1:].max() < 5),
    ),
    "animated GIF": ("a.gif", animation(), halves((255, 0, 0), (255, 0, 0))),
    "rotated by EXIF": ("a.png", rotated(), halves((255, 255, 255), (0, 0, 0))),
    "1×1000": ("a.png", encoded(Image.new("RGB", (1, 1000), "red"), "PNG"), halves((255, 0, 0), (255, 0, 0))),
    "PNG called .jpg": ("a.jpg", encoded(photo(), "PNG"), resembles(SQUARE)),
    "13,400×13,400 (bomb)": ("a.png", huge_png(13_400), "has 13400×13400 pixels, more than data.max_pixels=178956970"),
    "zero bytes": ("a.png", b"", "is empty (0 bytes)"),
    "PostScript called .png": ("a.png", PROGRAM, f"{BROKEN} (its content is not BMP"),
    "PNG, a bit flipped": ("a.png", flipped_bit(encoded(photo(), "PNG")), BROKEN),
    "JPEG, truncated": ("a.jpg", JPEG[: len(JPEG) // 2], f"{BROKEN} (image file is truncated"),
    "JPEG, two bytes short": ("a.jpg", JPEG[:-2], f"{BROKEN} (image file is truncated"),
    "GIF, truncated": ("a.gif", encoded(photo(), "GIF")[:1200], BROKEN),
    "BMP, truncated": ("a.bmp", encoded(photo(), "BMP")[:3000], BROKEN),
}


def folder_with(root: Path, name: str, content: bytes) -> Path:
    """The file beside three good ones."""
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content)
    for i in range(3):
        Image.new("RGB", (40, 40)).save(root / f"good{i}.png")
    return root


def shown(root: Path, name: str, **options) -> np.ndarray | None:
    """uint8 (rows, columns, RGB) of the file as the data set shows it; None if it was left out. DataError."""
    data = ImageFolder(1, 0, str(root), image_size=SIZE, num_workers=0, **options)
    data.prepare()
    for split, images in data._images.items():
        for i, path in enumerate(images.paths):
            if path.name == name:
                x, _ = list(data.batches(split, 1))[i]
                return ((x[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    return None
