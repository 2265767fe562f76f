"""Samples as a person looks at them: a grid of images, a scatter of points, an animation from x_T to x_0."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from diffusion_lab.data.levels import to_uint8

_SMALLEST_SIDE = 48  # pixels on the screen; smaller images are enlarged by whole factors, without smoothing


def picture(x: Tensor, num_levels: int | None, columns: int | None = None) -> Image.Image:
    """Samples (B, C, H, W) as a nearly square grid, or points (B, 2) as a scatter."""
    return grid(x, num_levels, columns) if x.ndim == 4 else scatter(x)


def grid(x: Tensor, num_levels: int | None, columns: int | None = None) -> Image.Image:
    """A grid of x float32 (B, C, H, W) in [−1, 1], C = 1 or 3 shown (the first channel of any other C), read row by row."""
    pixels = to_uint8(x, num_levels or 256)
    if pixels.shape[1] not in (1, 3):
        pixels = pixels[:, :1]
    scale = max(1, math.ceil(_SMALLEST_SIDE / pixels.shape[-1]))
    pixels = pixels.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    rows = make_grid(pixels, nrow=columns or math.ceil(math.sqrt(len(x))), padding=2, pad_value=128)
    return Image.fromarray(rows.permute(1, 2, 0).contiguous().numpy())


def pixels(x: Tensor, num_levels: int | None) -> np.ndarray:
    """x float32 (B, C, H, W) in [−1, 1] -> uint8 (B, H, W, C), as published evaluators read images."""
    return to_uint8(x, num_levels).permute(0, 2, 3, 1).contiguous().numpy()


def images(x: Tensor, num_levels: int | None) -> list[Image.Image]:
    """x float32 (B, C, H, W) in [−1, 1], C = 1 or 3 -> an image each."""
    return [Image.fromarray(each.squeeze(-1) if each.shape[-1] == 1 else each) for each in pixels(x, num_levels)]


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
