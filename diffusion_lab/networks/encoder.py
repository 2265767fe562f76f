"""The way down of the U-Net, on its own: what a denoiser and a classifier of noisy images share.

    x_t -> conv -> [level 0] -> down -> [level 1] -> … -> [middle]

A classifier of x_t is this and attention pooling (Dhariwal & Nichol 2021, section 4).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from diffusion_lab.networks.blocks import AttentionBlock, Downsample, ResidualBlock
from diffusion_lab.networks.embeddings import Conditioning, FourierFeatures
from diffusion_lab.networks.norm import GroupNorm


def block(
    channels_in: int, channels_out: int, embedding_dim: int, dropout: float, head_channels: int | None
) -> nn.ModuleList:
    """A residual block and, with head_channels, attention after it."""
    parts: list[nn.Module] = [ResidualBlock(channels_in, channels_out, embedding_dim, dropout)]
    return nn.ModuleList(parts if head_channels is None else [*parts, AttentionBlock(channels_out, head_channels)])


def run(block: nn.ModuleList, h: Tensor, e: Tensor, recompute: bool) -> Tensor:
    """The parts of `block` in turn. recompute: activations are not kept for the backward pass but computed again."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(_run_parts, block, h, e, use_reentrant=False)
    return _run_parts(block, h, e)


def _run_parts(block: nn.ModuleList, h: Tensor, e: Tensor) -> Tensor:
    for part in block:
        h = part(h, e) if isinstance(part, ResidualBlock) else part(h)
    return h


class Encoder(nn.Module):
    """(x_t (B, in_channels, H, W), timesteps, y) -> (h, skips, e).

    h: the middle, (B, out_channels, ⌈H/2^L⌉, …); skips: the input of every level and the output of every block, in order;
    e: SiLU of the embedding of (t, y), which every residual block reads. Sizes as in `UNet`, checked there.

    `skip_channels`: of the skips, in order. `out_channels`: of the middle.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int | None,
        base_channels: int,
        widths: Sequence[int],
        attending: Sequence[bool],
        num_res_blocks: int,
        head_channels: int,
        dropout: float,
        activation_checkpointing: bool,
        features: FourierFeatures,
    ):
        super().__init__()
        self.activation_checkpointing = activation_checkpointing
        self.embedding_dim = 4 * base_channels
        self.conditioning = Conditioning(base_channels, self.embedding_dim, num_classes)
        self.features = features
        self.input = nn.Conv2d(in_channels * features.num_features, base_channels, 3, padding=1)
        channels, self.skip_channels = base_channels, [base_channels]
        self.down, self.downsamples = nn.ModuleList(), nn.ModuleList()
        for level, (width, attends) in enumerate(zip(widths, attending, strict=True)):
            if level > 0:
                self.downsamples.append(Downsample(channels))
                self.skip_channels.append(channels)
            blocks = nn.ModuleList()
            for _ in range(num_res_blocks):
                blocks.append(block(channels, width, self.embedding_dim, dropout, head_channels if attends else None))
                channels = width
                self.skip_channels.append(channels)
            self.down.append(blocks)
        first = block(channels, channels, self.embedding_dim, dropout, head_channels)
        self.middle = nn.ModuleList([*first, *block(channels, channels, self.embedding_dim, dropout, None)])
        self.out_channels = channels

    def forward(self, x_t: Tensor, timesteps: Tensor, y: Tensor | None) -> tuple[Tensor, list[Tensor], Tensor]:
        # Every block needs SiLU(e): once here instead of once in each.
        e = functional.silu(self.conditioning(timesteps, y))
        h = self.input(self.features(x_t).contiguous(memory_format=torch.channels_last))
        skips = [h]
        for level, blocks in enumerate(self.down):
            if level > 0:
                h = self.downsamples[level - 1](h)
                skips.append(h)
            for part in blocks:
                h = run(part, h, e, self.activation_checkpointing)
                skips.append(h)
        return run(self.middle, h, e, self.activation_checkpointing), skips, e


class AttentionPool(nn.Module):
    """h (B, C, H, W) -> (B, C): attention of the mean of all pixels to itself and to all pixels, in heads of `head_channels`."""

    def __init__(self, channels: int, head_channels: int):
        super().__init__()
        self.num_heads = channels // head_channels
        self.norm = GroupNorm(channels)
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.project = nn.Linear(channels, channels)

    def forward(self, h: Tensor) -> Tensor:
        pixels = self.norm(h).flatten(2).transpose(1, 2)
        mean = pixels.mean(1, keepdim=True)
        key, value = self.key_value(torch.cat([mean, pixels], dim=1)).chunk(2, dim=-1)
        query, key, value = (self._heads(x) for x in (self.query(mean), key, value))
        return self.project(functional.scaled_dot_product_attention(query, key, value).flatten(1))

    def _heads(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, heads, N, C / heads)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class EncoderClassifier(nn.Module):
    """(x_t (B, C, H, W) float32, timesteps int64 (B,)) -> logits float32 (B, num_logits), from the pooled middle of `encoder`."""

    def __init__(self, encoder: Encoder, num_logits: int, head_channels: int):
        super().__init__()
        self.encoder = encoder
        self.pool = AttentionPool(encoder.out_channels, head_channels)
        self.output = nn.Linear(encoder.out_channels, num_logits)
        self.to(memory_format=torch.channels_last)

    def forward(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        h, _, _ = self.encoder(x_t, timesteps, None)
        return self.output(functional.silu(self.pool(h))).float()
