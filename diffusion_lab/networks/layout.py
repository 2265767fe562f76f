"""Which blocks a U-Net has: how many levels, how wide, where attention is. It checks the sizes and makes the blocks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from diffusion_lab.networks.blocks import AttentionBlock, ResidualBlock
from diffusion_lab.networks.sizes import Sides, check_counts, check_dropout, halved, height_and_width


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The options of `UNet` that its way down and its way up share. Raises ValueError where they do not fit each other."""

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

    def __post_init__(self) -> None:
        check_dropout(self.dropout)
        check_counts(
            base_channels=self.base_channels,
            num_res_blocks=self.num_res_blocks,
            num_heads=1 if self.num_heads is None else self.num_heads,
            num_groups=1 if self.num_groups is None else self.num_groups,
            embedding_channels=self.sinusoid_dim,
            **{f"channel_multipliers[{level}]": factor for level, factor in enumerate(self.channel_multipliers)},
        )
        _check_levels(max(height_and_width(self.image_size)), self.channel_multipliers)
        _check_resolutions(self.sizes, self.attention_resolutions)
        self._check_heads()
        self._check_groups()

    @property
    def widths(self) -> list[int]:
        """Channels of each level."""
        return [self.base_channels * multiplier for multiplier in self.channel_multipliers]

    @property
    def sides(self) -> list[tuple[int, int]]:
        """(H, W) of each level."""
        return halved(self.image_size, len(self.channel_multipliers))

    @property
    def sizes(self) -> list[int]:
        """The longer side of each level."""
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
        """Of the vector that every block reads."""
        return 4 * self.sinusoid_dim

    def block(self, channels_in: int, channels_out: int, attends: bool) -> nn.ModuleList:
        """A residual block and, where it `attends`, attention after it."""
        parts: list[nn.Module] = [self.residual(channels_in, channels_out)]
        return nn.ModuleList([*parts, self.attention(channels_out)] if attends else parts)

    def residual(self, channels_in: int, channels_out: int, resample: nn.Module | None = None) -> ResidualBlock:
        return ResidualBlock(
            *(channels_in, channels_out, self.embedding_dim, self.dropout),
            additive=self.additive_embedding,
            resample=resample,
            num_groups=self.num_groups,
        )

    def attention(self, channels: int) -> AttentionBlock:
        head_channels = self.head_channels if self.num_heads is None else channels // self.num_heads
        return AttentionBlock(channels, head_channels, self.num_groups)

    def _check_heads(self) -> None:
        attending = [width for width, attends in zip(self.widths, self.attending, strict=True) if attends]
        attending.append(self.widths[-1])
        if self.num_heads is not None:
            if any(width % self.num_heads for width in attending):
                raise ValueError(
                    f"network.num_heads={self.num_heads} must divide the channels wherever there is attention, which are "
                    f"{attending}; use {math.gcd(*attending)} or a divisor of it"
                )
        elif self.head_channels < 1 or any(width % self.head_channels for width in attending):
            raise ValueError(
                f"network.head_channels={self.head_channels} must divide the channels wherever there is attention, which are "
                f"{attending}; use {math.gcd(*attending)} or a divisor of it"
            )

    def _check_groups(self) -> None:
        if self.num_groups is not None and any(width % self.num_groups for width in self.widths):
            raise ValueError(
                f"network.num_groups={self.num_groups} must divide the channels of every level, which are {self.widths}; "
                f"use {math.gcd(*self.widths)} or a divisor of it, or null to choose one for each level"
            )


def _check_levels(longer: int, channel_multipliers: Sequence[int]) -> None:
    if not channel_multipliers:
        raise ValueError("network.channel_multipliers is empty; give one multiplier per level, such as [1, 2]")
    halvings = len(channel_multipliers) - 1
    if halvings > math.ceil(math.log2(longer)):
        raise ValueError(
            f"network.channel_multipliers={list(channel_multipliers)} halves {longer}-pixel images {halvings} times, "
            f"past one pixel; give at most {math.ceil(math.log2(longer)) + 1} multipliers"
        )


def _check_resolutions(sizes: Sequence[int], attention_resolutions: Sequence[int]) -> None:
    absent = [resolution for resolution in attention_resolutions if resolution not in sizes]
    if absent:
        raise ValueError(
            f"network.attention_resolutions={list(attention_resolutions)} names {absent}, but {sizes[0]}-pixel images with "
            f"{len(sizes)} channel_multipliers have the resolutions {sizes}; choose from these, or [] for attention in the "
            "middle only"
        )
