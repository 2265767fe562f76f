"""Timestep samplers: the t of training and their weights, E_{t ~ uniform}[f(t)] = E_{t ~ p}[w(t)·f(t)] with w = 1/(T·p).

`NormalTimesteps` is the exception: its p(t) is the weighting of the loss, so w = 1.

A sampler draws for the *global* batch from a generator seeded by (seed, step), so every rank draws the same t
and takes its rows. `by_quarter` divides the losses of a batch among the quarters of t, for the log.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float, Float64, Int64
from torch import Generator, Tensor, nn

from .chain import GaussianDiffusion
from .given_schedules import AlphaBar, as_schedule
from .schedules import Schedule
from .shapes import Number, PerSample, Steps, Times


class TimestepSampler(nn.Module, ABC):
    """t ~ p(t), and the weights of the mean over t.

    A module, so that what a sampler has learned is saved and restored with the weights. `learns_from_losses`: it needs
    `update` after each step. `weighs_by_density`: p(t) remains as the weighting of the mean; otherwise w makes the mean unbiased.

    Parameters
    ----------
    num_timesteps: T.
    real: t is any number in [1, T], and the objective is given the schedule; otherwise t is a step 1 … T of the chain.
    """

    learns_from_losses: ClassVar[bool] = False
    weighs_by_density: ClassVar[bool] = False

    def __init__(self, num_timesteps: int, real: bool = False) -> None:
        super().__init__()
        self.num_timesteps, self.real = num_timesteps, real

    @abstractmethod
    def forward(self, batch_size: int, generator: Generator) -> tuple[Times, PerSample]:
        """(t int64 (B,), or float64 where `real`; w float64 (B,)), on the generator's device."""

    def spread(self, share: PerSample) -> Times:
        """Uniform shares in [0, 1) -> t as the loss weighs it: uniform, unless the density weighs."""
        if self.real:
            return 1 + share * (self.num_timesteps - 1)
        return 1 + (share * self.num_timesteps).long().clamp(max=self.num_timesteps - 1)

    def update(self, t: Steps, loss: Float[Tensor, " b"]) -> None:
        """The unweighted losses of a global batch, for a sampler that `learns_from_losses`."""
        raise NotImplementedError(f"{type(self).__name__} learns nothing from losses")


class UniformTimesteps(TimestepSampler):
    """t uniform, w = 1 (Ho et al. 2020, algorithm 1)."""

    def forward(self, batch_size: int, generator: Generator) -> tuple[Times, PerSample]:
        if self.real:
            t = self.spread(_uniform(batch_size, generator))
        else:
            t = torch.randint(1, self.num_timesteps + 1, (batch_size,), generator=generator, device=generator.device)
        return t, _ones(t)


class StratifiedTimesteps(TimestepSampler):
    """One t from each of B equal strata of the chain, in random order, w = 1.

    Each t is uniform, and a batch covers the chain evenly, so the loss varies less from step to step.
    """

    def forward(self, batch_size: int, generator: Generator) -> tuple[Times, PerSample]:
        stratum = torch.randperm(batch_size, generator=generator, device=generator.device)
        t = self.spread((stratum + _uniform(batch_size, generator)) / batch_size)
        return t, _ones(t)


class LowDiscrepancyTimesteps(TimestepSampler):
    """(u + i/B) mod 1, i = 0 … B − 1, of one uniform u, spread over the chain in random order, w = 1
    (Kingma et al. 2021, VDM).

    Each t is uniform, and a batch is an even grid, determined by one number.
    """

    def forward(self, batch_size: int, generator: Generator) -> tuple[Times, PerSample]:
        place = torch.randperm(batch_size, generator=generator, device=generator.device)
        t = self.spread((_uniform(1, generator) + place / batch_size) % 1)
        return t, _ones(t)


class NormalTimesteps(TimestepSampler):
    """log(σ_t/α_t) ~ N(mean, std²), restricted to t in [1, T], w = 1: the density weighs the loss, as in the papers.

    Where α = 1, σ is log-normal: EDM, mean −1.2 and std 1.2 (Karras et al. 2022, table 1). On the straight path, where α = 1 − u
    and σ = u, u is logit-normal, since logit(u) = log(u/(1 − u)): mean 0 and std 1 for Stable Diffusion 3 (Esser et al. 2024,
    section 3.1). On any schedule, log SNR ~ N(−2·mean, (2·std)²).

    real: whether t is real; whole t are the nearest steps in log SNR. None: real, except for a schedule given as a table.
    """

    weighs_by_density = True

    def __init__(self, schedule: Schedule | AlphaBar, mean: Number, std: Number, real: bool | None = None) -> None:
        schedule = as_schedule(schedule)
        super().__init__(schedule.num_timesteps, real=schedule.is_real(real))
        if not std > 0:
            raise ValueError(f"timesteps.std={std} must be a standard deviation above 0")
        self.process, self.mean, self.std = GaussianDiffusion(schedule), mean, std
        log_ratio = -self.process.log_snr(torch.tensor([1, schedule.num_timesteps])) / 2
        z = (log_ratio - mean) / std
        self.ends, self.shares = z.tolist(), torch.special.ndtr(z).tolist()
        if not self.shares[0] < self.shares[1]:
            first, last = log_ratio.tolist()
            raise ValueError(
                f"timesteps.mean={mean} and timesteps.std={std} give no share to log(σ/α) from {first:.3g} to {last:.3g}, the "
                "ends of the schedule"
            )

    def forward(self, batch_size: int, generator: Generator) -> tuple[Times, PerSample]:
        t = self.spread(_uniform(batch_size, generator))
        return t, _ones(t)

    def spread(self, share: PerSample) -> Times:
        low, high = self.shares
        z = torch.special.ndtri(low + (high - low) * share).clamp(*self.ends)
        return self.process.times_at(-2 * (self.mean + self.std * z), self.real)


class LossAwareTimesteps(TimestepSampler):
    """p(t) ∝ √E[L_t²], the choice of least variance for L_vlb, from the last losses at each t (Nichol & Dhariwal 2021, eq. 18).

    Uniform until every t has a full history. A share `uniform_probability` of the draws always stays uniform, so that no t is
    forgotten. The history is a buffer, part of the training state; `update` must be given the losses of all ranks.
    """

    learns_from_losses = True

    def __init__(self, num_timesteps: int, history_per_timestep: int = 10, uniform_probability: float = 0.001) -> None:
        super().__init__(num_timesteps)
        if history_per_timestep < 1:
            raise ValueError(f"timesteps.history_per_timestep={history_per_timestep} must be at least 1")
        if not 0 <= uniform_probability <= 1:
            raise ValueError(f"timesteps.uniform_probability={uniform_probability} must be a share, from 0 to 1")
        self.uniform_probability = uniform_probability
        self.history: Float64[Tensor, "T H"]
        self.counts: Int64[Tensor, " T"]
        self.register_buffer("history", torch.zeros(num_timesteps, history_per_timestep, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(num_timesteps, dtype=torch.int64))

    @property
    def probabilities(self) -> Float64[Tensor, " T"]:
        """p(t) for t = 1 … T."""
        uniform = torch.full_like(self.history[:, 0], 1 / self.num_timesteps)
        warm = (self.counts >= self.history.shape[1]).all()
        second_moment = self.history.square().mean(dim=1).sqrt()
        aware = second_moment / second_moment.sum()
        aware = (1 - self.uniform_probability) * aware + self.uniform_probability * uniform
        return torch.where(warm & (second_moment.sum() > 0), aware, uniform)

    def forward(self, batch_size: int, generator: Generator) -> tuple[Steps, PerSample]:
        p = self.probabilities.to(generator.device)
        index = torch.multinomial(p, batch_size, replacement=True, generator=generator)
        return index + 1, 1 / (self.num_timesteps * p[index])

    @torch.no_grad()
    def update(self, t: Steps, loss: Float[Tensor, " b"]) -> None:
        """Store the unweighted losses of a global batch; each t keeps its newest, in order of arrival.

        Non-finite losses are skipped, because means would stay non-finite.
        """
        length, nowhere = self.history.shape[1], self.history.numel()
        finite = loss.isfinite()
        row = torch.where(finite, t - 1, self.num_timesteps)  # losses to skip get an index beyond the last
        order = row.argsort(stable=True)
        row, loss = row[order], loss[order]
        # `order` groups the losses by t, in order of arrival: the rank of each in its group, from both ends.
        place = torch.arange(len(row), device=row.device)
        nth = place - torch.searchsorted(row, row)
        newer = torch.searchsorted(row, row, right=True) - 1 - place
        counts = torch.cat([self.counts, self.counts.new_zeros(1)])
        slot = row * length + (counts[row] + nth) % length
        slot = torch.where((row < self.num_timesteps) & (newer < length), slot, nowhere)
        history = torch.cat([self.history.flatten(), self.history.new_zeros(1)])
        self.history.copy_(history.scatter(0, slot, loss.to(history))[:nowhere].view_as(self.history))
        self.counts.copy_(counts.index_add(0, row, torch.ones_like(row))[:-1])


def quarters(name: str) -> tuple[str, ...]:
    """Names of a quantity's values by quarter of the chain."""
    return tuple(f"{name}_quarter_{q}" for q in (1, 2, 3, 4))


def by_quarter(
    name: str, t: Times, num_timesteps: int, w: Float[Tensor, " b"], value: Float[Tensor, " b"]
) -> dict[str, tuple[Tensor, Tensor]]:
    """`value` and w with zeros outside each quarter of t; Σ w·value/Σ w is the mean over uniform t, or over p(t) if p(t) weighs."""
    quarter = ((t - 1) * 4 // num_timesteps).long()
    zero = torch.zeros_like(value)
    found = {}
    for q, named in enumerate(quarters(name)):
        found[named] = torch.where(quarter == q, value, zero), torch.where(quarter == q, w.to(value.dtype), zero)
    return found


def _uniform(batch_size: int, generator: Generator) -> PerSample:
    return torch.rand(batch_size, generator=generator, device=generator.device, dtype=torch.float64)


def _ones(t: Times) -> PerSample:
    return torch.ones(len(t), dtype=torch.float64, device=t.device)
