"""Positions on a grid of one to three axes, for transformers: sinusoids that are added to tokens, and rotations of pairs.

Both use the angles p·ω_i, ω_i = 10000^{−i/m}, i = 0..m−1, of the position p along each axis.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion_lab.networks.embeddings import MAX_PERIOD


def grid_positions(sides: Sequence[int]) -> Tensor:
    """(N, axes) float32: the positions of a grid with these sides along its axes, the last axis fastest."""
    return torch.tensor([*itertools.product(*map(range, sides))], dtype=torch.float32)


def sinusoidal_positions(sides: Sequence[int], dim: int) -> Tensor:
    """(N, dim) float32: for each axis, the last one first, [sin(p·ω_0), …, sin(p·ω_{m−1}), cos(p·ω_0), …], m = ⌊dim/(2·axes)⌋.

    Columns that are left over are zero. Source: Vaswani et al. 2017, section 3.5; the order is that of Peebles & Xie 2023 (DiT).
    """
    m = dim // (2 * len(sides))
    columns = [wave(angles) for angles in _angles(sides, m)[::-1] for wave in (torch.sin, torch.cos)]
    return torch.nn.functional.pad(torch.cat(columns, dim=1), (0, dim - 2 * m * len(sides)))


def rotations(sides: Sequence[int], head_channels: int) -> Tensor:
    """float32 (2, N, head_channels/2): cos and sin of the rotation of each pair of channels of a query or key.

    Each axis rotates ⌊head_channels/(2·axes)⌋ pairs; pairs that are left over are not rotated. Source: Su et al. 2021, "RoFormer",
    section 3.2; on images as in Li & He 2025 (JiT).
    """
    m = head_channels // (2 * len(sides))
    angles = torch.cat(_angles(sides, m), dim=1)
    angles = torch.nn.functional.pad(angles, (0, head_channels // 2 - angles.shape[1]))
    return torch.stack([angles.cos(), angles.sin()])


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Each pair (a, b) of neighbouring channels of x (…, N, C) -> (a·cos − b·sin, b·cos + a·sin)."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)


def _angles(sides: Sequence[int], m: int) -> list[Tensor]:
    """(N, m) p·ω_i for each axis."""
    frequencies = torch.exp(-math.log(MAX_PERIOD) * torch.arange(m, dtype=torch.float64) / max(1, m))
    return [(p[:, None] * frequencies).float() for p in grid_positions(sides).double().unbind(1)]
