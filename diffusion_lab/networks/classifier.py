"""A classifier of noisy images: the encoder of a denoiser and attention pooling (Dhariwal & Nichol 2021, section 4)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusion_lab.networks.norm import GroupNorm


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

    def __init__(self, encoder: nn.Module, pool: AttentionPool, output: nn.Linear | None):
        super().__init__()
        self.encoder, self.pool, self.output = encoder, pool, output

    def forward(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        h, _, _ = self.encoder(x_t, timesteps, None)
        pooled = self.pool(h)
        return (pooled if self.output is None else self.output(functional.silu(pooled))).float()
