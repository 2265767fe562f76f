"""Power-law averages of the weights, and any of them as a linear combination of a few that were kept.

θ̄(t) = ∫₀ᵗ p(τ)·θ(τ) dτ with p(τ) = (γ + 1)·τ^γ/t^(γ + 1): an average over a fixed share of training, whatever its length.
σ_rel is the standard deviation of p in units of t. Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion
Models", section 3.1 and appendix C.

An average named ema_rel_0.07 (σ_rel = 0.07) is built from the kept ones, after training, in `config.weight_files.build_average`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

TRACKED = (0.05, 0.10)  # σ_rel of the averages that training keeps
LONGEST = 12**-0.5  # σ_rel of the uniform average, γ = 0
_NAME = re.compile(r"ema_rel_(\d+\.?\d*)")


@dataclass(frozen=True)
class Profile:
    """The profile p of a power-law average over `steps` steps with width `sigma_rel`. ValueError if no profile has this width."""

    steps: float
    sigma_rel: float

    def __post_init__(self) -> None:
        if not 0 < self.sigma_rel < LONGEST:
            raise ValueError(f"σ_rel={self.sigma_rel:g} must lie between 0 and {LONGEST:.3f}")

    @cached_property
    def gamma(self) -> float:
        """γ ≥ 0 with σ_rel² = (γ + 1)/((γ + 2)²·(γ + 3)): the largest root of γ³ + 7γ² + (16 − σ⁻²)γ + 12 − σ⁻²."""
        s = self.sigma_rel**-2
        return float(np.roots([1, 7, 16 - s, 12 - s]).real.max())

    def decay(self, step: int) -> float:
        """β = (1 − 1/step)^(γ + 1) with θ̄ ← β·θ̄ + (1 − β)·θ at step 1, 2, …: step i of t weighs (i^(γ+1) − (i−1)^(γ+1))/t^(γ+1)."""
        return (1 - 1 / step) ** (self.gamma + 1)

    def overlap(self, other: Profile) -> float:
        """∫ p·p′ dτ over the range where both are positive."""
        a, b, t = self.gamma, other.gamma, min(self.steps, other.steps)
        scale = (a + 1) * (b + 1) / (a + b + 1)
        return scale * (t / self.steps) ** a * (t / other.steps) ** b * t / self.steps / other.steps


def combination(kept: Sequence[Profile], wanted: Profile) -> tuple[np.ndarray, float]:
    """float64 coefficients of the kept profiles whose combination is closest to the wanted one, and the relative L² error.

    The coefficients sum to one, so that constant weights are preserved: the least-squares solution is divided by
    its sum.
    """
    products = np.array([[one.overlap(other) for other in kept] for one in kept])
    aims = np.array([one.overlap(wanted) for one in kept])
    size = wanted.overlap(wanted)
    scale = np.sqrt(np.diag(products))  # normalised profiles, for a well-scaled matrix
    x = np.linalg.lstsq(products / scale / scale[:, None], aims / scale, rcond=1e-12)[0] / scale
    x /= x.sum()
    left = size - 2 * x @ aims + x @ products @ x
    return x, float(np.sqrt(max(0.0, left) / size))


def wanted_length(weights: str) -> float | None:
    """σ_rel of an average that is combined from kept ones: "ema_rel_0.07" -> 0.07; None for other names."""
    found = _NAME.fullmatch(weights)
    return None if found is None else float(found[1])
