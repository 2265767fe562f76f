"""Reading an image file of any size and kind as levels: upright, cropped, padded or stretched, resized with antialiasing.

The SHA-256 of checked files is cached between starts.
"""

import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageColor, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.io import decode_png

from diffusion_lab.data.checks import DataError, require
from diffusion_lab.data.published import cache_folder
from diffusion_lab.store.files import write_whole

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
# The content determines how a file is read, not its name. Only these formats: for some others, Pillow runs programs.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
FITS = ("crop", "pad", "stretch")
WHITE = (255, 255, 255)
_OF_A_PROFILE = ("CMYK", "LAB", "HSV", "YCbCr")  # their conversion to RGB depends on a colour profile
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")
_SETTLED_SECONDS = 2.0

# Pillow's own limit against decompression bombs, which warns at half of it, is replaced by a number that
# the user can raise; it is checked before a pixel is decoded.
MAX_PIXELS = 178_956_970
Image.MAX_IMAGE_PIXELS = None


def sides_of(image_size: int | Sequence[int]) -> list[int]:
    """(height, width). DataError for an invalid size."""
    sides = list(image_size) if isinstance(image_size, Sequence) else [image_size, image_size]
    fits = len(sides) == 2 and min(sides) >= 1
    require(fits, f"data.image_size={image_size} must be a side in pixels, or [height,width], of at least 1.")
    return sides


def colour_of(alpha: str | Sequence[int]) -> tuple[int, ...]:
    """(r, g, b) of a colour given by these or by a name. DataError for an invalid colour."""
    try:
        found = ImageColor.getrgb(alpha) if isinstance(alpha, str) else tuple(alpha)
    except ValueError:
        found = ()
    fits = len(found) == 3 and all(type(part) is int and 0 <= part <= 255 for part in found)
    require(fits, f"data.alpha={alpha} is no colour: give a name such as white, '#rrggbb', or [r,g,b] from 0 to 255.")
    return found


def check_image(path: Path, content: bytes, max_pixels: int = MAX_PIXELS) -> None:
    """DataError if `read_image` could not read the file with this content; its first picture is decoded to check this."""
    with _opened(path, io.BytesIO(content), max_pixels) as image:
        image.verify()  # checksums of PNG chunks, which decoding ignores
    with _opened(path, io.BytesIO(content), max_pixels) as image:
        image.draft(None, (1, 1))  # a JPEG at an eighth of its resolution; the whole file is read all the same
        _upright(image).convert("RGB")


def read_image(
    path: Path | str,
    image_size: int | Sequence[int] | None,
    channels: int,
    max_pixels: int = MAX_PIXELS,
    deep: bool = False,
    content: io.BytesIO | None = None,
    fit: str = "crop",
    background: Sequence[int] = WHITE,
) -> Tensor:
    """An image as uint8 (channels, H, W): the largest central part with these proportions, resized.

    path: of the file, for messages and, without `content`, to be read. image_size: the side of a square, or H and W; None:
    unchanged. channels: 1 is grey, 3 is RGB, and 4 RGB and opacity. max_pixels: the most pixels that are decoded. deep: uint16
    instead, for grey only; 8 bits are scaled to 16. content: of the file, if it is not at `path`. fit: "crop"; "pad": the whole
    image, between bars of the colour `background`, or transparent ones; "stretch": the whole image in other proportions.
    background: (r, g, b), shown through transparent parts. Rotated as the metadata say; 16-bit grey is scaled to 8 bits; the first
    picture of an animation. DataError if the file is damaged, has more than `max_pixels`, or levels of unknown range.
    """
    with _opened(path, content or path, max_pixels, options=content is None) as opened:
        shown = _deep_grey(opened, background) if deep else _upright(opened, background, keep_alpha=channels == 4)
    image = shown if deep else shown.convert(_MODES[channels])
    height, width = (image.height, image.width) if image_size is None else sides_of(image_size)
    scales = image.height / height, image.width / width
    if fit == "crop":
        # Cropped first, because resize(box=…), as in ImageOps.fit, would blend pixels from outside into the edges.
        image = _middle(image, max(round(min(scales) * width), 1), max(round(min(scales) * height), 1))
    inner = (width, height)
    if fit == "pad":
        inner = max(round(image.width / max(scales)), 1), max(round(image.height / max(scales)), 1)
    image = image.resize(inner, Image.Resampling.BICUBIC, reducing_gap=3.0)
    if inner != (width, height):
        mode = "RGBA" if channels == 4 else "RGB"
        bars = Image.new(mode, (width, height), (*background, 0)[: len(mode)])
        bars = _deep_grey(bars, background) if deep else bars.convert(image.mode)
        bars.paste(image, ((width - inner[0]) // 2, (height - inner[1]) // 2))
        image = bars
    pixels = np.array(image)
    if channels == 4:
        pixels[pixels[..., 3] == 0, :3] = background  # invisible colours are arbitrary
    if deep:
        pixels = pixels.round().clip(0, 65535).astype(np.uint16)
    return torch.from_numpy(pixels.reshape(height, width, channels)).permute(2, 0, 1)


def _middle(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def kind_of(name: str, content: io.BytesIO, max_pixels: int) -> tuple[int, bool]:
    """(channels: 1 for grey, else 3; whether it has 16 bits). name: for messages."""
    with _opened(name, content, max_pixels, options=False) as image:
        deep = _is_sixteen_bit(image)
        return 1 if deep or image.mode in ("1", "L") else 3, deep


def read_as_it_is(name: str, content: bytes, max_pixels: int) -> np.ndarray:
    """uint8 or, for 16 bits, uint16 (H, W, C), grey (C = 1) or RGB (C = 3), neither cropped nor resized; otherwise as `read_image`.

    name: for messages. DataError for 16-bit colours other than PNG, which Pillow would cut to 8 bits, and for colours that
    are not RGB.
    """
    with _opened(name, io.BytesIO(content), max_pixels, options=False) as opened:
        opened.verify()
    with _opened(name, io.BytesIO(content), max_pixels, options=False) as opened:
        if _is_sixteen_bit(opened):
            return np.asarray(ImageOps.exif_transpose(opened)).astype(np.uint16)[..., None]
        require(opened.mode not in _OF_A_PROFILE, f"{name} has colours of mode {opened.mode}: convert it to RGB.")
        if ";16" in str(opened.tile):  # the pixel format in the file
            return _deep_colours(name, content, opened.format)
        image = _upright(opened)
        image = image.convert("L" if image.mode in ("1", "L") else "RGB")
    return np.array(image).reshape(image.height, image.width, -1)


@contextmanager
def _opened(
    path: Path | str, content: Path | str | io.BytesIO, max_pixels: int, options: bool = True
) -> Iterator[ImageFile.ImageFile]:
    """The image, not decoded yet. Any error in the block becomes one sentence that names the file.

    options: whether it belongs to a data set, whose options the message may mention.
    """
    remedy = "or leave it out" + (" with data.on_error=skip" if options else "")
    most, raised = (f"data.max_pixels={max_pixels}", "raise that limit, ") if options else (max_pixels, "")
    try:
        with Image.open(content, formats=_FORMATS) as image:
            require(
                image.width * image.height <= max_pixels,
                f"{path} has {image.width}×{image.height} pixels, more than {most}, and may be a decompression bomb: "
                f"{raised}make the image smaller, {remedy}.",
            )
            require(
                image.mode not in ("I", "F") or _is_sixteen_bit(image),
                f"{path} has 32-bit pixels (mode {image.mode}), whose range is not known: convert it to 8 or 16 bits, {remedy}.",
            )
            yield image
    except DataError:
        raise
    except Exception as error:
        # Pillow's errors for damaged files are OSError, SyntaxError, ValueError, struct.error, zlib.error and others.
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = f"its content is not {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}"
        raise DataError(f"{path} is not an image that can be read ({reason}): replace it, {remedy}.") from error


def _is_sixteen_bit(image: Image.Image) -> bool:
    # Pillow reads 16-bit PPM, scaled to 0 … 65535, and in older versions 16-bit PNG, in the mode of 32-bit integers.
    return image.mode in _SIXTEEN_BIT or (image.mode == "I" and image.format in ("PPM", "PNG"))


def _deep_grey(image: Image.Image, background: Sequence[int]) -> Image.Image:
    """A decoded image, rotated as its metadata say, as float32 in 0 … 65535, which Pillow resizes without reduction to 8 bits."""
    if _is_sixteen_bit(image):
        return Image.fromarray(np.asarray(ImageOps.exif_transpose(image)).astype(np.float32))
    return Image.fromarray(np.asarray(_upright(image, background).convert("L"), np.float32) * 257)


def _deep_colours(name: str, content: bytes, form: str | None) -> np.ndarray:
    """uint16 (H, W, C), C = 1 or 3, on white."""
    said = "save it as PNG, or all images as an npz (arr_0, uint16 NHWC)"
    require(form == "PNG", f"{name} has 16-bit colours: {said}.")
    pixels = decode_png(torch.frombuffer(bytearray(content), dtype=torch.uint8), apply_exif_orientation=True).numpy()
    channels, alpha = (pixels[:-1], pixels[-1:] / 65535) if len(pixels) in (2, 4) else (pixels, 1)
    shown = channels * alpha + 65535 * (1 - alpha)
    return np.ascontiguousarray(shown.round().astype(np.uint16).transpose(1, 2, 0))


def _upright(image: Image.Image, background: Sequence[int] = WHITE, keep_alpha: bool = False) -> Image.Image:
    """A decoded image, rotated as its metadata say, in 8 bits, on this colour, or with its transparency."""
    sixteen_bit = _is_sixteen_bit(image)
    image = ImageOps.exif_transpose(image)
    if sixteen_bit:  # Pillow's own conversion clips at 255
        image = Image.fromarray((np.asarray(image).astype(np.float64) / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if not keep_alpha:
            image = Image.alpha_composite(Image.new("RGBA", image.size, tuple(background)), image)
    return image


class RememberedDigests:
    """Cached digests of the files below `root`, in the user's cache folder: an unchanged file is not read again.

    A file counts as unchanged if its size, inode, modification time and status change time are unchanged:
    writing to it or replacing it changes one of them, and the last cannot be set back. Files changed
    within the last seconds are not cached, because a second change within one tick of the file system's clock would not show.

    `rules`: everything else that a digest depends on, such as the checks that a file passed; other rules use another
    cache.
    """

    def __init__(self, root: Path, rules: str) -> None:
        key = hashlib.sha256(f"{root.resolve()}\n{rules}".encode()).hexdigest()
        self._file = cache_folder("digests") / f"{key}.json"
        self._known: dict[str, list] = {}
        self._fresh: dict[str, list] = {}
        with suppress(OSError, ValueError):  # missing or damaged: every file is read
            known = json.loads(self._file.read_bytes())
            self._known = known if isinstance(known, dict) else {}

    def of(self, path: Path, read: Callable[[], str]) -> str:
        """The digest of a file, cached or from `read`. OSError if there is no file."""
        status = path.stat()
        state = [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
        match self._known.get(str(path)):
            case [remembered, str(digest)] if remembered == state:
                return digest
        digest = read()
        if max(status.st_mtime_ns, status.st_ctime_ns) < (time.time() - _SETTLED_SECONDS) * 1e9:
            self._fresh[str(path)] = [state, digest]
        return digest

    def save(self) -> None:
        """Save the cache. If the folder cannot be written, the next start reads all files."""
        if self._fresh:
            with suppress(OSError):
                write_whole(self._file, json.dumps({**self._known, **self._fresh}).encode())
