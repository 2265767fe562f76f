"""Encoder and decoder of a variational autoencoder: residual convolutions for images, perceptrons for points.

    encode   x_0 -> (μ, log σ²) of q(z|x_0, y) = N(μ, diag σ²)
    decode   z   -> the parameters of p(x_0|z, y)

z is one vector per sample. It enters the decoder twice: as the coarsest level of the image, and in the adaptive group norm of
every block, together with the class. The last layers of both are initialised to zero, so q(z|x_0) starts as the prior N(0, I).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusion_lab.networks.blocks import Downsample, ResidualBlock, Upsample, channels_last, nested, zero
from diffusion_lab.networks.embeddings import class_vectors
from diffusion_lab.networks.mlp import ResidualLayer
from diffusion_lab.networks.norm import GroupNorm
from diffusion_lab.networks.sizes import Sides, check_counts, check_dropout, halved, height_and_width


class Autoencoder(nn.Module):
    """network(x_0 (B, …) float32, eps (B, latent_dim), y int64 (B,) | None) -> (μ, log σ², output of decode(μ + σ·ε)).

    ValueError if y is missing in a network with classes, or given to one without.
    """

    latent_dim: int
    encoder: nn.Module  # (x_0, y) -> [μ, log σ²] (B, 2·latent_dim)
    decoder: nn.Module  # (z, y) -> (B, out_channels, …)

    def forward(self, x_0: Tensor, eps: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encode(x_0, y)
        return mean, log_variance, self.decode(mean + torch.exp(0.5 * log_variance) * eps, y)

    def encode(self, x_0: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """μ and log σ², each (B, latent_dim) float32."""
        mean, log_variance = self.encoder(x_0, y).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """z (B, latent_dim) -> (B, out_channels, …) float32."""
        return self.decoder(z, y)


class ConvAutoencoder(Autoencoder):
    """For images x_0 (B, in_channels, H, W), image_size the side, or H and W, which may be odd (28 -> 14 -> 7).

    - out_channels: outputs of the decoder, as required by its likelihood.
    - num_classes: of the condition of both halves; None for a network without classes.
    - latent_dim: numbers in z.
    - base_channels, channel_multipliers: level l has base_channels · channel_multipliers[l] channels and
      ⌈H / 2^l⌉ × ⌈W / 2^l⌉ pixels.
    - num_res_blocks: residual blocks per level, in each half.

    ValueError for sizes that do not fit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        image_size: Sides,
        num_classes: int | None = None,
        latent_dim: int = 32,
        base_channels: int = 32,
        channel_multipliers: Sequence[int] = (1, 2),
        num_res_blocks: int = 1,
        dropout: float = 0.0,
    ):
        super().__init__()
        check_dropout(dropout)
        check_counts(
            in_channels=in_channels,
            out_channels=out_channels,
            latent_dim=latent_dim,
            base_channels=base_channels,
            num_res_blocks=num_res_blocks,
            **{f"channel_multipliers[{level}]": multiplier for level, multiplier in enumerate(channel_multipliers)},
        )
        shorter = min(height_and_width(image_size))
        if not channel_multipliers or 2 ** (len(channel_multipliers) - 1) > shorter:
            raise ValueError(
                f"network.channel_multipliers={list(channel_multipliers)}: {shorter}-pixel images can have 1 to "
                f"{shorter.bit_length()} levels, each half the size of the one before"
            )
        self.latent_dim = latent_dim
        widths = [base_channels * multiplier for multiplier in channel_multipliers]
        sizes = halved(height_and_width(image_size), len(widths))
        self.encoder = ConvEncoder(in_channels, widths, sizes[-1], latent_dim, num_classes, num_res_blocks, dropout)
        self.decoder = ConvDecoder(out_channels, widths, sizes, latent_dim, num_classes, num_res_blocks, dropout)
        channels_last(self)


class ConvEncoder(nn.Module):
    """x_0 (B, in_channels, H, W) -> [μ, log σ²] (B, 2·latent_dim) float32: blocks and halvings, then one linear layer."""

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        smallest: tuple[int, ...],
        latent_dim: int,
        num_classes: int | None,
        num_res_blocks: int,
        dropout: float,
    ):
        super().__init__()
        self.classes = ClassEmbedding(num_classes, 4 * widths[0])
        embedding_dim = None if num_classes is None else 4 * widths[0]
        self.input = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.levels, self.downsamples = nn.ModuleList(), nn.ModuleList()
        channels = widths[0]
        for level, width in enumerate(widths):
            if level > 0:
                self.downsamples.append(Downsample(channels))
            self.levels.append(_blocks(num_res_blocks, channels, width, embedding_dim, dropout))
            channels = width
        self.norm = GroupNorm(channels)
        self.output = zero(nn.Linear(channels * prod(smallest), 2 * latent_dim))

    def forward(self, x_0: Tensor, y: Tensor | None = None) -> Tensor:
        e = self.classes(y)
        e = None if e is None else functional.silu(e)
        h = self.input(x_0.contiguous(memory_format=torch.channels_last))
        for level, parts in enumerate(nested(self.levels)):
            if level > 0:
                h = self.downsamples[level - 1](h)
            for block in parts:
                h = block(h, e)
        pixels = self.norm(h).permute(0, 2, 3, 1).flatten(1)
        return self.output(pixels).float()


class ConvDecoder(nn.Module):
    """z (B, latent_dim) -> (B, out_channels, H, W): one linear layer to the coarsest level, then blocks and doublings."""

    def __init__(
        self,
        out_channels: int,
        widths: Sequence[int],
        sizes: Sequence[tuple[int, ...]],
        latent_dim: int,
        num_classes: int | None,
        num_res_blocks: int,
        dropout: float,
    ):
        super().__init__()
        self.sizes = list(sizes)
        embedding_dim = 4 * widths[0]
        self.classes = ClassEmbedding(num_classes, embedding_dim)
        self.style = nn.Linear(latent_dim, embedding_dim)
        channels = widths[-1]
        self.input = nn.Linear(latent_dim, channels * prod(sizes[-1]))
        self.levels, self.upsamples = nn.ModuleList(), nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            self.levels.append(_blocks(num_res_blocks, channels, width, embedding_dim, dropout))
            channels = width
            if level > 0:
                self.upsamples.append(Upsample(channels))
        self.norm = GroupNorm(channels)
        self.output = zero(nn.Conv2d(channels, out_channels, 3, padding=1))

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        e, of_class = self.style(z), self.classes(y)
        e = functional.silu(e if of_class is None else e + of_class)
        h = self.input(z).unflatten(1, (*self.sizes[-1], -1)).permute(0, 3, 1, 2)
        for index, parts in enumerate(nested(self.levels)):
            if index > 0:
                h = self.upsamples[index - 1](h, self.sizes[-1 - index])
            for block in parts:
                h = block(h, e)
        return self.output(self.norm(h)).float()


class ClassEmbedding(nn.Module):
    """table[y], y int64 (B,) -> (B, dim); None in a network without classes. ValueError if y and the classes disagree."""

    def __init__(self, num_classes: int | None, dim: int):
        super().__init__()
        self.table = None if num_classes is None else nn.Embedding(num_classes, dim)

    def forward(self, y: Tensor | None) -> Tensor | None:
        return class_vectors(self.table, y)


class PointAutoencoder(Autoencoder):
    """For points x_0 (B, in_channels): two residual perceptrons.

    hidden: width of every layer; num_layers: residual layers of each. ValueError if a size is not a positive whole
    number.
    """

    takes_points = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_classes: int | None = None,
        latent_dim: int = 2,
        hidden: int = 128,
        num_layers: int = 3,
        dropout: float = 0.0,
    ):
        super().__init__()
        check_dropout(dropout)
        check_counts(
            in_channels=in_channels,
            out_channels=out_channels,
            latent_dim=latent_dim,
            hidden=hidden,
            num_layers=num_layers,
        )
        self.latent_dim = latent_dim
        self.encoder = Perceptron(in_channels, 2 * latent_dim, num_classes, hidden, num_layers, dropout)
        self.decoder = Perceptron(latent_dim, out_channels, num_classes, hidden, num_layers, dropout)


class Perceptron(nn.Module):
    """x (B, in_channels), y -> (B, out_channels) float32: residual layers, modulated by x and the class."""

    def __init__(
        self, in_channels: int, out_channels: int, num_classes: int | None, hidden: int, num_layers: int, dropout: float
    ):
        super().__init__()
        self.classes = ClassEmbedding(num_classes, hidden)
        self.input, self.style = nn.Linear(in_channels, hidden), nn.Linear(in_channels, hidden)
        self.layers = nn.ModuleList(ResidualLayer(hidden, dropout) for _ in range(num_layers))
        self.output = zero(nn.Linear(hidden, out_channels))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        e, of_class = self.style(x), self.classes(y)
        e = functional.silu(e if of_class is None else e + of_class)
        h = self.input(x)
        for layer in self.layers:
            h = layer(h, e)
        return self.output(functional.silu(h)).float()


def _blocks(count: int, channels: int, width: int, embedding_dim: int | None, dropout: float) -> nn.ModuleList:
    """`count` residual blocks; the first changes the number of channels."""
    return nn.ModuleList(
        ResidualBlock(channels if block == 0 else width, width, embedding_dim, dropout) for block in range(count)
    )
