"""Which t to train on, and with which weight? E_{t ~ uniform}[f(t)] = E_{t ~ p}[w(t)·f(t)] with w = 1/(T·p).

A sampler draws for the *global* batch from a generator that the caller seeds by (seed, step), so every rank draws the same t
and takes its rows.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float, Float64, Int64
from torch import Generator, Tensor, nn

from .shapes import PerSample, Steps


class TimestepSampler(nn.Module, ABC):
    """t ~ p(t) on 1 … T, and the weights that make any mean over t unbiased.

    A module, so that what a sampler has learned is saved and restored with the weights. `learns_from_losses` says whether it
    wants `update` after each step.
    """

    learns_from_losses: ClassVar[bool] = False

    def __init__(self, num_timesteps: int) -> None:
        super().__init__()
        self.num_timesteps = num_timesteps

    @abstractmethod
    def forward(self, batch_size: int, generator: Generator) -> tuple[Steps, PerSample]:
        """(t int64 (B,), w float64 (B,)), on the generator's device."""


class UniformTimesteps(TimestepSampler):
    """t uniform on 1 … T, w = 1 (Ho et al. 2020, algorithm 1)."""

    def forward(self, batch_size: int, generator: Generator) -> tuple[Steps, PerSample]:
        t = torch.randint(1, self.num_timesteps + 1, (batch_size,), generator=generator, device=generator.device)
        return t, _ones(t)


class StratifiedTimesteps(TimestepSampler):
    """One t from each of B equal strata of (0, T], in random order, w = 1.

    Each t is uniform on 1 … T by itself, and a batch covers the chain evenly, so the loss varies less from step to step.
    """

    def forward(self, batch_size: int, generator: Generator) -> tuple[Steps, PerSample]:
        device = generator.device
        stratum = torch.randperm(batch_size, generator=generator, device=device)
        place = torch.rand(batch_size, generator=generator, device=device, dtype=torch.float64)
        t = 1 + ((stratum + place) / batch_size * self.num_timesteps).long().clamp(max=self.num_timesteps - 1)
        return t, _ones(t)


class LossAwareTimesteps(TimestepSampler):
    """p(t) ∝ √E[L_t²], the choice of least variance for L_vlb, from the last losses at each t (Nichol & Dhariwal 2021, eq. 18).

    Uniform until every t has a full history. `uniform_probability` of the draws stay uniform for ever, so that no t is
    forgotten. The history is a buffer, a part of the training state; losses of all ranks must reach every rank's `update`.
    """

    learns_from_losses = True

    def __init__(self, num_timesteps: int, history_per_timestep: int = 10, uniform_probability: float = 0.001) -> None:
        super().__init__(num_timesteps)
        self.uniform_probability = uniform_probability
        self.history: Float64[Tensor, "T H"]
        self.counts: Int64[Tensor, " T"]
        self.register_buffer("history", torch.zeros(num_timesteps, history_per_timestep, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(num_timesteps, dtype=torch.int64))

    @property
    def probabilities(self) -> Float64[Tensor, " T"]:
        """p(t) for t = 1 … T."""
        uniform = torch.full_like(self.history[:, 0], 1 / self.num_timesteps)
        warm = bool((self.counts >= self.history.shape[1]).all())
        second_moment = self.history.square().mean(dim=1).sqrt()
        if not warm or not bool(second_moment.sum() > 0):
            return uniform
        aware = second_moment / second_moment.sum()
        return (1 - self.uniform_probability) * aware + self.uniform_probability * uniform

    def forward(self, batch_size: int, generator: Generator) -> tuple[Steps, PerSample]:
        p = self.probabilities.to(generator.device)
        index = torch.multinomial(p, batch_size, replacement=True, generator=generator)
        return index + 1, 1 / (self.num_timesteps * p[index])

    @torch.no_grad()
    def update(self, t: Steps, loss: Float[Tensor, " b"]) -> None:
        """Remember the unweighted losses of a global batch; each t keeps its newest, in order of arrival.

        A loss that is not finite is not remembered: no mean would ever be finite again.
        """
        history, counts = self.history.cpu(), self.counts.cpu()
        finite = loss.isfinite()
        for index, value in zip((t[finite] - 1).tolist(), loss[finite].double().tolist(), strict=True):
            history[index, int(counts[index]) % history.shape[1]] = value
            counts[index] += 1
        self.history.copy_(history)
        self.counts.copy_(counts)


def _ones(t: Steps) -> PerSample:
    return torch.ones(len(t), dtype=torch.float64, device=t.device)
