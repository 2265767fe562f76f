"""Pictures of samples: a grid of images, of lines or of slices, a scatter of points; an animation from x_T to x_0."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import pad
from torchvision.utils import make_grid

from diffusion_lab.diffusion.levels import MOST_LEVELS, from_levels, to_levels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Pixels of the longer side on the screen; smaller images are enlarged by whole factors, without smoothing.
_SMALLEST_SIDE = 48
_MOST_COLUMNS = 20  # of a grid with a column for each class
_COLOURS, _TEXT, _SMALLEST_SCALE = "viridis", 12, 120  # of the scale of real numbers; height, least width in pixels


@contextmanager
def may_fail(name: str) -> Iterator[None]:
    """If a picture cannot be drawn in the block, warn and continue, so that the shown work is not lost."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        logging.getLogger(__name__).warning(f"{name} could not be drawn ({reason}); nothing else is lost")


Span = tuple[float, float]  # the numbers at the two ends of a scale


def picture(
    x: Tensor,
    num_levels: int | None,
    columns: int | None = None,
    names: Sequence[str] | None = None,
    spans: Sequence[Span] | None = None,
) -> Image.Image:
    """Samples (B, C, *spatial) float32 as a nearly square grid (`nearly_square`), read row by row; points (B, D) as a scatter.

    One axis: lines, a colour for each channel. Two: images. Three: the middle slices across each axis, side by side.
    num_levels: of data in [−1, 1], which are shown in grey or in the colours of `shown_channels`; None: real numbers, whose
    channels are shown side by side on a scale of colours, from spans[c][0] to spans[c][1]; None: those of x. names: of the
    channels.
    """
    if x.ndim == 2:
        return scatter(x)
    columns = columns or nearly_square(len(x))
    span, *others = [(-1.0, 1.0)] if num_levels else spans or _spans([x])
    if any(other != span for other in others):  # each channel has its own scale, from 0 to 1
        several = [span, *others]
        low, high = (torch.tensor(ends).view(-1, *[1] * (x.ndim - 2)) for ends in zip(*several, strict=True))
        x, span = (x - low) / (high - low), (0.0, 1.0)
        given = names or [f"channel {number}" for number in range(len(several))]
        names = [f"{name}: {low:.3g} … {high:.3g}" for name, (low, high) in zip(given, several, strict=True)]
    if x.ndim == 3:
        return _lines(x, columns, names or (), span)
    x = _slices(x, -1.0 if num_levels else math.nan) if x.ndim == 5 else x
    if num_levels:
        return _tiled(shown_channels(to_uint8(x, num_levels)), columns)
    return _with_scale(
        _tiled(_coloured(_side_by_side(x.unbind(1)), span), columns, 2 * _SMALLEST_SIDE), " · ".join(names or ()), span
    )


def columns_of(num_classes: int | None, number: int) -> int | None:
    """The columns of a grid of `number` samples of classes in turn: one per class if these are few and fill every row; None for a
    nearly square grid."""
    classes = num_classes or 0
    return classes if 1 < classes <= _MOST_COLUMNS and number % classes == 0 else None


def nearly_square(number: int) -> int:
    """The columns of a grid without empty places that is at most four times as wide as high, or of the smallest square that holds
    them."""
    root = math.ceil(math.sqrt(number))
    return next((columns for columns in range(root, 2 * root) if number % columns == 0), root)


def frames(states: Sequence[Tensor], num_levels: int | None, columns: int | None = None) -> list[Image.Image]:
    """A picture of each state on the way from x_T to x_0, all on one scale."""
    if num_levels:
        # x_T reaches beyond [−1, 1]; 256 shades show noise that the data's few levels could not.
        return [picture(x.clamp(-1, 1), 256, columns) for x in states]
    spans = _spans(states)
    return [picture(x, None, columns, spans=spans) for x in states]


def _spans(states: Sequence[Tensor]) -> list[Span]:
    """The range of each channel of (B, C, …); a single one if the ranges are similar."""
    each = [_span([x[:, channel] for x in states]) for channel in range(states[0].shape[1])]
    low, high = min(span[0] for span in each), max(span[1] for span in each)
    alike = high - low <= 3 * min(span[1] - span[0] for span in each)
    return [(low, high)] * len(each) if alike else each


def _span(states: Sequence[Tensor]) -> Span:
    low, high = min(float(x.min()) for x in states), max(float(x.max()) for x in states)
    return (low, high) if low < high else (low - 1, high + 1)


def _tiled(pixels: Tensor, columns: int, smallest_side: int = _SMALLEST_SIDE) -> Image.Image:
    """uint8 (B, 1 or 3, H, W) in rows of `columns`, small images enlarged."""
    scale = max(1, math.ceil(smallest_side / max(pixels.shape[-2:])))
    pixels = pixels.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    rows = make_grid(pixels, nrow=columns, padding=2, pad_value=128)
    return Image.fromarray(rows.permute(1, 2, 0).contiguous().numpy())


def _slices(x: Tensor, empty: float) -> Tensor:
    """(B, C, *three axes) -> (B, C, H, W): the middle slices across each axis, side by side with `empty` between them."""
    return _side_by_side([x.select(axis, x.shape[axis] // 2) for axis in (2, 3, 4)], empty)


def _side_by_side(parts: Sequence[Tensor], empty: float = math.nan) -> Tensor:
    """(…, H, W) each -> (…, max H, sum of W and of gaps): `empty` between them and below lower ones."""
    height, gap = max(part.shape[-2] for part in parts), max(1, max(part.shape[-1] for part in parts) // 16)
    room = [(0, gap if number + 1 < len(parts) else 0, 0, height - part.shape[-2]) for number, part in enumerate(parts)]
    return torch.cat([pad(part, space, value=empty) for part, space in zip(parts, room, strict=True)], dim=-1)


def _coloured(x: Tensor, span: Span) -> Tensor:
    """(B, H, W) -> uint8 (B, 3, H, W): numbers as colours; white for missing ones."""
    from matplotlib import colormaps  # slow to import

    shades = ((x.double() - span[0]) / (span[1] - span[0])).clamp(0, 1).nan_to_num()
    colours = torch.from_numpy(colormaps[_COLOURS](shades.numpy(), bytes=True)[..., :3].copy())
    return torch.where(x.isnan()[..., None], 255, colours).permute(0, 3, 1, 2)


def _with_scale(image: Image.Image, label: str, span: Span) -> Image.Image:
    """The image above a bar of the colours from span[0] to span[1]."""
    font = ImageFont.load_default(_TEXT)
    width = max(image.width, _SMALLEST_SCALE)
    whole = Image.new("RGB", (width, image.height + 2 * _TEXT + 8), "white")
    whole.paste(image, ((width - image.width) // 2, 0))
    bar = _coloured(torch.linspace(*span, width - 4)[None, None], span).expand(-1, -1, _TEXT, -1)
    whole.paste(Image.fromarray(bar[0].permute(1, 2, 0).contiguous().numpy()), (2, image.height + 2))
    draw, y = ImageDraw.Draw(whole), image.height + _TEXT + 4
    for x, anchor, text in (
        (2, "la", f"{span[0]:.3g}"),
        (width // 2, "ma", label),
        (width - 2, "ra", f"{span[1]:.3g}"),
    ):
        draw.text((x, y), text, fill="black", font=font, anchor=anchor)
    return whole


def _lines(x: Tensor, columns: int, names: Sequence[str], span: Span) -> Image.Image:
    """(B, C, L), each sample in its own frame, on a common scale; one colour per channel."""
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    count, channels, length = x.shape
    rows, columns = math.ceil(count / columns), min(columns, count)
    wide, (low, high) = 1.1 * (length - 1 or 1), span
    place = torch.arange(count)
    left, bottom = wide * (place % columns), -1.15 * (place // columns)
    across = (left[:, None] + torch.arange(length))[:, None].expand(-1, channels, -1)
    shades = (x.double() - low) / (high - low) + bottom[:, None, None]
    figure = Figure(figsize=(max(4, 1.5 * columns), max(2, 0.9 * rows) + 0.3), layout="constrained")
    axes = figure.subplots()
    for channel in range(channels):
        segments = torch.stack([across[:, channel].double(), shades[:, channel]], dim=2).numpy()
        axes.add_collection(LineCollection(list(segments), colors=f"C{channel}", linewidths=0.9))
    ends = [0.0, wide / 1.1]
    for corner in zip(left.tolist(), bottom.tolist(), strict=True):
        axes.add_patch(Rectangle(corner, ends[1], 1, fill=False, edgecolor="0.75", linewidth=0.6))
    axes.autoscale_view()
    axes.margins(0.01)
    axes.set_xticks(ends, ["0", str(length - 1)], fontsize=7)
    ticks = [float(y) for y in bottom[::columns]]
    axes.set_yticks([y + j for y in ticks for j in (0, 1)], [f"{end:.3g}" for _ in ticks for end in span], fontsize=7)
    for channel, name in enumerate(names):
        axes.text(channel / len(names), 1.0, name, color=f"C{channel}", fontsize=8, transform=axes.transAxes)
    axes.spines[:].set_visible(False)
    return _drawn(figure)


def _drawn(figure: Figure) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return Image.open(buffer)


def to_uint8(x: Tensor, num_levels: int | None) -> Tensor:
    """A picture of x in [−1, 1], uint8 in 0 … 255: rounded to the data's levels, if any, which are spread over 0 … 255."""
    return _shades(x, num_levels, 256)


def numbers(x: Tensor, num_levels: int | None) -> np.ndarray:
    """x (B, C, *spatial) in [−1, 1] -> uint8 (B, *spatial, C), as published evaluators read images; uint16 beyond 256 levels.

    num_levels None: x unchanged, float32 (B, C, *spatial) or (B, D).
    """
    if num_levels is None:
        return x.float().numpy()
    return _shades(x, num_levels, 256 if num_levels <= 256 else MOST_LEVELS).movedim(1, -1).contiguous().numpy()


def _shades(x: Tensor, num_levels: int | None, count: int) -> Tensor:
    """x on `count` levels, after rounding to the data's levels, if any."""
    return to_levels(x if num_levels is None else from_levels(to_levels(x, num_levels), num_levels), count)


def images(x: Tensor, num_levels: int | None, names: Sequence[str] | None = None) -> list[Image.Image]:
    """An image of each sample: the levels of (B, C, H, W), or a picture. ValueError as in `check_images`."""
    check_images(x.shape[1:], num_levels)
    if x.ndim != 4 or num_levels is None:
        spans = None if num_levels else _spans([x])
        return [picture(each[None], num_levels, names=names, spans=spans) for each in x]
    return [Image.fromarray(each.squeeze(-1) if each.shape[-1] == 1 else each) for each in numbers(x, num_levels)]


def check_images(shape: Sequence[int], num_levels: int | None) -> None:
    """ValueError for samples of a shape that image files cannot hold individually."""
    if len(shape) == 1:
        raise ValueError("the samples are points, of which there is one picture, not one each: use format=grid or npz")
    if len(shape) == 3 and num_levels and shape[0] != 1 and (shape[0] not in (3, 4) or num_levels > 256):
        raise ValueError(
            f"the samples have {shape[0]} channels of {num_levels} levels, but image files have 1, 3 or 4, of at most 256 levels: "
            "use format=npz, or numpy in Python"
        )


def shown_channels(pixels: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, 1 or 3, H, W): C = 1 grey; C = 2 magenta and green; else the first three as RGB."""
    if pixels.shape[1] == 2:
        return pixels[:, [0, 1, 0]]
    return pixels[:, :3]


def scatter(x: Tensor) -> Image.Image:
    """The first two coordinates of points (B, D); for D = 1 a histogram."""
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    if x.shape[1] == 1:
        axes.hist(x[:, 0].numpy(), bins=60, density=True, color="#3366aa")
    else:
        axes.scatter(x[:, 0].numpy(), x[:, 1].numpy(), s=6, linewidths=0, alpha=0.6, color="#3366aa")
        if (x.abs() > 2).double().mean() < 0.2:  # otherwise they have other units
            axes.set_aspect("equal")
            axes.set_xlim(-2, 2)
            axes.set_ylim(-2, 2)
    return _drawn(figure)


def png(image: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def animation(frames: Sequence[Image.Image], milliseconds: int = 60) -> bytes:
    """The bytes of a GIF that plays `frames` and pauses on the last for two seconds."""
    buffer = io.BytesIO()
    durations = [milliseconds] * (len(frames) - 1) + [2000]
    palette = [frame.convert("RGB").quantize() for frame in frames]  # each frame with its own 256 colours
    palette[0].save(buffer, format="GIF", save_all=True, append_images=palette[1:], duration=durations, loop=0)
    return buffer.getvalue()


def headed(image: Image.Image, heads: Sequence[str]) -> Image.Image:
    """The image below a line with a text for each of its columns."""
    font, width = ImageFont.load_default(_TEXT), image.width / len(heads)
    whole = Image.new("RGB", (image.width, image.height + _TEXT + 4), "white")
    whole.paste(image, (0, _TEXT + 4))
    for number, text in enumerate(heads):
        ImageDraw.Draw(whole).text((width * (number + 0.5), 2), text, fill="black", font=font, anchor="ma")
    return whole


def rows_of(batches: Sequence[Tensor]) -> Tensor:
    """[(N, …)] * K -> (N·K, …): sample by sample, so that a grid of K columns shows a sample's K states in one row."""
    return torch.stack(list(batches), dim=1).flatten(0, 1)
