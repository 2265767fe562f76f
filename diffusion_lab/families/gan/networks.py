"""Generator and discriminator of a GAN: residual convolutions for images, perceptrons for points.

The generator maps a latent to an image, from coarse to fine, with the residual blocks of the U-Net:

    e = SiLU(W_2 SiLU(W_1 [z, table[y]])),    z, e -> W [z, table[y]] on the coarsest grid -> [blocks, upsample] … -> tanh

Every block is modulated by e, as in a style-based generator (Karras et al. 2019), and its norms use groups of channels of one
image, not statistics of a batch, so row i depends only on z_i and y_i. The discriminator maps an image to a number:

    D(x, y) = w·h(x) + b + ⟨table[y], h(x)⟩                              projection, Miyato & Koyama 2018, eq. 4

It has no norm, because a slope penalty applies to each sample separately, and is twice differentiable, as that penalty requires.
With spectral_norm every weight is divided by its largest singular value, updated by one power iteration per training pass (Miyato
et al. 2018).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm as normalised

from diffusion_lab.networks.blocks import ResidualBlock, Upsample, channels_last, nested, zero
from diffusion_lab.networks.embeddings import class_vectors
from diffusion_lab.networks.mlp import ResidualLayer
from diffusion_lab.networks.norm import GroupNorm
from diffusion_lab.networks.sizes import Sides, check_counts, halved, height_and_width


def sides(image_size: Sides, num_levels: int, group: str = "network") -> list[tuple[int, ...]]:
    """(H, W) of every level, as in `halved`. ValueError if a side of the last level is one pixel."""
    found = halved(height_and_width(image_size, group), num_levels)
    if min(found[-1]) < 2:
        raise ValueError(
            f"{group}.channel_multipliers with {num_levels} levels shrink a side of {min(found[0])} pixels to {min(found[-1])}: "
            "use fewer levels"
        )
    return found


class Latent(nn.Module):
    """(z (B, latent_size), y int64 (B,) | None) -> [z, table[y]] (B, width). ValueError where y and num_classes disagree.

    The table starts at zero: if classes are as large as z from the start, a generator ignores z and draws one or two images per
    class (Shahbazi et al. 2022, "Collapse by conditioning").
    """

    def __init__(self, latent_size: int, num_classes: int | None):
        super().__init__()
        self.table = None if num_classes is None else zero(nn.Embedding(num_classes, latent_size))
        self.width = latent_size if num_classes is None else 2 * latent_size

    def forward(self, z: Tensor, y: Tensor | None) -> Tensor:
        of_class = class_vectors(self.table, y)
        return z if of_class is None else torch.cat([z, of_class], dim=1)


class LatentNetwork(nn.Module, ABC):
    """network(z (B, latent_size) float32, y int64 (B,) | None) -> (B, out_channels, …) float32."""

    latent_size: int
    latent: Latent
    embedding: nn.Module
    input: nn.Module

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        z = self.latent(z, y)
        return self._drawn(self.input(z), self.embedding(z)).float()

    @abstractmethod
    def _drawn(self, h: Tensor, e: Tensor) -> Tensor:
        """The output of the blocks, modulated by e, for h."""


class Generator(LatentNetwork):
    """network(z (B, latent_size) float32, y int64 (B,) | None) -> images (B, out_channels, H, W) float32 in [−1, 1].

    image_size: the side, or H and W. channel_multipliers: one level per entry, finest first; times base_channels. num_res_blocks:
    per level.
    ValueError if a size is not a positive whole number, or there are too many levels.
    """

    def __init__(
        self,
        out_channels: int,
        image_size: Sides,
        num_classes: int | None = None,
        latent_size: int = 64,
        base_channels: int = 32,
        channel_multipliers: Sequence[int] = (1, 2),
        num_res_blocks: int = 1,
    ):
        super().__init__()
        check_counts(
            latent_size=latent_size,
            base_channels=base_channels,
            num_res_blocks=num_res_blocks,
            channel_multipliers=min(channel_multipliers, default=0),
        )
        self.latent_size = latent_size
        self.sides = sides(image_size, len(channel_multipliers))
        widths = [base_channels * multiplier for multiplier in channel_multipliers]
        embedding_dim = 4 * base_channels
        self.latent = Latent(latent_size, num_classes)
        self.embedding = nn.Sequential(
            nn.Linear(self.latent.width, embedding_dim),
            nn.SiLU(),
            nn.Linear(embedding_dim, embedding_dim),
            nn.SiLU(),
        )
        self.input = nn.Linear(self.latent.width, widths[-1] * math.prod(self.sides[-1]))
        self.levels, self.upsamples = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(widths))):
            width = widths[level]
            blocks = [ResidualBlock(width, width, embedding_dim, dropout=0.0) for _ in range(num_res_blocks)]
            self.levels.append(nn.ModuleList(blocks))
            if level > 0:
                self.upsamples.append(Upsample(width, widths[level - 1]))
        self.norm = GroupNorm(widths[0])
        self.output = nn.Conv2d(widths[0], out_channels, 3, padding=1)
        channels_last(self)

    def _drawn(self, h: Tensor, e: Tensor) -> Tensor:
        h = h.view(len(h), *self.sides[-1], -1).permute(0, 3, 1, 2)
        for level, blocks in enumerate(nested(self.levels)):
            if level > 0:
                h = self.upsamples[level - 1](h, self.sides[-1 - level])
            for block in blocks:
                h = block(h, e)
        return self.output(self.norm(h)).float().tanh()


class PointGenerator(LatentNetwork):
    """network(z (B, latent_size) float32, y int64 (B,) | None) -> points (B, out_channels) float32, unbounded.

    hidden: width of every layer; num_layers: residual layers, modulated by an embedding of (z, y).
    """

    takes_points = True

    def __init__(
        self,
        out_channels: int,
        num_classes: int | None = None,
        latent_size: int = 16,
        hidden: int = 128,
        num_layers: int = 3,
    ):
        super().__init__()
        check_counts(latent_size=latent_size, hidden=hidden, num_layers=num_layers)
        self.latent_size = latent_size
        self.latent = Latent(latent_size, num_classes)
        self.embedding = nn.Sequential(nn.Linear(self.latent.width, hidden), nn.SiLU())
        self.input = nn.Linear(self.latent.width, hidden)
        self.layers = nn.ModuleList(ResidualLayer(hidden, dropout=0.0) for _ in range(num_layers))
        self.output = nn.Linear(hidden, out_channels)

    def _drawn(self, h: Tensor, e: Tensor) -> Tensor:
        for layer in self.layers:
            h = layer(h, e)
        return self.output(functional.silu(h))


_SLOPE = 0.2  # of the leaky rectifier
_GROUP = "discriminator"  # of its options


class Judgement(nn.Module):
    """(h (B, width), y int64 (B,) | None) -> D (B,) float32: linear in h, with a separate slope per class."""

    def __init__(self, width: int, num_classes: int | None):
        super().__init__()
        self.linear = nn.Linear(width, 1)
        self.table = None if num_classes is None else nn.Embedding(num_classes, width)
        if self.table is not None:
            nn.init.normal_(self.table.weight, std=1 / math.sqrt(width))

    def forward(self, h: Tensor, y: Tensor | None) -> Tensor:
        value, of_class = self.linear(h).squeeze(1), class_vectors(self.table, y)
        return (value if of_class is None else value + (of_class * h).sum(1)).float()


class Block(nn.Module):
    """(skip(x) + conv_2 φ(conv_1 φ(x))) / √2, φ a leaky rectifier; with `halves`, then the mean of 2×2 pixels: n become ⌈n/2⌉."""

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
    """discriminator(x (B, in_channels, H, W), y int64 (B,) | None) -> D (B,) float32: row i depends only on x_i and y_i.

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
    """Initialise with He's weights for the leaky rectifier and no bias; then optionally apply spectral norm to every weight."""
    for module in list(discriminator.modules()):
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, a=_SLOPE, nonlinearity="leaky_relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if spectral_norm and isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
            normalised(module)
