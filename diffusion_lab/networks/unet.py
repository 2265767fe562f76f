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

from diffusion_lab.conditions.condition import Size
from diffusion_lab.diffusion.shapes import Conditions
from diffusion_lab.networks.blocks import Upsample, channels_last, held_back, nested, zero
from diffusion_lab.networks.embeddings import Conditioning, FourierFeatures
from diffusion_lab.networks.encoder import AttentionPool, Encoder, EncoderClassifier, Layout, run
from diffusion_lab.networks.norm import GroupNorm
from diffusion_lab.networks.sizes import Sides, check_counts


class UNet(nn.Module):
    """network(x_t (B, in_channels, H, W) float32, timesteps int64 (B,), y int64 (B,) | None) -> (B, out_channels, H, W) float32.

    - image_size: the side, or H and W, at which attention_resolutions are counted; odd ones too (28 -> 14 -> 7, 15 -> 8 -> 4).
    - num_classes: None for a network without labels; else y in 0..num_classes, and num_classes is the null class, which
      y = None means.
    - conditions: in place of num_classes, where y is not classes alone: see `Conditioning`.
    - num_res_blocks: per level on the way down; one more on the way up.
    - attention_resolutions: lengths of the longer side, in pixels, at which attention follows every block; the middle always
      attends once.
    - head_channels: channels of an attention head; must divide the channels wherever there is attention. num_heads: heads of
      every attention but the pooling of a classifier, in place of that.
    - activation_checkpointing: recompute each block in the backward pass: slower by a forward pass, in the memory of
      one block at a time.
    - held_channels: of the output, the last ones: their gradients reach only the weights of the output convolution.
    - fourier_periods: of the `FourierFeatures` of the input, in bins of data with num_levels levels; none by default.

    What published networks have otherwise (openai/improved-diffusion, openai/guided-diffusion):

    - additive_embedding: a block adds its share of the embedding before the norm, in place of scale and shift after it.
    - residual_resampling: residual blocks halve (by means) and double (by repetition) the image, in place of convolutions.
    - num_groups: of every group norm; None: up to 32, of at least four channels.
    - embedding_channels: of the sinusoids of t, a quarter of the embedding; None: base_channels.
    - timestep_scale: multiplies the timesteps. null_class=False: no row for the null class, so y is always needed.
    - pool_positions: the classifier made of this network has learned positions in its pooling, whose output is the logits.

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
        num_heads: int | None = None,
        additive_embedding: bool = False,
        residual_resampling: bool = False,
        num_groups: int | None = None,
        embedding_channels: int | None = None,
        timestep_scale: float = 1.0,
        null_class: bool = True,
        pool_positions: bool = False,
        conditions: Sequence[Size] = (),
    ):
        super().__init__()
        check_counts(
            in_channels=in_channels, out_channels=out_channels, num_classes=1 if num_classes is None else num_classes
        )
        layout = Layout(
            image_size=image_size,
            base_channels=base_channels,
            channel_multipliers=channel_multipliers,
            num_res_blocks=num_res_blocks,
            attention_resolutions=attention_resolutions,
            head_channels=head_channels,
            num_heads=num_heads,
            dropout=dropout,
            activation_checkpointing=activation_checkpointing,
            additive_embedding=additive_embedding,
            residual_resampling=residual_resampling,
            num_groups=num_groups,
            embedding_channels=embedding_channels,
        )
        self.layout, self.held_channels, self.pool_positions = layout, held_channels, pool_positions
        self.null_class = null_class
        conditioning = Conditioning(
            layout.sinusoid_dim, layout.embedding_dim, num_classes, timestep_scale, null_class, conditions
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
                double = nn.Upsample(scale_factor=2)
                self.upsamples.append(
                    layout.residual(channels, channels, double) if residual_resampling else Upsample(channels)
                )

        self.output_norm = GroupNorm(channels, num_groups=num_groups)
        self.output = zero(nn.Conv2d(channels, out_channels, 3, padding=1))
        channels_last(self)

    def forward(self, x_t: Tensor, timesteps: Tensor, y: Conditions = None) -> Tensor:
        h, skips, e = self.encoder(x_t, timesteps, y)
        for level, blocks in enumerate(nested(self.up)):
            if level > 0:
                h = self._doubled(self.upsamples[level - 1], h, e, skips[-1].shape[-2:])
            for part in blocks:
                h = run(part, torch.cat([h, skips.pop()], dim=1), e, self.layout.activation_checkpointing)
        return held_back(self.output, self.output_norm(h), self.held_channels).float()

    def _doubled(self, upsample: nn.Module, h: Tensor, e: Tensor, size: torch.Size) -> Tensor:
        """h at the side `size`, which is odd where a level has an odd number of pixels."""
        if isinstance(upsample, Upsample):
            return upsample(h, size)
        return run(upsample, h, e, self.layout.activation_checkpointing)[..., : size[0], : size[1]]

    def classifier(self) -> EncoderClassifier:
        """The way down and the middle of this network with attention pooling behind them: out_channels logits a sample."""
        layout, channels, num_logits = self.layout, self.encoder.out_channels, self.output.out_channels
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
