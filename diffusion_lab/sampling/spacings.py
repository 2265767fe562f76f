"""Spacings: the times that a sampler visits, strictly increasing, up to the last time or to where only noise is left.

A spacing is given the process, so steps may be even in t, in log SNR, or in a power of σ/α.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from diffusion_lab.diffusion.chain import GaussianDiffusion
from diffusion_lab.diffusion.shapes import Number

Visited = Int64[Tensor, " K"] | Float64[Tensor, " K"]


class Costs(ABC):
    """The cost of each step of a trained network's chain."""

    @abstractmethod
    def best(self, num_steps: int, last: int | None = None) -> Visited:
        """The times of the cheapest chain with this many steps, ending at T or at `last`."""


@dataclass(frozen=True)
class Spacing(ABC):
    """process -> the times of the respaced process.

    `needs_costs`: the times follow from the costs of steps of the trained network (see `measured`).
    """

    needs_costs: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, process: GaussianDiffusion | int) -> Visited:
        """Steps, int64 (K,), strictly increasing within 1 … T and ending at T by default; or times, float64 (K,).

        An int T stands for any process with T steps; ValueError if T alone is not enough.
        """

    def measured(self, costs: Costs) -> "Spacing":
        """The same spacing with these costs."""
        return self


@dataclass(frozen=True)
class AllSteps(Spacing):
    """S = {1 … T}."""

    def __call__(self, process: GaussianDiffusion | int) -> Visited:
        return torch.arange(1, _last(process) + 1)


@dataclass(frozen=True)
class EvenSpacing(Spacing):
    """t_i = 1 + i·(T − 1)/(K − 1), i = 0 … K − 1, halves rounded to even (Nichol & Dhariwal 2021, section 4). K = 1 keeps T."""

    num_steps: int

    def __call__(self, process: GaussianDiffusion | int) -> Visited:
        last = _last(process)
        _check(self.num_steps, last)
        i = torch.arange(self.num_steps, dtype=torch.float64)
        return (
            1 + (i * (last - 1) / (self.num_steps - 1)).round().long() if self.num_steps > 1 else torch.tensor([last])
        )


@dataclass(frozen=True)
class QuadraticSpacing(Spacing):
    """t_i = 1 + (i/(K − 1))²·(T − 1), i = 0 … K − 1: dense near the data (Song et al. 2020, DDIM).

    Halves are rounded to even and collisions moved up. K = 1 keeps T.
    """

    num_steps: int

    def __call__(self, process: GaussianDiffusion | int) -> Visited:
        last = _last(process)
        _check(self.num_steps, last)
        return _distinct(1 + (_fractions(self.num_steps).square() * (last - 1)).round().long(), last)


@dataclass(frozen=True)
class LogSNRSpacing(Spacing):
    """log SNR falls in K − 1 equal steps from the first time to the last (Lu et al. 2022, DPM-Solver).

    K = 1 keeps the last time.

    log_snr_max, log_snr_min: where to start and end if the schedule reaches further; None: at the schedule's ends. Steps beyond
    them are wasted: at the noisy end x̂_0 is the mean of the data, at the clean end it is close to x_0. The start of the shorter
    chain is taken as N(0, prior_std²·I), although some signal is left there.
    real: visit any t in [1, T]; false: the nearest whole ones, collisions moved apart. None: real, except for a schedule given as a
    table.
    """

    num_steps: int
    log_snr_max: Number | None = None
    log_snr_min: Number | None = None
    real: bool | None = None

    def __post_init__(self) -> None:
        highest, lowest = self.log_snr_max, self.log_snr_min
        if highest is not None and lowest is not None and not lowest < highest:
            raise ValueError(f"sampler.spacing.log_snr_min={lowest} must lie below log_snr_max={highest}")

    def __call__(self, process: GaussianDiffusion | int) -> Visited:
        return _at_log_snr(process, self.num_steps, torch.lerp, self.real, self.log_snr_max, self.log_snr_min)


@dataclass(frozen=True)
class KarrasSpacing(Spacing):
    """(σ/α)^{1/ρ} rises in K − 1 equal steps from the first time to the last (Karras et al. 2022, EDM, eq. 5).

    ρ → ∞ is `LogSNRSpacing`; smaller ρ spends more steps at the noisy end. real: as in `LogSNRSpacing`.
    """

    num_steps: int
    rho: Number = 7.0
    real: bool | None = None

    def __post_init__(self) -> None:
        if not self.rho > 0:
            raise ValueError(f"sampler.spacing.rho={self.rho} must be a number above 0")

    def __call__(self, process: GaussianDiffusion | int) -> Visited:
        def log_snr(first: Tensor, last: Tensor, share: Tensor) -> Tensor:
            root, root_last = (torch.exp(-end / (2 * self.rho)) for end in (first, last))
            return -2 * self.rho * torch.lerp(root, root_last, share).log()

        return _at_log_snr(process, self.num_steps, log_snr, self.real)


@dataclass(frozen=True)
class StraightSpacing(Spacing):
    """r = σ/(α + σ) rises in K equal steps to its last value, from that of the clean end, which is not visited.

    For flow maps, whose last step goes to the clean end (`flow_maps`; r is their time). real: as in `LogSNRSpacing`.
    """

    num_steps: int
    real: bool | None = None

    def __call__(self, process: GaussianDiffusion | int) -> Visited:
        def log_snr(first: Tensor, last: Tensor, share: Tensor) -> Tensor:
            of_steps = (1 + share * (self.num_steps - 1)) / self.num_steps
            return -2 * torch.logit(torch.lerp(torch.sigmoid(-first / 2), torch.sigmoid(-last / 2), of_steps))

        return _at_log_snr(process, self.num_steps, log_snr, self.real)


def _at_log_snr(
    process: GaussianDiffusion | int,
    num_steps: int,
    log_snr: Callable[[Tensor, Tensor, Tensor], Tensor],
    real: bool | None,
    highest: Number | None = None,
    lowest: Number | None = None,
) -> Visited:
    """The times with log SNRs log_snr(first, last, i/(K − 1)), between those of the process or the given ends."""
    if isinstance(process, int):
        raise ValueError("steps by log SNR need the process: call spacing(process), not spacing(T)")
    last, real = process.num_timesteps, process.schedule.is_real(real)
    _check(num_steps, num_steps if real and num_steps > 0 and last > 1 else last)
    ends = process.log_snr(torch.tensor([1, last]))
    first = ends[0] if highest is None else ends[0].clamp(max=highest)
    final = ends[1] if lowest is None else ends[1].clamp(min=lowest)
    if not (final < first or (last == 1 and final == first)):
        raise ValueError(
            f"sampler.spacing: log_snr_max={highest} and log_snr_min={lowest} exclude all log SNRs of the schedule, which are "
            f"{float(ends[1]):.4g} to {float(ends[0]):.4g}"
        )
    times = process.times_at(log_snr(first, final, _fractions(num_steps)), real)
    if not real:
        return _distinct(times, last)
    if final == ends[1]:
        times[-1] = process.times[-1]
    return times


def _fractions(num_steps: int) -> Float64[Tensor, " K"]:
    """i/(K − 1), i = 0 … K − 1; 1 where K = 1."""
    return torch.arange(num_steps, dtype=torch.float64) / (num_steps - 1) if num_steps > 1 else torch.ones(1).double()


def whole_times(process: GaussianDiffusion, times: Visited) -> Int64[Tensor, " _"]:
    """As many steps of `process`, nearest to `times`, with collisions moved apart; all steps if there are fewer than times."""
    last = process.num_timesteps
    return _distinct(times.round().long(), last)[-last:]


def _distinct(wanted: Int64[Tensor, " K"], last: int) -> Int64[Tensor, " K"]:
    """Increasing t in 1 … last with collisions moved up, and moved down again where they would exceed `last`."""
    i = torch.arange(len(wanted))
    # Each step is at least one above the previous one: subtract i, take the running maximum, add i again.
    return (wanted - i).cummax(dim=0).values.clamp(max=last - len(wanted) + 1) + i


def _last(process: GaussianDiffusion | int) -> int:
    return process if isinstance(process, int) else process.num_timesteps


def _check(num_steps: int, most: int) -> None:
    if not 1 <= num_steps <= most:
        raise ValueError(
            f"sampler.spacing.num_steps={num_steps} must lie in 1 … {most}, because the chain has {most} steps"
        )
