"""The blocks of the U-Net: convolution, residual, attention, downsampling, upsampling. All map (B, C, *spatial) to the same kind.

There are one, two or three spatial axes, as many as `padding` has entries; channels lie last in memory where torch can.
The last layer of the residual and of the attention block starts at zero, so every block starts as the identity (or as
its 1×1 skip) and the depth of the network costs nothing at the first step. Source: Dhariwal & Nichol 2021, appendix;
Nichol & Dhariwal 2021, section 3.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd

from diffusion_lab.networks.forward_mode import in_forward_mode
from diffusion_lab.networks.norm import GroupNorm

Module = TypeVar("Module", bound=nn.Module)


def zero(module: Module) -> Module:
    """`module` with all its parameters set to zero."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def memory_format(num_axes: int) -> torch.memory_format:
    """The memory format with channels last, if torch has one for this number of spatial axes."""
    return {2: torch.channels_last, 3: torch.channels_last_3d}.get(num_axes, torch.contiguous_format)


def channels_last(network: Module, num_axes: int = 2) -> Module:
    """The network, which from now on stores its weights, and thereby its images, with channels last."""
    return network.to(memory_format=memory_format(num_axes))  # type: ignore[call-overload]  # torch does not declare it


def to_patches(x: Tensor, size: int) -> Tensor:
    """(B, C, *spatial) -> (B, C·size^axes, *spatial/size): the values of a patch become the channels of one position."""
    if size == 1:
        return x
    parts = x.reshape(*x.shape[:2], *(n for side in x.shape[2:] for n in (side // size, size)))
    return parts.permute(0, 1, *range(3, parts.ndim, 2), *range(2, parts.ndim, 2)).flatten(1, x.ndim - 1)


def from_patches(x: Tensor, size: int) -> Tensor:
    """The inverse of `to_patches`."""
    if size == 1:
        return x
    axes = x.ndim - 2
    parts = x.unflatten(1, (-1, *[size] * axes))
    order = [k for axis in range(axes) for k in (2 + axes + axis, 2 + axis)]
    return parts.permute(0, 1, *order).reshape(len(x), -1, *(size * side for side in x.shape[2:]))


def nested(lists: nn.ModuleList) -> list[nn.ModuleList]:
    """The lists in a list of lists of modules."""
    return [modules for modules in lists if isinstance(modules, nn.ModuleList)]


def cropped(x: Tensor, size: Sequence[int]) -> Tensor:
    """The first `size` positions along the spatial axes of x (B, C, *spatial)."""
    for axis, side in enumerate(size, start=2):
        x = x.narrow(axis, 0, side)
    return x


def held_back(layer: nn.Module, h: Tensor, held: int) -> Tensor:
    """layer(h), (B, channels, …), whose last `held` channels train only the layer's own weights."""
    if held == 0:
        return layer(h)
    return torch.cat([layer(h)[:, :-held], layer(h.detach())[:, -held:]], dim=1)


class PixelLinear(nn.Linear):
    """The 1×1 convolution as one matrix product over the pixels of a channels-last image: no copy on the way in or out."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


ZEROS = ("zeros", "zeros")  # for the two axes of an image


class Conv(_ConvNd):
    """A convolution with 3 taps along each axis that keeps the size, or, with stride 2, makes ⌈n/2⌉ of n positions.

    padding: "zeros" or "circular" for each spatial axis. A circular axis has no edge, so a shift along it, by a multiple of the
    stride, commutes with the convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, padding: Sequence[str] = ZEROS, stride: int = 1):
        axes = len(padding)
        one, three, none = (1,) * axes, (3,) * axes, (0,) * axes
        super().__init__(
            in_channels,
            out_channels,
            three,
            (stride,) * axes,
            one,
            one,
            False,
            none,
            1,
            bias=True,
            padding_mode="zeros",
        )
        self.circular = [each == "circular" for each in padding]

    def forward(self, x: Tensor) -> Tensor:
        convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[len(self.circular) - 1]
        padding = [0 if circular else 1 for circular in self.circular]
        return convolve(self.wrapped(x), self.weight, self.bias, self.stride, padding)

    def wrapped(self, x: Tensor) -> Tensor:
        """x with its last position before its first and its first after its last, along each circular axis."""
        if not any(self.circular):
            return x
        return functional.pad(
            x, [int(circular) for circular in reversed(self.circular) for _ in range(2)], mode="circular"
        )


class ResidualBlock(nn.Module):
    """skip(x) + conv_2(dropout(SiLU((1 + scale(e)) · norm(h) + shift(e)))),  h = conv_1(SiLU(norm(x))): AdaGN.

    x (B, in_channels, *spatial), e (B, embedding_dim), already through SiLU -> (B, out_channels, *spatial). embedding_dim None:
    there is no e, and scale and shift are 0. additive: SiLU(norm(h + shift(e))) instead (Ho et al. 2020). resample: a module
    without parameters that halves or doubles the pixels of x and of SiLU(norm(x)). num_groups: of the norms; None: by the
    channels. padding: of each spatial axis.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_dim: int | None,
        dropout: float,
        additive: bool = False,
        resample: nn.Module | None = None,
        num_groups: int | None = None,
        padding: Sequence[str] = ZEROS,
    ):
        super().__init__()
        self.additive = additive
        self.resample = nn.Identity() if resample is None else resample
        self.norm_1 = GroupNorm(in_channels, num_groups=num_groups)
        self.conv_1 = Conv(in_channels, out_channels, padding)
        modulated = out_channels if additive else 2 * out_channels
        self.modulation = None if embedding_dim is None else nn.Linear(embedding_dim, modulated)
        self.norm_2 = GroupNorm(out_channels, num_groups=num_groups)
        self.dropout = nn.Dropout(dropout)
        self.conv_2 = zero(Conv(out_channels, out_channels, padding))
        self.skip = PixelLinear(in_channels, out_channels) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, e: Tensor | None = None) -> Tensor:
        h = self.conv_1(self.resample(self.norm_1(x)))
        if self.modulation is None:
            h = self.norm_2(h)
        elif self.additive:
            h = self.norm_2(h + self.modulation(e).reshape(*h.shape[:2], *[1] * (h.ndim - 2)))
        else:
            h = self.norm_2(h, *self.modulation(e).chunk(2, dim=1))
        return self.conv_2(self.dropout(h)) + self.skip(self.resample(x))


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q·Kᵀ/√c)·V for (B, heads, pixels, c).

    PyTorch's fused kernel, except in bfloat16 on a CPU, where plain products take a third of its time at 64 pixels, 0.8 at 1024,
    and in forward mode, in which it has no derivative.
    """
    if in_forward_mode() or (query.device.type == "cpu" and query.dtype == torch.bfloat16):
        precise = torch.promote_types(query.dtype, torch.float32)
        return torch.softmax(query @ key.mT * query.shape[-1] ** -0.5, dim=-1, dtype=precise).to(value.dtype) @ value
    return functional.scaled_dot_product_attention(query, key, value)


class AttentionBlock(nn.Module):
    """x + W_o attention(W_qkv norm(x)): every pixel attends to every pixel, in heads of `head_channels` channels."""

    def __init__(self, channels: int, head_channels: int, num_groups: int | None = None):
        super().__init__()
        self.num_heads = channels // head_channels
        self.norm = GroupNorm(channels, silu=False, num_groups=num_groups)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = zero(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, *sides = x.shape
        positions = math.prod(sides)
        pixels = self.norm(x).movedim(1, -1).reshape(batch, positions, channels)
        qkv = self.qkv(pixels).view(batch, positions, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = attend(query, key, value)
        attended = self.project(attended.transpose(1, 2).reshape(batch, positions, channels))
        return x + attended.view(batch, *sides, channels).movedim(-1, 1)


class Downsample(Conv):
    """A convolution of stride 2: n pixels become ⌈n/2⌉."""

    def __init__(self, channels: int, padding: Sequence[str] = ZEROS):
        super().__init__(channels, channels, padding, stride=2)


class Upsample(Conv):
    """Nearest-neighbour upsampling by 2, then a 3×3 convolution, cropped to `size` (the skip's: 7 -> 14 -> 28, 4 -> 8 -> 15).

    An output pixel depends on a 3×3 window of the doubled image, which contains only 2×2 different pixels: so both steps are
    one transposed convolution of stride 2 whose 4×4 kernel sums the taps of equal pixels. It takes 16 products per
    input pixel instead of 36, and the doubled image is never stored; likewise along one axis or three. The parameters are those
    of the 3×3 convolution.
    out_channels: None for the number of input channels.
    """

    def __init__(self, channels: int, out_channels: int | None = None, padding: Sequence[str] = ZEROS):
        super().__init__(channels, out_channels or channels, padding)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:  # type: ignore[override]  # a convolution that takes the size
        axes = tuple(range(2, x.ndim))  # Dynamo unpacks a range incorrectly
        kernel = functional.pad(self.weight.transpose(0, 1).flip(axes), (1, 1) * len(axes))
        for axis in axes:
            kernel = kernel.narrow(axis, 0, 4) + kernel.narrow(axis, 1, 4)
        kernel = kernel.contiguous(memory_format=memory_format(len(axes)))
        convolve = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[
            len(axes) - 1
        ]
        padding = [
            3 if circular else 1 for circular in self.circular
        ]  # removes what `wrapped` added, twice as wide here
        return cropped(convolve(self.wrapped(x), kernel, self.bias, stride=2, padding=padding), size)
