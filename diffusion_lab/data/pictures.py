"""Samples as pictures: a grid of images, a scatter of points, an animation from x_T to x_0."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from diffusion_lab.diffusion.levels import MOST_LEVELS, from_levels, to_levels

# Pixels on the screen of the longer side; smaller images are enlarged by whole factors, without smoothing.
_SMALLEST_SIDE = 48


@contextmanager
def may_fail(name: str) -> Iterator[None]:
    """If a picture cannot be drawn inside the block, warn and go on, so that the work it shows is not lost."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        logging.getLogger(__name__).warning(f"{name} could not be drawn ({reason}); nothing else is lost")


def picture(x: Tensor, num_levels: int | None, columns: int | None = None) -> Image.Image:
    """Samples (B, C, H, W) as a nearly square grid, or points (B, 2) as a scatter."""
    return grid(x, num_levels, columns) if x.ndim == 4 else scatter(x)


def grid(x: Tensor, num_levels: int | None, columns: int | None = None) -> Image.Image:
    """A grid of x float32 (B, C, H, W) in [−1, 1], read row by row, in the colours of `shown_channels`."""
    pixels = shown_channels(to_uint8(x, num_levels or 256))
    scale = max(1, math.ceil(_SMALLEST_SIDE / max(pixels.shape[-2:])))
    pixels = pixels.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    rows = make_grid(pixels, nrow=columns or math.ceil(math.sqrt(len(x))), padding=2, pad_value=128)
    return Image.fromarray(rows.permute(1, 2, 0).contiguous().numpy())


def to_uint8(x: Tensor, num_levels: int | None) -> Tensor:
    """A picture of x, uint8 in 0 … 255: rounded to the data's levels, if it has any, which are spread over 0 … 255."""
    return _shades(x, num_levels, 256)


def pixels(x: Tensor, num_levels: int | None) -> np.ndarray:
    """x float32 (B, C, H, W) in [−1, 1] -> uint8 (B, H, W, C), as published evaluators read images; uint16 beyond 256 levels."""
    found = _shades(x, num_levels, 256 if (num_levels or 256) <= 256 else MOST_LEVELS)
    return found.permute(0, 2, 3, 1).contiguous().numpy()


def _shades(x: Tensor, num_levels: int | None, count: int) -> Tensor:
    """x on `count` levels, after rounding to the data's, if it has any."""
    return to_levels(x if num_levels is None else from_levels(to_levels(x, num_levels), num_levels), count)


def images(x: Tensor, num_levels: int | None) -> list[Image.Image]:
    """x float32 (B, C, H, W) in [−1, 1] -> an image each. ValueError where none can hold them."""
    check_images(x.shape[1], num_levels)
    return [Image.fromarray(each.squeeze(-1) if each.shape[-1] == 1 else each) for each in pixels(x, num_levels)]


def check_images(channels: int, num_levels: int | None) -> None:
    """ValueError for samples that an image file cannot hold as they are."""
    levels = num_levels or 256
    if channels != 1 and (channels not in (3, 4) or levels > 256):
        raise ValueError(
            f"the samples have {channels} channels of {levels} levels, but image files have 1, or 3 or 4 of at most 256 levels: "
            "use format=npz, or numpy in Python"
        )


def shown_channels(pixels: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, 1 or 3, H, W): C = 1 grey; C = 2 magenta and green; else the first three as RGB."""
    if pixels.shape[1] == 2:
        return pixels[:, [0, 1, 0]]
    return pixels[:, :3]


def scatter(x: Tensor) -> Image.Image:
    """The first two coordinates of points (B, D); for D = 1 a histogram."""
    from matplotlib.figure import Figure  # slow to import, and only points need it

    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    if x.shape[1] == 1:
        axes.hist(x[:, 0].numpy(), bins=60, density=True, color="#3366aa")
    else:
        axes.scatter(x[:, 0].numpy(), x[:, 1].numpy(), s=6, linewidths=0, alpha=0.6, color="#3366aa")
        axes.set_aspect("equal")
        axes.set_xlim(-2, 2)
        axes.set_ylim(-2, 2)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return Image.open(buffer)


def png(image: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def animation(frames: Sequence[Image.Image], milliseconds: int = 60) -> bytes:
    """The bytes of a GIF that plays `frames` and rests on the last for two seconds."""
    buffer = io.BytesIO()
    durations = [milliseconds] * (len(frames) - 1) + [2000]
    palette = [frame.convert("P") for frame in frames]
    palette[0].save(buffer, format="GIF", save_all=True, append_images=palette[1:], duration=durations, loop=0)
    return buffer.getvalue()


def rows_of(batches: Sequence[Tensor]) -> Tensor:
    """[(N, …)] * K -> (N·K, …): sample by sample, so that a grid of K columns shows a sample's K states in one row."""
    return torch.stack(list(batches), dim=1).flatten(0, 1)
