"""How to take a long step? Samplers that solve the chain's differential equation to a higher order.

With λ = log(α/σ), half the log SNR, and h = λ_s − λ_t, the noise that is left falls and x̂_0 comes in as λ rises from t to s:

    x_s = (σ_s/σ_t)·e^{−(c − 1)·h}·x_t + α_s·∫_0^h c·e^{−c·(h − u)}·x̂_0(λ_t + u) du + σ_s·√(1 − e^{−2·(c − 1)·h})·z

is exact along a path, with c = 1 for the probability flow (no z) and c = 2 for the reverse process with its noise (Lu et al. 2022,
DPM-Solver++, eq. 8 and section 5). Every rule here but Heun's puts a polynomial through the x̂_0 that it knows and integrates it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from .process import GaussianDiffusion
from .samplers import Draw, Memory, Past, Reverse, Sampler, full
from .shapes import Images


@dataclass(frozen=True)
class HeunSampler(Sampler):
    """x_s = r·x_t + (σ_s − r·σ_t)·½·(ε̂(x_t, t) + ε̂(x̃_s, s)), r = α_s/α_t and x̃_s the DDIM step.

    The trapezoidal rule in σ/α (Karras et al. 2022, EDM, algorithm 1); the last step is DDIM's. It wants steps that shrink σ/α by
    bounded factors, as Karras' and log SNR spacing do: one even step in t from cosine's σ_T/α_T = 2·10⁴ is too long for a line.
    """

    order: ClassVar[int] = 2
    evaluations_per_step: ClassVar[int] = 2

    def step(
        self,
        process: GaussianDiffusion,
        reverse: Reverse,
        x_t: Images,
        t: int,
        s: int,
        noise: Draw,
        memory: Memory,
    ) -> tuple[Images, Memory]:
        look, at, to = reverse(process, x_t, full(t, x_t)), process.numbers(t), process.numbers(s)
        x_s = to.signal * look.x_0 + to.noise * look.eps
        if s == 0:
            return x_s, ()
        slope = to.noise - to.signal / at.signal * at.noise
        return x_s + slope / 2 * (reverse(process, x_s, full(s, x_t)).eps - look.eps), ()

    def looks(self, num_steps: int) -> list[int]:
        return [t for step in range(num_steps, 0, -1) for t in (step, step - 1) if t > 0]


@dataclass(frozen=True)
class DPMSolverSampler(Sampler):
    """DPM-Solver++, multistep: the polynomial through the x̂_0 of this step and of the order − 1 before it (Lu et al. 2022).

    One look a step. The order rises from 1 as looks come in, and falls to 1 over the last steps, where x̂_0 is all there is.

    Parameters
    ----------
    order: 1 to 3. Order 1 is DDIM, deterministic or, with noise, of η = 1 up to second order in h.
    stochastic: the reverse process with its noise, in place of the probability flow.
    """

    order: int = 2
    stochastic: bool = False

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"sampler.order={self.order}: DPM-Solver++ has the orders 1, 2 and 3")

    def step(
        self,
        process: GaussianDiffusion,
        reverse: Reverse,
        x_t: Images,
        t: int,
        s: int,
        noise: Draw,
        memory: Memory,
    ) -> tuple[Images, Memory]:
        seen = (Past(t, x_t, reverse(process, x_t, full(t, x_t)).x_0), *memory)[: self.order]
        x_s = _integrated(process, seen[0], s, seen[:t], rate=2 if self.stochastic else 1)
        if self.stochastic:
            h = _lambda(process, s) - _lambda(process, t)
            x_s = x_s + process.numbers(s).noise * math.sqrt(-math.expm1(-2 * h)) * noise(x_t)
        return x_s, seen


@dataclass(frozen=True)
class UniPCSampler(Sampler):
    """UniPC: a predictor of DPM-Solver++'s kind, and its look at the end of the step also corrects the step (Zhao et al. 2023).

    The correction is the polynomial through one x̂_0 more, the new one, so it costs no look. Deterministic.

    order: 1 to 3, of the predictor; the corrected step is of one order more.
    """

    order: int = 2

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"sampler.order={self.order}: UniPC has the orders 1, 2 and 3 here")

    def step(
        self,
        process: GaussianDiffusion,
        reverse: Reverse,
        x_t: Images,
        t: int,
        s: int,
        noise: Draw,
        memory: Memory,
    ) -> tuple[Images, Memory]:
        x_0 = reverse(process, x_t, full(t, x_t)).x_0
        if memory:
            x_t = _integrated(process, memory[0], t, (Past(t, x_t, x_0), *memory))
        seen = (Past(t, x_t, x_0), *memory)[: self.order]
        return _integrated(process, seen[0], s, seen[:t]), seen


def _integrated(process: GaussianDiffusion, start: Past, s: int, known: Sequence[Past], rate: int = 1) -> Images:
    """The step from `start` to s without its noise, x̂_0 being the polynomial in λ through what is `known`; c is the rate."""
    at, to = process.numbers(start.t), process.numbers(s)
    h = _lambda(process, s) - _lambda(process, start.t)
    nodes = [(_lambda(process, past.t) - _lambda(process, start.t)) / h for past in known]
    x_s = to.noise / at.noise * math.exp(-h) ** (rate - 1) * start.x_t
    for weight, past in zip(_weights(nodes, rate * h), known, strict=True):
        x_s = x_s + to.signal * weight * past.x_0
    return x_s


def _weights(nodes: list[float], h: float) -> list[float]:
    """w_j with Σ_j w_j·p(nodes_j) = ∫_0^1 h·e^{−h·(1 − v)}·p(v) dv for every polynomial p of degree below len(nodes)."""
    moments = [-math.expm1(-h)]
    for k in range(1, len(nodes)):
        moments.append(1 - k / h * moments[-1])
    powers = torch.tensor(nodes, dtype=torch.float64)[None, :] ** torch.arange(len(nodes))[:, None]
    return torch.linalg.solve(powers, torch.tensor(moments, dtype=torch.float64)).tolist()


def _lambda(process: GaussianDiffusion, t: int) -> float:
    """log(α_t/σ_t); ∞ at t = 0."""
    row = process.numbers(t)
    return math.log(row.signal / row.noise) if t > 0 else math.inf
