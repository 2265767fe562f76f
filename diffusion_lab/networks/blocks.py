"""The four blocks of the U-Net: residual, attention, downsampling, upsampling. All take and give channels-last (B, C, H, W).

The last layer of the residual and of the attention block starts at zero, so every block starts as the identity (or as
its 1×1 skip) and the depth of the network costs nothing at the first step. Source: Dhariwal & Nichol 2021, appendix;
Nichol & Dhariwal 2021, section 3.
"""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusion_lab.networks.norm import GroupNorm

Module = TypeVar("Module", bound=nn.Module)


def zero(module: Module) -> Module:
    """`module` with all its parameters set to zero."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def channels_last(network: nn.Module) -> None:
    """Keep its weights, and so its images, with the channels last in memory."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch does not declare it


def nested(lists: nn.ModuleList) -> list[nn.ModuleList]:
    """The lists in a list of lists of modules."""
    return [modules for modules in lists if isinstance(modules, nn.ModuleList)]


def held_back(layer: nn.Module, h: Tensor, held: int) -> Tensor:
    """layer(h), (B, channels, …), whose last `held` channels train the layer's own weights and nothing before them."""
    if held == 0:
        return layer(h)
    return torch.cat([layer(h)[:, :-held], layer(h.detach())[:, -held:]], dim=1)


class PixelLinear(nn.Linear):
    """The 1×1 convolution as one matrix product over the pixels of a channels-last image: no copy on the way in or out."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ResidualBlock(nn.Module):
    """skip(x) + conv_2(dropout(SiLU((1 + scale(e)) · norm(h) + shift(e)))),  h = conv_1(SiLU(norm(x))): AdaGN.

    x (B, in_channels, H, W), e (B, embedding_dim), already through SiLU -> (B, out_channels, H, W). embedding_dim None: there
    is no e, and scale and shift are 0. additive: SiLU(norm(h + shift(e))) instead (Ho et al. 2020). resample: a module without
    parameters that halves or doubles the pixels of x and of SiLU(norm(x)). num_groups: of the norms; None: by the channels.
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
    ):
        super().__init__()
        self.additive = additive
        self.resample = nn.Identity() if resample is None else resample
        self.norm_1 = GroupNorm(in_channels, num_groups=num_groups)
        self.conv_1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        modulated = out_channels if additive else 2 * out_channels
        self.modulation = None if embedding_dim is None else nn.Linear(embedding_dim, modulated)
        self.norm_2 = GroupNorm(out_channels, num_groups=num_groups)
        self.dropout = nn.Dropout(dropout)
        self.conv_2 = zero(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = PixelLinear(in_channels, out_channels) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, e: Tensor | None = None) -> Tensor:
        h = self.conv_1(self.resample(self.norm_1(x)))
        if self.modulation is None:
            h = self.norm_2(h)
        elif self.additive:
            h = self.norm_2(h + self.modulation(e)[:, :, None, None])
        else:
            h = self.norm_2(h, *self.modulation(e).chunk(2, dim=1))
        return self.conv_2(self.dropout(h)) + self.skip(self.resample(x))


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q·Kᵀ/√c)·V for (B, heads, pixels, c).

    PyTorch's fused one, except in bfloat16 on a CPU: plain products take a third of its time at 64 pixels, 0.8 of it at 1024.
    """
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        return (
            torch.softmax(query @ key.mT * query.shape[-1] ** -0.5, dim=-1, dtype=torch.float32).to(value.dtype) @ value
        )
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
        batch, channels, height, width = x.shape
        pixels = self.norm(x).permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        qkv = self.qkv(pixels).view(batch, height * width, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = attend(query, key, value)
        attended = self.project(attended.transpose(1, 2).reshape(batch, height * width, channels))
        return x + attended.view(batch, height, width, channels).permute(0, 3, 1, 2)


class Downsample(nn.Conv2d):
    """A 3×3 convolution of stride 2: n pixels become ⌈n/2⌉."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, stride=2, padding=1)


class Upsample(nn.Conv2d):
    """Nearest-neighbour upsampling by 2, then a 3×3 convolution, cropped to `size` (the skip's: 7 -> 14 -> 28, 4 -> 8 -> 15).

    An output pixel sees its 3×3 window of the doubled image, which holds only 2×2 different pixels: so both steps are
    one transposed convolution of stride 2 whose 4×4 kernel sums the taps that meet the same pixel. 16 products per
    input pixel instead of 36, and the doubled image is never written. The parameters are those of the 3×3 convolution.
    out_channels: None for as many as come in.
    """

    def __init__(self, channels: int, out_channels: int | None = None):
        super().__init__(channels, out_channels or channels, 3, padding=1)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:  # type: ignore[override]  # a convolution that is told the size
        taps = functional.pad(self.weight.transpose(0, 1).flip(2, 3), (1, 1, 1, 1))
        kernel = taps[:, :, :-1] + taps[:, :, 1:]
        kernel = kernel[..., :-1] + kernel[..., 1:]
        kernel = kernel.contiguous(memory_format=torch.channels_last)
        return functional.conv_transpose2d(x, kernel, self.bias, stride=2, padding=1)[..., : size[0], : size[1]]
