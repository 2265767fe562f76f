"""The U-Net of guided diffusion (ADM): residual blocks with adaptive group norm, attention, skips by concatenation.

    x_t -> conv -> [level 0] -> down -> [level 1] -> … -> [middle] -> … -> up -> [level 0] -> norm, SiLU, conv

Level l has base_channels · channel_multipliers[l] channels and ⌈H / 2^l⌉ × ⌈W / 2^l⌉ pixels. Every block of the way
down, and every input of a level, is kept and joined to one block of the way up. Source: Dhariwal & Nichol 2021; Ho et
al. 2020, appendix B.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffusion_lab.networks.blocks import Upsample, held_back, zero
from diffusion_lab.networks.embeddings import FourierFeatures
from diffusion_lab.networks.encoder import Encoder, EncoderClassifier, block, run
from diffusion_lab.networks.norm import GroupNorm
from diffusion_lab.networks.sizes import Sides, check_counts, check_dropout, halved, height_and_width


class UNet(nn.Module):
    """network(x_t (B, in_channels, H, W) float32, timesteps int64 (B,), y int64 (B,) | None) -> (B, out_channels, H, W) float32.

    - image_size: the side, or H and W, at which attention_resolutions are counted; odd ones too (28 -> 14 -> 7, 15 -> 8 -> 4).
    - num_classes: None for a network without labels; else y in 0..num_classes, and num_classes is the null class, which
      y = None means.
    - num_res_blocks: per level on the way down; one more on the way up.
    - attention_resolutions: lengths of the longer side, in pixels, at which attention follows every block; the middle always
      attends once.
    - head_channels: channels of an attention head; must divide the channels wherever there is attention.
    - activation_checkpointing: recompute each block in the backward pass: slower by a forward pass, in the memory of
      one block at a time.
    - held_channels: of the output, the last ones: their gradients reach only the weights of the output convolution.
    - fourier_periods: of the `FourierFeatures` of the input, in bins of data with num_levels levels; none by default.

    The output convolution starts at zero, so the network's first output is exactly 0. Raises ValueError where sizes do
    not fit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        image_size: Sides,
        num_classes: int | None = None,
        base_channels: int = 64,
        channel_multipliers: Sequence[int] = (1, 2, 2),
        num_res_blocks: int = 2,
        attention_resolutions: Sequence[int] = (16,),
        head_channels: int = 64,
        dropout: float = 0.0,
        activation_checkpointing: bool = False,
        num_levels: int | None = None,
        fourier_periods: Sequence[float] = (),
        held_channels: int = 0,
    ):
        super().__init__()
        widths = [base_channels * multiplier for multiplier in channel_multipliers]
        longer = max(height_and_width(image_size))
        sizes = [max(sides) for sides in halved(image_size, len(widths))]
        check_dropout(dropout)
        check_counts(
            in_channels=in_channels,
            out_channels=out_channels,
            num_classes=1 if num_classes is None else num_classes,
            base_channels=base_channels,
            num_res_blocks=num_res_blocks,
            **{f"channel_multipliers[{level}]": multiplier for level, multiplier in enumerate(channel_multipliers)},
        )
        _check_levels(longer, channel_multipliers)
        _check_attention(widths, sizes, attention_resolutions, head_channels)
        self.activation_checkpointing, self.head_channels = activation_checkpointing, head_channels
        self.held_channels = held_channels
        attending = [size in attention_resolutions for size in sizes]
        self.encoder = Encoder(
            *(in_channels, num_classes, base_channels, widths, attending, num_res_blocks, head_channels, dropout),
            activation_checkpointing,
            FourierFeatures(fourier_periods, num_levels),
        )
        channels, skips = self.encoder.out_channels, list(self.encoder.skip_channels)
        embedding_dim = self.encoder.embedding_dim

        self.up, self.upsamples = nn.ModuleList(), nn.ModuleList()
        for level, (width, attends) in reversed(list(enumerate(zip(widths, attending, strict=True)))):
            blocks, heads = nn.ModuleList(), head_channels if attends else None
            for _ in range(num_res_blocks + 1):
                blocks.append(block(channels + skips.pop(), width, embedding_dim, dropout, heads))
                channels = width
            self.up.append(blocks)
            if level > 0:
                self.upsamples.append(Upsample(channels))

        self.output_norm = GroupNorm(channels)
        self.output = zero(nn.Conv2d(channels, out_channels, 3, padding=1))
        self.to(memory_format=torch.channels_last)

    def forward(self, x_t: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        h, skips, e = self.encoder(x_t, timesteps, y)
        for level, blocks in enumerate(self.up):
            if level > 0:
                h = self.upsamples[level - 1](h, skips[-1].shape[-2:])
            for part in blocks:
                h = run(part, torch.cat([h, skips.pop()], dim=1), e, self.activation_checkpointing)
        return held_back(self.output, self.output_norm(h), self.held_channels).float()

    def classifier(self) -> EncoderClassifier:
        """The way down and the middle of this network with attention pooling behind them: out_channels logits a sample."""
        return EncoderClassifier(self.encoder, self.output.out_channels, self.head_channels)


def _check_levels(longer, channel_multipliers):
    if not channel_multipliers:
        raise ValueError("network.channel_multipliers is empty; give one multiplier per level, such as [1, 2]")
    halvings = len(channel_multipliers) - 1
    if halvings > math.ceil(math.log2(longer)):
        raise ValueError(
            f"network.channel_multipliers={list(channel_multipliers)} halves {longer}-pixel images {halvings} times, "
            f"past one pixel; give at most {math.ceil(math.log2(longer)) + 1} multipliers"
        )


def _check_attention(widths, sizes, attention_resolutions, head_channels):
    absent = [resolution for resolution in attention_resolutions if resolution not in sizes]
    if absent:
        raise ValueError(
            f"network.attention_resolutions={list(attention_resolutions)} names {absent}, but {sizes[0]}-pixel images with "
            f"{len(sizes)} channel_multipliers have the resolutions {sizes}; choose from these, or [] for attention in the "
            "middle only"
        )
    attending = [width for width, size in zip(widths, sizes, strict=True) if size in attention_resolutions]
    attending.append(widths[-1])
    if head_channels < 1 or any(width % head_channels for width in attending):
        raise ValueError(
            f"network.head_channels={head_channels} must divide the channels wherever there is attention, which are {attending}; "
            f"{math.gcd(*attending)} and its divisors do"
        )
