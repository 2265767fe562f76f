"""The U-Net of guided diffusion (ADM): residual blocks with adaptive group norm, attention, skips by concatenation.

    x_t -> conv -> [level 0] -> down -> [level 1] -> … -> [middle] -> … -> up -> [level 0] -> norm, SiLU, conv

Level l has base_channels · channel_multipliers[l] channels and ⌈image_size / 2^l⌉ pixels a side. Every block of the way
down, and every input of a level, is kept and joined to one block of the way up. Source: Dhariwal & Nichol 2021; Ho et
al. 2020, appendix B.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffusion_lab.networks.blocks import AttentionBlock, Downsample, ResidualBlock, Upsample, zero
from diffusion_lab.networks.embeddings import Conditioning
from diffusion_lab.networks.norm import GroupNorm


class UNet(nn.Module):
    """network(x_t (B, in_channels, H, W) float32, timesteps int64 (B,), y int64 (B,) | None) -> (B, out_channels, H, W) float32.

    - image_size: H = W at which attention_resolutions are counted; odd ones too (28 -> 14 -> 7, 15 -> 8 -> 4).
    - num_classes: None for a network without labels; else y in 0..num_classes, and num_classes is the null class, which
      y = None means.
    - num_res_blocks: per level on the way down; one more on the way up.
    - attention_resolutions: sides, in pixels, at which attention follows every block; the middle always attends once.
    - head_channels: channels of an attention head; must divide the channels wherever there is attention.
    - activation_checkpointing: recompute each block in the backward pass: slower by a forward pass, in the memory of
      one block at a time.

    The output convolution starts at zero, so the network's first output is exactly 0. Raises ValueError where sizes do
    not fit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        image_size: int,
        num_classes: int | None = None,
        base_channels: int = 64,
        channel_multipliers: Sequence[int] = (1, 2, 2),
        num_res_blocks: int = 2,
        attention_resolutions: Sequence[int] = (16,),
        head_channels: int = 64,
        dropout: float = 0.0,
        activation_checkpointing: bool = False,
    ):
        super().__init__()
        widths = [base_channels * multiplier for multiplier in channel_multipliers]
        sizes = [-(-image_size // 2**level) for level in range(len(widths))]
        counts = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "image_size": image_size,
            "base_channels": base_channels,
            "num_res_blocks": num_res_blocks,
            **({} if num_classes is None else {"num_classes": num_classes}),
            **{f"channel_multipliers[{level}]": multiplier for level, multiplier in enumerate(channel_multipliers)},
        }
        _check_sizes(counts, image_size, channel_multipliers, dropout)
        _check_attention(widths, sizes, attention_resolutions, head_channels)
        self.activation_checkpointing = activation_checkpointing

        embedding_dim = 4 * base_channels
        self.conditioning = Conditioning(base_channels, embedding_dim, num_classes)

        def block(channels_in: int, channels_out: int, attends: bool) -> nn.ModuleList:
            parts = [ResidualBlock(channels_in, channels_out, embedding_dim, dropout)]
            return nn.ModuleList([*parts, AttentionBlock(channels_out, head_channels)] if attends else parts)

        self.input = nn.Conv2d(in_channels, base_channels, 3, padding=1)
        channels, skips = base_channels, [base_channels]
        self.down, self.downsamples = nn.ModuleList(), nn.ModuleList()
        for level, (width, size) in enumerate(zip(widths, sizes, strict=True)):
            if level > 0:
                self.downsamples.append(Downsample(channels))
                skips.append(channels)
            blocks = nn.ModuleList()
            for _ in range(num_res_blocks):
                blocks.append(block(channels, width, size in attention_resolutions))
                channels = width
                skips.append(channels)
            self.down.append(blocks)

        self.middle = nn.ModuleList([*block(channels, channels, True), *block(channels, channels, False)])

        self.up, self.upsamples = nn.ModuleList(), nn.ModuleList()
        for level, (width, size) in reversed(list(enumerate(zip(widths, sizes, strict=True)))):
            blocks = nn.ModuleList()
            for _ in range(num_res_blocks + 1):
                blocks.append(block(channels + skips.pop(), width, size in attention_resolutions))
                channels = width
            self.up.append(blocks)
            if level > 0:
                self.upsamples.append(Upsample(channels))

        self.output_norm = GroupNorm(channels)
        self.output = zero(nn.Conv2d(channels, out_channels, 3, padding=1))
        self.to(memory_format=torch.channels_last)

    def forward(self, x_t: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        # Every block wants SiLU(e): once here instead of once in each.
        e = nn.functional.silu(self.conditioning(timesteps, y))

        h = self.input(x_t.contiguous(memory_format=torch.channels_last))
        skips = [h]
        for level, blocks in enumerate(self.down):
            if level > 0:
                h = self.downsamples[level - 1](h)
                skips.append(h)
            for block in blocks:
                h = self._run(block, h, e)
                skips.append(h)

        h = self._run(self.middle, h, e)

        for level, blocks in enumerate(self.up):
            if level > 0:
                h = self.upsamples[level - 1](h, skips[-1].shape[-2:])
            for block in blocks:
                h = self._run(block, torch.cat([h, skips.pop()], dim=1), e)

        return self.output(self.output_norm(h)).float()

    def _run(self, block: nn.ModuleList, h: Tensor, e: Tensor) -> Tensor:
        if self.activation_checkpointing and torch.is_grad_enabled():
            return checkpoint(_run_parts, block, h, e, use_reentrant=False)
        return _run_parts(block, h, e)


def _check_sizes(counts, image_size, channel_multipliers, dropout):
    for name, count in counts.items():
        if count < 1 or count != int(count):
            raise ValueError(f"{name}={count} must be a whole number of at least 1")
    if not channel_multipliers:
        raise ValueError("channel_multipliers is empty; give one multiplier per level, such as [1, 2]")
    halvings = len(channel_multipliers) - 1
    if halvings > math.ceil(math.log2(image_size)):
        raise ValueError(
            f"channel_multipliers={list(channel_multipliers)} halves {image_size}-pixel images {halvings} times, past one pixel; "
            f"give at most {math.ceil(math.log2(image_size)) + 1} multipliers"
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout} must be at least 0 and below 1")


def _check_attention(widths, sizes, attention_resolutions, head_channels):
    absent = [resolution for resolution in attention_resolutions if resolution not in sizes]
    if absent:
        raise ValueError(
            f"attention_resolutions={list(attention_resolutions)} names {absent}, but {sizes[0]}-pixel images with {len(sizes)} "
            f"channel_multipliers have the resolutions {sizes}; choose from these, or [] for attention in the middle only"
        )
    attending = [width for width, size in zip(widths, sizes, strict=True) if size in attention_resolutions]
    attending.append(widths[-1])
    if head_channels < 1 or any(width % head_channels for width in attending):
        raise ValueError(
            f"head_channels={head_channels} must divide the channels wherever there is attention, which are {attending}; "
            f"{math.gcd(*attending)} and its divisors do"
        )


def _run_parts(block: nn.ModuleList, h: Tensor, e: Tensor) -> Tensor:
    for part in block:
        h = part(h, e) if isinstance(part, ResidualBlock) else part(h)
    return h
