"""Solvers: samplers of higher order for the differential equations of the chain.

In the variables y = x/α and ρ = σ/α the probability flow of every schedule is dy/dρ = ε̂: the rules of Heun, with and without
churn, and of Adams solve this equation.

With λ = log(α/σ) = −log ρ, half the log SNR, and h = λ_s − λ_t, x_t loses noise and gains x̂_0 as λ rises from t to s:

    x_s = (σ_s/σ_t)·e^{−(c − 1)·h}·x_t + α_s·∫_0^h c·e^{−c·(h − u)}·x̂_0(λ_t + u) du + σ_s·√(1 − e^{−2·(c − 1)·h})·z

is exact along a path, with c = 1 for the probability flow (no z) and c = 2 for the reverse process with its noise (Lu et al. 2022,
DPM-Solver++). The polynomial through known x̂_0 is integrated in closed form.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from diffusion_lab.diffusion.chain import GaussianDiffusion
from diffusion_lab.diffusion.shapes import Images, Number

from .sampler import Sampler, Walk


@dataclass(frozen=True)
class HeunSampler(Sampler):
    """x_s = r·x_t + (σ_s − r·σ_t)·½·(ε̂(x_t, t) + ε̂(x̃_s, s)), r = α_s/α_t and x̃_s the DDIM step.

    The trapezoidal rule in σ/α (Karras et al. 2022, EDM, algorithm 1); the last step is DDIM's. It needs steps that reduce σ/α by
    bounded factors, as in Karras' and log SNR spacing: one even step in t from cosine's σ_T/α_T = 2·10⁴ is too long.
    """

    reads_variance = False
    order = 2
    evaluations_per_step = 2

    def step(self, walk: Walk, x_t: Images, t: int) -> Images:
        return heun(walk, x_t, t, t - 1)

    def evaluation_times(self, num_steps: int) -> list[int]:
        return [t for step in range(num_steps, 0, -1) for t in (step, step - 1) if t > 0]


def heun(walk: Walk, x_t: Images, t: int, s: int) -> Images:
    """Heun's step from t to any earlier step s of a walk."""
    at, to = walk.at(t), walk.at(s)
    here = walk.predict(x_t, t)
    x_s = to.signal * here.x_0 + to.sigma * here.eps  # Euler's step in σ/α, which is DDIM's
    if s == 0:
        return x_s
    there = walk.predict(x_s, s)
    r = to.signal / at.signal
    return x_s + (to.sigma - r * at.sigma) / 2 * (there.eps - here.eps)  # Euler's ε̂ becomes the mean of the two


@dataclass(frozen=True)
class ChurnSampler(HeunSampler):
    """Heun's rule after a step back towards noise, from t to t̂ (Karras et al. 2022, EDM, algorithm 2).

        γ = min(S_churn/K, √2 − 1)  if S_min ≤ σ_t/α_t ≤ S_max,  else 0
        σ_t̂/α_t̂ = (1 + γ)·σ_t/α_t
        x_t̂ = r·x_t + √(σ_t̂² − r²·σ_t²)·S_noise·z,   r = α_t̂/α_t
        x_s = Heun's step from t̂ to s

    The new noise replaces some of the old, and with it errors of earlier steps; with S_noise = 1, x_t̂ ~ q(x_t̂|x_t). EDM has α = 1,
    so its σ is σ/α here. t̂ is a real time if the chain visits real times, and otherwise the nearest whole step, with the σ/α of
    that step: where whole steps are far apart, γ is rounded too. t̂ does not exceed T, so unlike in EDM no noise is added to x_T.
    Two evaluations per step.

    Parameters
    ----------
    s_churn: S_churn ≥ 0, shared among the K steps; 0 is Heun's rule.
    s_min, s_max: the range of σ_t/α_t in which noise is added, ends included.
    s_noise: standard deviation of z; slightly above 1 compensates for networks that remove too much noise.
    """

    s_churn: Number = 0.0
    s_min: Number = 0.0
    s_max: Number = math.inf
    s_noise: Number = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.s_churn < math.inf:
            raise ValueError(f"sampler.s_churn={self.s_churn} must be at least 0; 0 adds no noise")
        if not 0 <= self.s_min <= self.s_max:
            raise ValueError(
                f"sampler.s_min={self.s_min}, sampler.s_max={self.s_max}: need 0 ≤ s_min ≤ s_max, values of σ/α"
            )
        if not 0 <= self.s_noise < math.inf:
            raise ValueError(f"sampler.s_noise={self.s_noise} must be at least 0; 1 keeps q(x_t|x_0)")

    def step(self, walk: Walk, x_t: Images, t: int) -> Images:
        stride = self._strides(walk.chain)[t - 1]
        last = stride.num_timesteps  # t̂; last − 1 is s
        here, up = walk.at(t), stride.numbers(last)
        if up.time == here.time:
            return heun(walk, x_t, t, t - 1)
        r, z = up.signal / here.signal, walk.source(walk.chain.keys[t - 1], x_t)  # z in the last step too
        x_t = r * x_t + math.sqrt(up.sigma**2 - (r * here.sigma) ** 2) * self.s_noise * z
        return heun(replace(walk, chain=stride), x_t, last, last - 1)

    def evaluated_at(self, chain: GaussianDiffusion) -> list[tuple[GaussianDiffusion, int]]:
        strides = reversed(self._strides(chain))
        return [(stride, t) for stride in strides for t in range(stride.num_timesteps, 0, -1)]

    def _strides(self, chain: GaussianDiffusion) -> list[GaussianDiffusion]:
        gamma = min(self.s_churn / chain.num_timesteps, math.sqrt(2) - 1)
        return raised_strides(chain, gamma, self.s_min, self.s_max)


@lru_cache(maxsize=8)  # of the chains that are walked
def raised_strides(chain: GaussianDiffusion, gamma: Number, s_min: Number, s_max: Number) -> list[GaussianDiffusion]:
    """For t = 1 … K the chain over the times of s and t̂; of t̂ alone for t = 1. t̂: where σ/α is 1 + γ times that of t."""
    log_snr = chain.log_snr(torch.arange(1, chain.num_timesteps + 1))
    ratio = torch.exp(-log_snr / 2)
    acts = (ratio >= s_min) & (ratio <= s_max) & (gamma > 0)
    real = chain.times.is_floating_point()
    raised = GaussianDiffusion(chain.schedule).times_at(log_snr - 2 * math.log1p(gamma), real)
    raised = torch.where(acts, raised, chain.times).maximum(chain.times)
    ends = [raised[:1], *torch.stack([chain.times[:-1], raised[1:]], dim=1)]
    return [GaussianDiffusion(chain.schedule, times) for times in ends]


@dataclass(frozen=True)
class DPMSolverSampler(Sampler):
    """DPM-Solver++, multistep: with the polynomial through the x̂_0 of this step and the order − 1 before it (Lu et al. 2022).

    One evaluation per step. The order rises from 1 over the first steps and falls to 1 over the last ones, where λ → ∞. It is 1
    also after a step shorter than a third of the current one, over which the slope of x̂_0 is too uncertain.

    Parameters
    ----------
    order: 1 to 3; order 1 is DDIM.
    stochastic: solve the reverse SDE instead of the probability flow.
    """

    reads_variance = False
    remembers = 3
    order: int = 2
    stochastic: bool = False

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"sampler.order={self.order}: DPM-Solver++ has order 1, 2 or 3")

    def step(self, walk: Walk, x_t: Images, t: int) -> Images:
        known = walk.remember(t, walk.predict(x_t, t))[: min(self.order, t)]
        at, to, h = walk.at(t), walk.at(t - 1), _lambda(walk, t - 1) - _lambda(walk, t)
        rate = 2 if self.stochastic else 1
        if len(known) > 1 and 3 * (_lambda(walk, t) - _lambda(walk, known[1].t)) < h:
            known = known[:1]
        x_s = to.sigma / at.sigma * math.exp(-h) ** (rate - 1) * x_t
        nodes = [(_lambda(walk, point.t) - _lambda(walk, t)) / h for point in known]
        for weight, point in zip(_weights(nodes, rate * h), known, strict=True):
            x_s = x_s + to.signal * weight * point.x_0
        if self.stochastic:
            x_s = x_s + to.sigma * math.sqrt(-math.expm1(-2 * h)) * walk.noise(t, x_t)
        return x_s


@dataclass(frozen=True)
class IPNDMSampler(Sampler):
    """x_s = r·x_t + (σ_s − r·σ_t)·Σ_j w_j·ε̂_j, r = α_s/α_t: the Adams–Bashforth rule in σ/α (Zhang & Chen 2023, DEIS, iPNDM).

    One evaluation per step, and up to four in the rule; the last step is DDIM's. The weights are those of equal steps, and
    steps in σ/α are never equal, so the order is 2. Yet with the exact score, at 5 to 10 evaluations, it came closer to the limit
    than DPM-Solver++, UniPC and weights fitted to the true steps.
    """

    reads_variance = False
    order = 2
    remembers = 4

    def step(self, walk: Walk, x_t: Images, t: int) -> Images:
        predicted, at, to = walk.predict(x_t, t), walk.at(t), walk.at(t - 1)
        if t == 1:
            return predicted.x_0
        known = walk.remember(t, predicted)
        eps = sum(weight * point.eps for weight, point in zip(_ADAMS_BASHFORTH[len(known) - 1], known, strict=True))
        x_0 = (x_t - at.sigma * eps) / at.signal
        return to.signal * x_0 + to.sigma * eps


_ADAMS_BASHFORTH = (1,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24)


def _weights(nodes: list[float], h: float) -> list[float]:
    """w_j with Σ_j w_j·p(nodes_j) = ∫_0^1 h·e^{−h·(1 − v)}·p(v) dv for every polynomial p of degree below len(nodes)."""
    moments = [-math.expm1(-h)]
    for k in range(1, len(nodes)):
        moments.append(1 - k / h * moments[-1])
    weights = []
    for node in nodes:
        lagrange = [1.0]  # coefficients of the Lagrange polynomial of this node
        for other in nodes:
            if other != node:
                pairs = zip([*lagrange, 0.0], [0.0, *lagrange], strict=True)
                lagrange = [(lower - other * same) / (node - other) for same, lower in pairs]
        weights.append(sum(c * moment for c, moment in zip(lagrange, moments, strict=True)))
    return weights


def _lambda(walk: Walk, t: int) -> float:
    """log(α_t/σ_t); ∞ at t = 0."""
    row = walk.at(t)
    return math.log(row.signal / row.sigma) if t > 0 else math.inf
