"""The discriminator of a GAN: an image becomes one number, by residual convolutions without any norm.

    D(x, y) = w·h(x) + b + ⟨table[y], h(x)⟩                              projection, Miyato & Koyama 2018, eq. 4

No norm, because a penalty on the slope is of each sample's own, and twice differentiable, as that penalty requires. With
spectral_norm every weight is divided by its largest singular value, updated by one power iteration per pass in training (Miyato
et al. 2018).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm as normalised

from diffusion_lab.families.gan.generator import sides
from diffusion_lab.networks.blocks import channels_last
from diffusion_lab.networks.sizes import Sides, check_counts

_SLOPE = 0.2  # of the leaky rectifier
_GROUP = "discriminator"  # of its options


class Judgement(nn.Module):
    """(h (B, width), y int64 (B,) | None) -> D (B,) float32: linear in h, and for each class another slope."""

    def __init__(self, width: int, num_classes: int | None):
        super().__init__()
        self.linear = nn.Linear(width, 1)
        self.table = None if num_classes is None else nn.Embedding(num_classes, width)
        if self.table is not None:
            nn.init.normal_(self.table.weight, std=1 / math.sqrt(width))

    def forward(self, h: Tensor, y: Tensor | None) -> Tensor:
        if (y is None) != (self.table is None):
            raise ValueError("pass class labels y if, and only if, the network was built with num_classes")
        value = self.linear(h).squeeze(1)
        return (value if self.table is None else value + (self.table(y) * h).sum(1)).float()


class Block(nn.Module):
    """(skip(x) + conv_2 φ(conv_1 φ(x))) / √2, φ a leaky rectifier; then, with `halves`, the mean of 2×2 pixels: n become ⌈n/2⌉."""

    def __init__(self, in_channels: int, out_channels: int, halves: bool):
        super().__init__()
        self.conv_1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv_2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        self.halves = halves

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_1(functional.leaky_relu(x, _SLOPE))
        h = self.conv_2(functional.leaky_relu(h, _SLOPE))
        h = (self.skip(x) + h) / math.sqrt(2)
        return functional.avg_pool2d(h, 2, ceil_mode=True) if self.halves else h


class Discriminator(nn.Module):
    """discriminator(x (B, in_channels, H, W), y int64 (B,) | None) -> D (B,) float32: row i depends on x_i and y_i alone.

    Sizes as in `Generator`, whose mirror image it is.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: Sides,
        num_classes: int | None = None,
        spectral_norm: bool = False,
        base_channels: int = 32,
        channel_multipliers: Sequence[int] = (1, 2),
        num_res_blocks: int = 1,
    ):
        super().__init__()
        check_counts(
            _GROUP,
            base_channels=base_channels,
            num_res_blocks=num_res_blocks,
            channel_multipliers=min(channel_multipliers, default=0),
        )
        widths = [base_channels * multiplier for multiplier in channel_multipliers]
        channels, smallest = widths[0], sides(image_size, len(widths), _GROUP)[-1]
        self.input = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.blocks = nn.ModuleList()
        for level, width in enumerate(widths):
            for number in range(num_res_blocks):
                halves = number == num_res_blocks - 1 and level < len(widths) - 1
                self.blocks.append(Block(channels, width, halves))
                channels = width
        self.hidden = nn.Linear(channels * math.prod(smallest), channels)
        self.judgement = Judgement(channels, num_classes)
        _initialise(self, spectral_norm)
        channels_last(self)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.input(x.contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            h = block(h)
        h = self.hidden(functional.leaky_relu(h, _SLOPE).flatten(1))
        return self.judgement(functional.leaky_relu(h, _SLOPE), y)


class PointDiscriminator(nn.Module):
    """discriminator(x (B, in_channels), y int64 (B,) | None) -> D (B,) float32; hidden, num_layers as in `PointGenerator`."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int | None = None,
        spectral_norm: bool = False,
        hidden: int = 128,
        num_layers: int = 3,
    ):
        super().__init__()
        check_counts(_GROUP, hidden=hidden, num_layers=num_layers)
        self.input = nn.Linear(in_channels, hidden)
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(num_layers))
        self.judgement = Judgement(hidden, num_classes)
        _initialise(self, spectral_norm)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.input(x)
        for layer in self.layers:
            h = (h + layer(functional.leaky_relu(h, _SLOPE))) / math.sqrt(2)
        return self.judgement(functional.leaky_relu(h, _SLOPE), y)


def _initialise(discriminator: nn.Module, spectral_norm: bool) -> None:
    """He's weights for the leaky rectifier and no bias; then, if wanted, spectral norm of every weight."""
    for module in list(discriminator.modules()):
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, a=_SLOPE, nonlinearity="leaky_relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if spectral_norm and isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
            normalised(module)
