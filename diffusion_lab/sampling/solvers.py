"""Solvers: samplers of higher order for the differential equation of the chain.

With λ = log(α/σ), half the log SNR, and h = λ_s − λ_t, x_t loses noise and gains x̂_0 as λ rises from t to s:

    x_s = (σ_s/σ_t)·e^{−(c − 1)·h}·x_t + α_s·∫_0^h c·e^{−c·(h − u)}·x̂_0(λ_t + u) du + σ_s·√(1 − e^{−2·(c − 1)·h})·z

is exact along a path, with c = 1 for the probability flow (no z) and c = 2 for the reverse process with its noise (Lu et al. 2022,
DPM-Solver++). The polynomial through known x̂_0 is integrated in closed form. The rules of Heun and of Adams solve the same
equation in the variables x/α and σ/α, d(x/α)/d(σ/α) = ε̂.
"""

import math
from dataclasses import dataclass

from diffusion_lab.diffusion.shapes import Images

from .samplers import Sampler, Walk


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
        predicted, at, to = walk.predict(x_t, t), walk.at(t), walk.at(t - 1)
        x_s = to.signal * predicted.x_0 + to.sigma * predicted.eps
        if t == 1:
            return x_s
        slope = to.sigma - to.signal / at.signal * at.sigma
        return x_s + slope / 2 * (walk.predict(x_s, t - 1).eps - predicted.eps)

    def evaluation_times(self, num_steps: int) -> list[int]:
        return [t for step in range(num_steps, 0, -1) for t in (step, step - 1) if t > 0]


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
        walk.predict(x_t, t)
        at, to, h = walk.at(t), walk.at(t - 1), _lambda(walk, t - 1) - _lambda(walk, t)
        known, rate = list(walk.past)[: min(self.order, t)], 2 if self.stochastic else 1
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
        weights = _ADAMS_BASHFORTH[min(len(walk.past), len(_ADAMS_BASHFORTH)) - 1]
        eps = sum(weight * point.eps for weight, point in zip(weights, walk.past, strict=False))
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
