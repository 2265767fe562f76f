"""One image file, of any size and kind -> a square of 8-bit levels: upright, cropped to the middle, resized with antialiasing."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from diffusion_lab.data.base import DataError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
_MODES = {1: "L", 3: "RGB"}
_EIGHT_BIT = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "La", "CMYK", "YCbCr", "LAB", "HSV"})


def check_image(path: Path, content: bytes) -> None:
    """DataError if `content` is not an image we can show. Pixels are not decoded: a damaged JPEG may pass until it is read."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            mode = image.mode
            image.verify()
    except Exception as error:
        raise _broken(path, error) from error
    if mode not in _EIGHT_BIT:
        raise DataError(f"{path} has pixels of more than 8 bits (mode {mode}): convert it to 8 bits, or remove it.")


def read_image(path: Path, image_size: int, channels: int) -> Tensor:
    """uint8 (channels, image_size, image_size): the largest square in the middle, resized. channels: 1 is grey, 3 is RGB.

    Turned as its camera says; transparent parts are shown on white; of an animation the first picture. DataError if
    it is broken.
    """
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert(_MODES[channels])
    except Exception as error:
        raise _broken(path, error) from error
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.resize(
        (image_size, image_size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side), reducing_gap=3.0
    )
    return torch.from_numpy(np.array(image).reshape(image_size, image_size, channels)).permute(2, 0, 1)


def _broken(path: Path, error: Exception) -> DataError:
    # Pillow meets damaged files with OSError, SyntaxError, ValueError, struct.error, zlib.error,
    # DecompressionBombError and others.
    return DataError(f"{path} is not an image that can be read ({error}): replace or remove it.")
