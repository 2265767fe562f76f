"""The encoder of the U-Net, shared by denoisers and classifiers of noisy images, and the layout of its levels.

    x_t -> conv -> [level 0] -> down -> [level 1] -> … -> [middle]

A classifier of x_t consists of the encoder and attention pooling (Dhariwal & Nichol 2021, section 4).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from diffusion_lab.conditions.condition import has_field
from diffusion_lab.diffusion.shapes import Conditions
from diffusion_lab.networks.blocks import (
    AttentionBlock,
    Conv,
    Downsample,
    ResidualBlock,
    memory_format,
    nested,
    to_patches,
)
from diffusion_lab.networks.embeddings import Conditioning, FourierFeatures
from diffusion_lab.networks.norm import GroupNorm
from diffusion_lab.networks.sizes import Padding, Sides, check_counts, check_dropout, halved, lengths, paddings


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The options of `UNet` that its encoder and decoder share. ValueError if they do not fit together."""

    image_size: Sides
    base_channels: int
    channel_multipliers: Sequence[int]
    num_res_blocks: int
    attention_resolutions: Sequence[int]
    head_channels: int
    num_heads: int | None
    dropout: float
    activation_checkpointing: bool
    additive_embedding: bool
    residual_resampling: bool
    num_groups: int | None
    embedding_channels: int | None
    padding: Padding
    patch_size: int

    def __post_init__(self) -> None:
        check_dropout(self.dropout)
        check_counts(
            base_channels=self.base_channels,
            patch_size=self.patch_size,
            num_res_blocks=self.num_res_blocks,
            num_heads=1 if self.num_heads is None else self.num_heads,
            num_groups=1 if self.num_groups is None else self.num_groups,
            embedding_channels=self.sinusoid_dim,
            **{f"channel_multipliers[{level}]": factor for level, factor in enumerate(self.channel_multipliers)},
        )
        if any(side % self.patch_size for side in lengths(self.image_size)):
            raise ValueError(
                f"network.patch_size={self.patch_size} must divide every side of the images, {list(lengths(self.image_size))}; use "
                f"{math.gcd(*lengths(self.image_size))} or a divisor of it"
            )
        _check_levels(max(lengths(self.image_size)) // self.patch_size, self.channel_multipliers)
        _check_resolutions(self.sizes, self.attention_resolutions)
        paddings(self.padding, len(self.sides[0]))
        self._check_heads()
        self._check_groups()

    @property
    def widths(self) -> list[int]:
        """Channels of each level."""
        return [self.base_channels * multiplier for multiplier in self.channel_multipliers]

    @property
    def sides(self) -> list[tuple[int, ...]]:
        """The length of each spatial axis, of each level."""
        patches = [side // self.patch_size for side in lengths(self.image_size)]
        return halved(patches, len(self.channel_multipliers))

    @property
    def paddings(self) -> tuple[str, ...]:
        """The padding of each spatial axis."""
        return paddings(self.padding, len(self.sides[0]))

    @property
    def sizes(self) -> list[int]:
        """The longest side of each level."""
        return [max(sides) for sides in self.sides]

    @property
    def attending(self) -> list[bool]:
        """Whether attention follows every block of a level."""
        return [size in self.attention_resolutions for size in self.sizes]

    @property
    def sinusoid_dim(self) -> int:
        return self.base_channels if self.embedding_channels is None else self.embedding_channels

    @property
    def embedding_dim(self) -> int:
        """The size of the embedding that every block uses."""
        return 4 * self.sinusoid_dim

    def block(self, channels_in: int, channels_out: int, attends: bool) -> nn.ModuleList:
        """A residual block and, if it `attends`, attention after it."""
        parts: list[nn.Module] = [self.residual(channels_in, channels_out)]
        return nn.ModuleList([*parts, self.attention(channels_out)] if attends else parts)

    def residual(self, channels_in: int, channels_out: int, resample: nn.Module | None = None) -> ResidualBlock:
        return ResidualBlock(
            *(channels_in, channels_out, self.embedding_dim, self.dropout),
            additive=self.additive_embedding,
            resample=resample,
            num_groups=self.num_groups,
            padding=self.paddings,
        )

    def attention(self, channels: int) -> AttentionBlock:
        head_channels = self.head_channels if self.num_heads is None else channels // self.num_heads
        return AttentionBlock(channels, head_channels, self.num_groups)

    def _check_heads(self) -> None:
        attending = [width for width, attends in zip(self.widths, self.attending, strict=True) if attends]
        attending.append(self.widths[-1])
        name = "head_channels" if self.num_heads is None else "num_heads"
        size = getattr(self, name)
        if size < 1 or any(width % size for width in attending):
            raise ValueError(
                f"network.{name}={size} must divide the channels wherever there is attention, which are "
                f"{attending}; use {math.gcd(*attending)} or a divisor of it"
            )

    def _check_groups(self) -> None:
        if self.num_groups is not None and any(width % self.num_groups for width in self.widths):
            raise ValueError(
                f"network.num_groups={self.num_groups} must divide the channels of every level, which are {self.widths}; "
                f"use {math.gcd(*self.widths)} or a divisor of it, or null to choose one for each level"
            )


def run(block: nn.Module, h: Tensor, e: Tensor, recompute: bool) -> Tensor:
    """Apply a block, or a list of blocks in turn. recompute: recompute activations in the backward pass instead of storing them."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(_run_parts, block, h, e, use_reentrant=False)
    return _run_parts(block, h, e)


def _run_parts(block: nn.Module, h: Tensor, e: Tensor) -> Tensor:
    for part in block if isinstance(block, nn.ModuleList) else [block]:
        h = part(h, e) if isinstance(part, ResidualBlock) else part(h)
    return h


class Encoder(nn.Module):
    """(x_t (B, in_channels, *spatial), timesteps, y) -> (h, skips, e).

    h: the middle, (B, out_channels, ⌈H/2^L⌉, …); skips: the input of every level and the output of every block, in order;
    e: SiLU of the embedding of (t, y), used by every residual block. conditioning: computes that embedding.

    `skip_channels`: of the skips, in order. `out_channels`: of the middle.
    """

    def __init__(self, in_channels: int, layout: Layout, conditioning: Conditioning, features: FourierFeatures):
        super().__init__()
        self.activation_checkpointing = layout.activation_checkpointing
        self.conditioning, self.features = conditioning, features
        channels, self.skip_channels = layout.base_channels, [layout.base_channels]
        self.patch_size = layout.patch_size
        for size in filter(has_field, conditioning.sizes):
            if len(size) - 1 != len(layout.paddings):
                raise ValueError(
                    f"condition: the field has the spatial axes {list(size[1:])}, but x has {list(layout.sides[0])}; they need "
                    "equally many"
                )
        in_channels = in_channels * features.num_features + conditioning.field_channels
        self.input = Conv(in_channels * self.patch_size ** len(layout.paddings), channels, layout.paddings)
        self.down, self.downsamples = nn.ModuleList(), nn.ModuleList()
        pool = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[len(layout.paddings) - 1]
        for level, (width, attends) in enumerate(zip(layout.widths, layout.attending, strict=True)):
            if level > 0:
                halve = pool(2, ceil_mode=True)
                residual = layout.residual_resampling
                self.downsamples.append(
                    layout.residual(channels, channels, halve) if residual else Downsample(channels, layout.paddings)
                )
                self.skip_channels.append(channels)
            blocks = nn.ModuleList()
            for _ in range(layout.num_res_blocks):
                blocks.append(layout.block(channels, width, attends))
                channels = width
                self.skip_channels.append(channels)
            self.down.append(blocks)
        first = layout.block(channels, channels, attends=True)
        self.middle = nn.ModuleList([*first, *layout.block(channels, channels, attends=False)])
        self.out_channels = channels

    def forward(self, x_t: Tensor, timesteps: Tensor, y: Conditions) -> tuple[Tensor, list[Tensor], Tensor]:
        # Every block needs SiLU(e), so it is computed once.
        e = functional.silu(self.conditioning(timesteps, y))
        seen = to_patches(self.conditioning.beside_fields(self.features(x_t), y), self.patch_size)
        h = self.input(seen.contiguous(memory_format=memory_format(x_t.ndim - 2)))
        skips = [h]
        for level, blocks in enumerate(nested(self.down)):
            if level > 0:
                h = run(self.downsamples[level - 1], h, e, self.activation_checkpointing)
                skips.append(h)
            for part in blocks:
                h = run(part, h, e, self.activation_checkpointing)
                skips.append(h)
        return run(self.middle, h, e, self.activation_checkpointing), skips, e


class AttentionPool(nn.Module):
    """h (B, C, *spatial) -> (B, out_channels): attention from the mean of all pixels to itself and to all pixels, in heads of
    `head_channels`. out_channels None: C.

    num_pixels: with it the mean and each of the pixels have learned positions, which are added to them (the pooling of
    guided diffusion).
    """

    def __init__(
        self,
        channels: int,
        head_channels: int,
        out_channels: int | None = None,
        num_pixels: int | None = None,
        num_groups: int | None = None,
    ):
        super().__init__()
        self.num_heads = channels // head_channels
        self.norm = GroupNorm(channels, num_groups=num_groups)
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.project = nn.Linear(channels, out_channels or channels)
        positions = None if num_pixels is None else torch.randn(1 + num_pixels, channels) / channels**0.5
        self.positions = None if positions is None else nn.Parameter(positions)

    def forward(self, h: Tensor) -> Tensor:
        pixels = self.norm(h).flatten(2).transpose(1, 2)
        seen = torch.cat([pixels.mean(1, keepdim=True), pixels], dim=1)
        seen = seen if self.positions is None else seen + self.positions
        key, value = self.key_value(seen).chunk(2, dim=-1)
        query, key, value = (self._heads(x) for x in (self.query(seen[:, :1]), key, value))
        return self.project(functional.scaled_dot_product_attention(query, key, value).flatten(1))

    def _heads(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, heads, N, C / heads)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class EncoderClassifier(nn.Module):
    """(x_t (B, C, *spatial) float32, timesteps int64 (B,)) -> logits float32 (B, num_logits), from the pooled middle of `encoder`.

    output: maps the pooled vector to logits; None if it already is the logits.
    """

    def __init__(self, encoder: Encoder, pool: AttentionPool, output: nn.Linear | None):
        super().__init__()
        self.encoder, self.pool, self.output = encoder, pool, output

    def forward(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        h, _, _ = self.encoder(x_t, timesteps, None)
        pooled = self.pool(h)
        return (pooled if self.output is None else self.output(functional.silu(pooled))).float()


def _check_levels(longest: int, channel_multipliers: Sequence[int]) -> None:
    if not channel_multipliers:
        raise ValueError("network.channel_multipliers is empty; give one multiplier per level, such as [1, 2]")
    halvings = len(channel_multipliers) - 1
    if halvings > math.ceil(math.log2(longest)):
        raise ValueError(
            f"network.channel_multipliers={list(channel_multipliers)} halves {longest}-pixel images {halvings} times, "
            f"past one pixel; give at most {math.ceil(math.log2(longest)) + 1} multipliers"
        )


def _check_resolutions(sizes: Sequence[int], attention_resolutions: Sequence[int]) -> None:
    absent = [resolution for resolution in attention_resolutions if resolution not in sizes]
    if absent:
        raise ValueError(
            f"network.attention_resolutions={list(attention_resolutions)} names {absent}, but {sizes[0]}-pixel images with "
            f"{len(sizes)} channel_multipliers have the resolutions {sizes}; choose from these, or [] for attention in the "
            "middle only"
        )
