"""The generator of a GAN: a latent becomes an image, from coarse to fine, by the residual blocks of the U-Net.

    e = SiLU(W_2 SiLU(W_1 [z, table[y]])),    z, e -> W [z, table[y]] on the coarsest grid -> [blocks, upsample] … -> tanh

Every block is modulated by e, as in a style-based generator (Karras et al. 2019), and its norms are of one image's groups of
channels: no statistics of a batch, so row i depends on z_i and y_i alone.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusion_lab.networks.blocks import ResidualBlock, Upsample, channels_last, nested, zero
from diffusion_lab.networks.mlp import ResidualLayer
from diffusion_lab.networks.norm import GroupNorm
from diffusion_lab.networks.sizes import Sides, check_counts, halved


def sides(image_size: Sides, num_levels: int, group: str = "network") -> list[tuple[int, int]]:
    """(H, W) of every level, as `halved`. ValueError where a side of the last is one pixel."""
    found = halved(image_size, num_levels, group)
    if min(found[-1]) < 2:
        raise ValueError(
            f"{group}.channel_multipliers with {num_levels} levels shrink a side of {min(found[0])} pixels to {min(found[-1])}: "
            "use fewer levels"
        )
    return found


class Latent(nn.Module):
    """(z (B, latent_size), y int64 (B,) | None) -> [z, table[y]] (B, width). ValueError where y and num_classes disagree.

    The table starts at zero: a class that speaks as loud as z from the start is all that a generator listens to, and it draws one
    or two images of each (Shahbazi et al. 2022, "Collapse by conditioning"). So it learns to draw first, then what.
    """

    def __init__(self, latent_size: int, num_classes: int | None):
        super().__init__()
        self.table = None if num_classes is None else zero(nn.Embedding(num_classes, latent_size))
        self.width = latent_size if num_classes is None else 2 * latent_size

    def forward(self, z: Tensor, y: Tensor | None) -> Tensor:
        if (y is None) != (self.table is None):
            raise ValueError("pass class labels y if, and only if, the network was built with num_classes")
        return z if self.table is None else torch.cat([z, self.table(y)], dim=1)


class LatentNetwork(nn.Module):
    """network(z (B, latent_size) float32, y int64 (B,) | None) -> (B, out_channels, …) float32."""

    latent_size: int


class Generator(LatentNetwork):
    """network(z (B, latent_size) float32, y int64 (B,) | None) -> images (B, out_channels, H, W) float32 in [−1, 1].

    image_size: the side, or H and W. channel_multipliers: one level per entry, finest first; times base_channels. num_res_blocks:
    per level.
    Raises ValueError where a size is not a positive whole number, or where there are too many levels.
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

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        z = self.latent(z, y)
        e = self.embedding(z)
        h = self.input(z).view(len(z), *self.sides[-1], -1).permute(0, 3, 1, 2)
        for level, blocks in enumerate(nested(self.levels)):
            if level > 0:
                h = self.upsamples[level - 1](h, self.sides[-1 - level])
            for block in blocks:
                h = block(h, e)
        return self.output(self.norm(h)).float().tanh()


class PointGenerator(LatentNetwork):
    """network(z (B, latent_size) float32, y int64 (B,) | None) -> points (B, out_channels) float32, anywhere.

    hidden: width of every layer; num_layers: residual layers, modulated by an embedding of (z, y).
    """

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

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        z = self.latent(z, y)
        e, h = self.embedding(z), self.input(z)
        for layer in self.layers:
            h = layer(h, e)
        return self.output(functional.silu(h)).float()
