"""The shared sampler: ours, around anybody's network.

A peer states its network's conventions in three things: ᾱ by its own 0-based step, what the network predicts, and the network.
Ours counts t = 1 … T and shows the network t − 1, so a peer's step k is our t = k + 1, and its ᾱ[k] is our ᾱ_{k+1}.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffusion_lab.diffusion import FixedSmall, GaussianDiffusion, Prediction, ReverseProcess, SampleNoise, Schedule
from diffusion_lab.sampling import DDIMSampler, EvenSpacing


@dataclass(frozen=True)
class Table(Schedule):
    """Somebody else's ᾱ: alphas_cumprod[k] of step k = 0 … T − 1."""

    alphas_cumprod: tuple[float, ...] = field(repr=False, default=())

    def alpha_bar(self) -> Tensor:
        return torch.tensor([1.0, *self.alphas_cumprod], dtype=torch.float64)


def in_our_terms(
    network: Callable[[Tensor, Tensor], Tensor], alphas_cumprod: Tensor, prediction: Prediction
) -> tuple[GaussianDiffusion, ReverseProcess]:
    """network: (x_t, k) -> its prediction, x_0 in [−1, 1]; k int64 (B,), from 0."""
    table = Table(len(alphas_cumprod), tuple(alphas_cumprod.double().tolist()))
    reverse = ReverseProcess(lambda x_t, steps, y: network(x_t, steps), prediction, FixedSmall(), clip_x_0=True)
    return GaussianDiffusion(table), reverse


def draw(
    process: GaussianDiffusion,
    reverse: ReverseProcess,
    noise: SampleNoise,
    shape: tuple[int, ...],
    num_steps: int,
    y: Tensor | None = None,
) -> Tensor:
    """DDIM with evenly spaced steps, x̂_0 clipped: it reads no variance, so it is the same rule for every network."""
    x_0 = DDIMSampler(EvenSpacing(num_steps))(process, reverse, noise.initial(shape), y, noise=noise)
    return reverse.clip_x_0.in_range(x_0)
