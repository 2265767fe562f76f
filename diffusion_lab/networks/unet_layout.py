"""The levels of the U-Net: their sides, channels and attention, checked, and the blocks that follow from them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from diffusion_lab.networks.blocks import AttentionBlock, ResidualBlock
from diffusion_lab.networks.sizes import (
    Padding,
    Sides,
    base_for,
    check_counts,
    check_dropout,
    halved,
    lengths,
    multipliers_for,
    paddings,
    patch_for,
)


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


def level_sizes(image_size: Sides, patch_size: int, num_levels: int) -> list[int]:
    """The longest side of each level, in patches."""
    patches = [max(1, side // max(1, patch_size)) for side in lengths(image_size)]
    return [max(sides) for sides in halved(patches, num_levels)]


def settled_sizes(
    image_size: Sides,
    base_channels: int | None,
    channel_multipliers: Sequence[int] | None,
    attention_resolutions: Sequence[int] | None,
    head_channels: int | None,
    patch_size: int | None,
) -> dict[str, Any]:
    """These options of `UNet`, with what follows from the image in place of None."""
    patch_size = patch_for(lengths(image_size)) if patch_size is None else patch_size
    patches = [max(1, side // max(1, patch_size)) for side in lengths(image_size)]
    base_channels = base_for(patches) if base_channels is None else base_channels
    if channel_multipliers is None:
        channel_multipliers = multipliers_for(patches, base_channels)
    if attention_resolutions is None:
        attention_resolutions = level_sizes(image_size, patch_size, len(channel_multipliers))[-1:]
    if head_channels is None:
        head_channels = math.gcd(64, *(base_channels * multiplier for multiplier in channel_multipliers[-1:]))
    return {
        "base_channels": base_channels,
        "channel_multipliers": channel_multipliers,
        "attention_resolutions": attention_resolutions,
        "head_channels": head_channels,
        "patch_size": patch_size,
    }


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
