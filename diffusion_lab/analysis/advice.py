"""Advice on the steps of a chain, their number and its ends, from the table of step costs of a trained network.

    bits(t_1 < … < t_K) = L_0(t_1) + Σ L(t_k, t_{k−1}) + L_T(t_K)

bounds the chain over these times. Its minimum over all times, for each K and each end t_K, is therefore what a better choice
can gain, known before any sampling (Watson et al. 2021, by dynamic programming; the choice of the end is added here).
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from diffusion_lab.diffusion.chain import GaussianDiffusion
from diffusion_lab.sampling.spacings import EvenSpacing, Visited, whole_times

from .step_costs import StepCosts

_ENDS = 49  # log SNRs at which a chain may end, from that of T up to 0
_COUNTS = (2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 250, 500, 1000)


@dataclass(frozen=True, eq=False)
class ScheduleAdvice:
    """Bounds in bits/dim, including L_T, for the images and the noise of the table.

    Attributes
    ----------
    own: for the sampler's own times, rounded to whole ones. beyond: how many of these lie outside the ends of `times`.
    times: the times of the chain with the least bound among those with as many steps. bits: that bound.
    fewest: the smallest number of steps whose bound is not above `own`.
    num_steps, optimal, even: by number of steps, the least bound and that of even steps.
    """

    own: float
    beyond: int
    times: Int64[Tensor, " K"]
    bits: float
    fewest: int
    num_steps: list[int]
    optimal: list[float]
    even: list[float]

    def with_more(self, bits: float) -> "ScheduleAdvice":
        """The same advice with this many bits/dim added to every bound."""
        own, best = self.own + bits, self.bits + bits
        optimal, even = ([value + bits for value in values] for values in (self.optimal, self.even))
        return replace(self, own=own, bits=best, optimal=optimal, even=even)

    @property
    def gain(self) -> float:
        """Bits/dim gained by the best times."""
        return self.own - self.bits


def possible_ends(process: GaussianDiffusion, own: Visited) -> Int64[Tensor, " e"]:
    """Candidates for the last t of a chain: even log SNRs from that of T up to 0, and the end of the sampler's own chain."""
    log_snr = process.log_snr(torch.arange(1, process.num_timesteps + 1))
    wanted = torch.linspace(float(log_snr[-1]), max(0.0, float(log_snr[-1])), _ENDS, dtype=torch.float64)
    nearest = (log_snr[:, None] - wanted).abs().argmin(dim=0) + 1
    return torch.cat([nearest, whole_times(process, own)[-1:]]).unique()


def advise(
    process: GaussianDiffusion,
    costs: StepCosts,
    choosing: StepCosts,
    own: Visited,
    ends: Int64[Tensor, " e"],
    prior: Float64[Tensor, " e"],
) -> ScheduleAdvice:
    """The gain of the best chains over the times `own`, among the steps of a full chain.

    process: the full chain. costs: the table for the bounds. choosing: the smoothed table by which steps are chosen, so that noise
    does not decide. own: times of the sampler. ends: candidates for the last t, int64 (E,), including T and that of `own`. prior:
    L_T there, float64 (E,), in bits/dim.
    """
    l_t = dict(zip(ends.tolist(), prior.tolist(), strict=True))
    found: dict[int, Tensor] = {}

    def bits(times: Int64[Tensor, " K"]) -> float:
        return costs.bits(times) + l_t[int(times[-1])]

    def best(num_steps: int) -> Int64[Tensor, " K"]:
        if num_steps not in found:
            end = ends[(choosing.least(num_steps)[ends] + prior).argmin()]
            found[num_steps] = choosing.best(num_steps, int(end))
        return found[num_steps]

    whole, last = whole_times(process, own), process.num_timesteps
    now = bits(whole)
    advised = best(len(whole))
    if bits(advised) > now:
        advised = whole
    fewest = next(k for k in range(1, len(whole) + 1) if k == len(whole) or bits(best(k)) <= now)
    counts = [k for k in _COUNTS if k <= min(last, max(100, len(whole)))]
    return ScheduleAdvice(
        own=now,
        beyond=int(((whole < advised[0]) | (whole > advised[-1])).sum()),
        times=advised,
        bits=bits(advised),
        fewest=fewest,
        num_steps=counts,
        optimal=[bits(best(k)) for k in counts],
        even=[bits(EvenSpacing(k)(last)) for k in counts],
    )
