"""The U-Net of guided diffusion (ADM): residual blocks with adaptive group norm, attention, skips by concatenation.

    x_t, fields -> conv -> [level 0] -> down -> [level 1] -> … -> [middle] -> … -> up -> [level 0] -> norm, SiLU, conv

Level l has base_channels · channel_multipliers[l] channels and ⌈n / 2^l⌉ pixels along an axis of n. The output of every encoder
block, and the input of every level, is concatenated to the input of a decoder block. Source: Dhariwal & Nichol 2021; Ho et
al. 2020, appendix B.
"""

import math
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from diffusion_lab.conditions.condition import Size
from diffusion_lab.diffusion.shapes import Conditions
from diffusion_lab.networks.blocks import (
    Conv,
    Downsample,
    ResidualBlock,
    Upsample,
    channels_last,
    cropped,
    from_patches,
    held_back,
    memory_format,
    nested,
    to_patches,
    zero,
)
from diffusion_lab.networks.classifier import AttentionPool, EncoderClassifier
from diffusion_lab.networks.embeddings import Conditioning
from diffusion_lab.networks.fitting import Names, Origin, Weights, with_fields_of
from diffusion_lab.networks.forward_mode import recomputes
from diffusion_lab.networks.input_channels import FourierFeatures, field_channels, with_fields
from diffusion_lab.networks.norm import GroupNorm
from diffusion_lab.networks.sizes import Padding, Sides, check_counts
from diffusion_lab.networks.unet_layout import Layout, level_sizes, settled_sizes


class UNet(nn.Module):
    """network(x_t (B, in_channels, *spatial), timesteps (B,), y=None, s=None) -> (B, out_channels, *spatial), float32.

    - image_size: the side of a square, or the lengths of one, two or three spatial axes, at which attention_resolutions are
      counted; odd ones too (28 -> 14 -> 7, 15 -> 8 -> 4).
    - num_classes: None for a network without labels; else y, int64 (B,), in 0..num_classes, where num_classes is the null class,
      also used for y = None.
    - conditions: instead of num_classes, if y is not classes alone (see `Conditioning`).
    - two_times: the network is also a function of s (B,), the end of a step from t; None: s = t (see `Conditioning`).
    - num_res_blocks: per level on the way down; one more on the way up.
    - attention_resolutions: lengths of the longest side, in pixels, at which attention follows every block; the middle always
      attends once.
    - head_channels: channels of an attention head; must divide the channels wherever there is attention. num_heads: instead,
      the number of heads of every attention except a classifier's pooling.
    - activation_checkpointing: recompute each block in the backward pass: slower by a forward pass, in the memory of
      one block at a time.
    - held_channels: the last channels of the output, whose gradients reach only the weights of the output convolution.
    - padding: of every convolution, zeros or circular, or one of them per axis: with a circular axis the network commutes
      with shifts along it by multiples of 2^halvings.
    - patch_size: side of the patches that the network treats as one position, with their values as channels (Luhman & Luhman 2022,
      "Improving diffusion model efficiency through patching").
    - base_channels, channel_multipliers, attention_resolutions, head_channels, patch_size: None to derive them from the image:
      patches so large that there are at most 64²; then levels of 32 (16 from 64×64 on), 64, 128 channels down to 8 pixels, with
      attention.
    - fourier_periods: of the `FourierFeatures` of the input, in bins of data with num_levels levels; none by default.

    Options of published networks (openai/improved-diffusion, openai/guided-diffusion):

    - additive_embedding: a block adds its embedding before the norm, instead of scale and shift after it.
    - residual_resampling: residual blocks halve (by means) and double (by repetition) the image, instead of convolutions.
    - num_groups: of every group norm; None: up to 32, of at least four channels.
    - embedding_channels: of the sinusoids of t, a quarter of the embedding; None: base_channels.
    - timestep_scale: multiplies the timesteps. null_class=False: no row for the null class, so y is required.
    - pool_positions: the classifier from this network has learned positions in its pooling, whose output is the logits.

    The output convolution starts at zero, so the network's first output is exactly 0. Raises ValueError where sizes do
    not fit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        image_size: Sides,
        num_classes: int | None = None,
        base_channels: int | None = 64,
        channel_multipliers: Sequence[int] | None = (1, 2, 2),
        num_res_blocks: int = 2,
        attention_resolutions: Sequence[int] | None = (16,),
        head_channels: int | None = 64,
        dropout: float = 0.0,
        activation_checkpointing: bool = False,
        num_levels: int | None = None,
        fourier_periods: Sequence[float] = (),
        held_channels: int = 0,
        padding: Padding = "zeros",
        patch_size: int | None = 1,
        num_heads: int | None = None,
        additive_embedding: bool = False,
        residual_resampling: bool = False,
        num_groups: int | None = None,
        embedding_channels: int | None = None,
        timestep_scale: float = 1.0,
        null_class: bool = True,
        pool_positions: bool = False,
        conditions: Sequence[Size] = (),
        two_times: bool = False,
    ):
        super().__init__()
        check_counts(
            in_channels=in_channels, out_channels=out_channels, num_classes=1 if num_classes is None else num_classes
        )
        sizes = settled_sizes(
            image_size, base_channels, channel_multipliers, attention_resolutions, head_channels, patch_size
        )
        patch_size = sizes["patch_size"]
        layout = Layout(
            image_size=image_size,
            num_res_blocks=num_res_blocks,
            num_heads=num_heads,
            dropout=dropout,
            activation_checkpointing=activation_checkpointing,
            additive_embedding=additive_embedding,
            residual_resampling=residual_resampling,
            num_groups=num_groups,
            embedding_channels=embedding_channels,
            padding=padding,
            **sizes,
        )
        self.layout, self.pool_positions = layout, pool_positions
        self.null_class = null_class
        conditioning = Conditioning(
            layout.sinusoid_dim,
            layout.embedding_dim,
            num_classes,
            timestep_scale,
            null_class,
            conditions,
            two_times=two_times,
        )
        self.encoder = Encoder(in_channels, layout, conditioning, FourierFeatures(fourier_periods, num_levels))
        channels, skips = self.encoder.out_channels, list(self.encoder.skip_channels)

        self.up, self.upsamples = nn.ModuleList(), nn.ModuleList()
        for level, (width, attends) in reversed(list(enumerate(zip(layout.widths, layout.attending, strict=True)))):
            blocks = nn.ModuleList()
            for _ in range(num_res_blocks + 1):
                blocks.append(layout.block(channels + skips.pop(), width, attends))
                channels = width
            self.up.append(blocks)
            if level > 0:
                if residual_resampling:
                    self.upsamples.append(layout.residual(channels, channels, nn.Upsample(scale_factor=2)))
                else:
                    self.upsamples.append(Upsample(channels, padding=layout.paddings))

        self.output_norm = GroupNorm(channels, num_groups=num_groups)
        values = patch_size ** len(layout.paddings)
        self.output = zero(Conv(channels, out_channels * values, layout.paddings))
        self.held_channels = held_channels * values
        channels_last(self, len(layout.paddings))

    def forward(self, x_t: Tensor, timesteps: Tensor, y: Conditions = None, s: Tensor | None = None) -> Tensor:
        h, skips, e = self.encoder(x_t, timesteps, y, s)
        for level, blocks in enumerate(nested(self.up)):
            if level > 0:
                h = self._doubled(self.upsamples[level - 1], h, e, skips[-1].shape[2:])
            for part in blocks:
                h = run(part, torch.cat([h, skips.pop()], dim=1), e, self.layout.activation_checkpointing)
        output = held_back(self.output, self.output_norm(h), self.held_channels).float()
        return from_patches(output, self.layout.patch_size)

    def _doubled(self, upsample: nn.Module, h: Tensor, e: Tensor, size: torch.Size) -> Tensor:
        """h cropped to the spatial `size`, which is odd if a level has an odd number of pixels."""
        if isinstance(upsample, Upsample):
            return upsample(h, size)
        return cropped(run(upsample, h, e, self.layout.activation_checkpointing), size)

    @staticmethod
    def options_at(size: Sides, options: Mapping[str, Any], source: Sides) -> dict[str, Any]:
        """Options for images of `size` with which the weights of a network for `source` fit: attention at the same levels.

        options: of that network; those that are None there are as they follow from `source`.
        """
        names = [*signature(settled_sizes).parameters][1:]
        settled = settled_sizes(source, **{name: options[name] for name in names})
        here, there = (
            level_sizes(sides, settled["patch_size"], len(settled["channel_multipliers"])) for sides in (size, source)
        )
        attending = [side for side, was in zip(here, there, strict=True) if was in settled["attention_resolutions"]]
        return {**settled, "attention_resolutions": attending}

    def classifier(self) -> EncoderClassifier:
        """A classifier from this network's encoder and middle with attention pooling: out_channels logits per sample."""
        layout, channels = self.layout, self.encoder.out_channels
        num_logits = self.output.out_channels // layout.patch_size ** len(layout.paddings)
        if layout.head_channels < 1 or channels % layout.head_channels:
            raise ValueError(
                f"network.head_channels={layout.head_channels} must divide the {channels} channels that a classifier pools, also "
                f"where network.num_heads is set; use {channels} or a divisor of it"
            )
        if self.pool_positions:
            num_pixels = math.prod(layout.sides[-1])
            pool = AttentionPool(channels, layout.head_channels, num_logits, num_pixels, layout.num_groups)
            return EncoderClassifier(self.encoder, pool, None)
        pool = AttentionPool(channels, layout.head_channels, num_groups=layout.num_groups)
        return EncoderClassifier(self.encoder, pool, nn.Linear(channels, num_logits))


class Encoder(nn.Module):
    """(x_t (B, in_channels, *spatial), timesteps, y, s) -> (h, skips, e).

    h: the middle, (B, out_channels, ⌈H/2^L⌉, …); skips: the input of every level and the output of every block, in order;
    e: SiLU of the embedding of (t, y, s), used by every residual block. conditioning: computes that embedding.

    `skip_channels`: of the skips, in order. `out_channels`: of the middle.
    """

    def __init__(self, in_channels: int, layout: Layout, conditioning: Conditioning, features: FourierFeatures):
        super().__init__()
        self.activation_checkpointing = layout.activation_checkpointing
        self.conditioning, self.features = conditioning, features
        channels, self.skip_channels = layout.base_channels, [layout.base_channels]
        self.patch_size = layout.patch_size
        values = self.patch_size ** len(layout.paddings)
        self.image_channels = in_channels * features.num_features * values
        of_fields = field_channels(conditioning.sizes, len(layout.paddings)) * values
        self.input = Conv(self.image_channels + of_fields, channels, layout.paddings)
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

    def forward(
        self, x_t: Tensor, timesteps: Tensor, y: Conditions, s: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        # Every block needs SiLU(e), so it is computed once.
        e = functional.silu(self.conditioning(timesteps, y, s))
        seen = to_patches(with_fields(self.features(x_t), y, self.conditioning.sizes), self.patch_size)
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

    def fit_weights(self, weights: Weights, origin: Origin) -> tuple[Weights, Names]:
        """Weights of the input's fields, which come last, start at zero where they differ."""
        return with_fields_of(self.input.weight, "input.weight", weights, self.image_channels)


def run(block: nn.Module, h: Tensor, e: Tensor, recompute: bool) -> Tensor:
    """Apply a block, or a list of blocks in turn. recompute: activation checkpointing, which stores no activations inside."""
    if recomputes(recompute):
        return checkpoint(_run_parts, block, h, e, use_reentrant=False)
    return _run_parts(block, h, e)


def _run_parts(block: nn.Module, h: Tensor, e: Tensor) -> Tensor:
    for part in block if isinstance(block, nn.ModuleList) else [block]:
        h = part(h, e) if isinstance(part, ResidualBlock) else part(h)
    return h
