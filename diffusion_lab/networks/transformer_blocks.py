"""The blocks of a transformer: self-attention and an MLP with adaLN-zero. All map tokens h (B, N, width) to the same kind.

e (B, width), the embedding of timestep and condition through SiLU, gives shifts, scales and gates of each sample. Sources:
Peebles & Xie 2023 (DiT), section 3.2; Li & He 2025 (JiT), for the norms of queries and keys, their rotation and the gated MLP.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusion_lab.networks.blocks import attend
from diffusion_lab.networks.positions import rotated

EPS = 1e-6  # of all norms


class Modulated(nn.Module):
    """(1 + scale(e))·norm(h) + shift(e): h (B, N, width), e (B, width), already through SiLU."""

    def __init__(self, norm: type[nn.Module], width: int):
        super().__init__()
        self.norm, self.modulation = norm(width), nn.Linear(width, 2 * width)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        shift, scale = self.modulation(e)[:, None].chunk(2, dim=-1)
        return torch.addcmul(shift, 1 + scale, self.norm(h))


class TransformerBlock(nn.Module):
    """Attention among all tokens, then an MLP of each, with adaLN-zero: h (B, N, width), e (B, width) -> (B, N, width).

    rotary: (2, N, c/2), of the tokens' positions, see `positions.rotations`; None: queries and keys are not rotated.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        norm: type[nn.Module],
        mlp: type[nn.Module],
        qk_norm: bool,
        dropout: float,
    ):
        super().__init__()
        self.norm_1, self.attention = norm(width), SelfAttention(width, num_heads, qk_norm, dropout)
        self.norm_2, self.mlp = norm(width), mlp(width, dropout)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, h: Tensor, e: Tensor, rotary: Tensor | None = None) -> Tensor:
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(e)[:, None].chunk(6, dim=-1)
        h = torch.addcmul(h, gate_1, self.attention(torch.addcmul(shift_1, 1 + scale_1, self.norm_1(h)), rotary))
        return torch.addcmul(h, gate_2, self.mlp(torch.addcmul(shift_2, 1 + scale_2, self.norm_2(h))))


class SelfAttention(nn.Module):
    """W_o softmax(Q·Kᵀ/√c)·V of tokens (B, N, width), in heads of c channels."""

    def __init__(self, width: int, num_heads: int, qk_norm: bool, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        norm = RMSNorm if qk_norm else nn.Identity
        self.norm_q, self.norm_k = norm(width // num_heads), norm(width // num_heads)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, rotary: Tensor | None) -> Tensor:
        query, key, value = self.qkv(h).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = self.norm_q(query), self.norm_k(key)
        if rotary is not None:
            query, key = rotated(query, *rotary), rotated(key, *rotary)
        attended = attend(query.to(value.dtype), key.to(value.dtype), value)
        return self.dropout(self.project(attended.transpose(1, 2).flatten(2)))


class MLP(nn.Module):
    """W_2 GELU(W_1·h) of 4·width channels, with the tanh form of GELU."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.first, self.last = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor) -> Tensor:
        return self.last(self.dropout(functional.gelu(self.first(h), approximate="tanh")))


class GatedMLP(nn.Module):
    """W_2(SiLU(a)·b), (a, b) = W_1·h, of ⌊8/3·width⌋ channels (SwiGLU, Shazeer 2020)."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        hidden = int(4 * width * 2 / 3)
        self.first, self.last = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor) -> Tensor:
        a, b = self.first(h).chunk(2, dim=-1)
        return self.last(self.dropout(functional.silu(a) * b))


class LayerNorm(nn.LayerNorm):
    """A layer norm without parameters."""

    def __init__(self, width: int):
        super().__init__(width, eps=EPS, elementwise_affine=False)


class RMSNorm(nn.RMSNorm):
    """h/√(mean(h²) + ε), times a gain per channel, in the gain's dtype."""

    def __init__(self, width: int):
        super().__init__(width, eps=EPS)

    def forward(self, h: Tensor) -> Tensor:
        return super().forward(h.to(self.weight.dtype))
