"""How fast does the signal decay? A schedule is the table ᾱ_0 … ᾱ_T; everything else is derived from it.

ᾱ_t = ∏_{s=1}^{t} (1 − β_s) is the share of the variance of x_t that is signal: ᾱ_0 = 1 is clean data, ᾱ_T ≈ 0 is noise.
Every table is float64: in float32 the first 1 − ᾱ of a cosine schedule with T = 4000 is already 0.29 % off.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor


@dataclass(frozen=True)
class Schedule(ABC):
    """ᾱ_t for t = 0 … T.

    Parameters
    ----------
    num_timesteps: T ≥ 1. A ValueError says why where a schedule does not exist for a T.
    """

    num_timesteps: int

    def __post_init__(self) -> None:
        if self.num_timesteps < 1:
            raise ValueError(f"num_timesteps = {self.num_timesteps}: a diffusion process needs at least one step")

    @abstractmethod
    def alpha_bar(self) -> Float64[Tensor, " T_plus_1"]:
        """ᾱ_0 = 1 > ᾱ_1 > … > ᾱ_T > 0, float64 (T + 1,)."""


@dataclass(frozen=True)
class LinearSchedule(Schedule):
    """β_t rises linearly from β_start·1000/T to β_end·1000/T (Ho et al. 2020, section 4, for T = 1000).

    The factor 1000/T keeps ᾱ_T where the paper has it when T changes; without it T = 200 would end with ᾱ_T = 0.13.
    It also means that β_T = 20/T with the paper's β_end, so T must be at least 21.
    """

    beta_start: float = 1e-4
    beta_end: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta_start <= self.beta_end:
            raise ValueError(
                f"beta_start = {self.beta_start} and beta_end = {self.beta_end}: need 0 < beta_start ≤ beta_end"
            )
        beta_last = self.beta_end * 1000 / self.num_timesteps
        if beta_last >= 1:
            smallest = math.floor(self.beta_end * 1000) + 1
            raise ValueError(
                f"a linear schedule with num_timesteps = {self.num_timesteps} has β_T = {beta_last:.3g} ≥ 1, "
                f"which is no variance; use num_timesteps ≥ {smallest} or another schedule (cosine works for every T)"
            )

    def alpha_bar(self) -> Float64[Tensor, " T_plus_1"]:
        scale = 1000 / self.num_timesteps
        beta = torch.linspace(scale * self.beta_start, scale * self.beta_end, self.num_timesteps, dtype=torch.float64)
        return _cumulative(beta)


@dataclass(frozen=True)
class CosineSchedule(Schedule):
    """ᾱ_t = f(t)/f(0), f(t) = cos²((t/T + s)/(1 + s)·π/2), with β_t ≤ 0.999 (Nichol & Dhariwal 2021, eq. 17).

    The clip touches the last β only, where f(T) = 0. The offset s keeps β_1 from being too small: √β_1 is 5.3, 2.0, 0.8 and 0.4
    bins of 256 grey levels at T = 50, 200, 1000 and 4000.
    """

    s: float = 0.008
    max_beta: float = 0.999

    def alpha_bar(self) -> Float64[Tensor, " T_plus_1"]:
        time = torch.arange(self.num_timesteps + 1, dtype=torch.float64) / self.num_timesteps
        f = torch.cos((time + self.s) / (1 + self.s) * math.pi / 2).square()
        return _cumulative(_beta_from_ratios(f, self.max_beta))


@dataclass(frozen=True)
class SigmoidSchedule(Schedule):
    """ᾱ_t = (σ(end/τ) − σ((start + (end − start)·t/T)/τ)) / (σ(end/τ) − σ(start/τ)), with β_t ≤ 0.999 (Chen 2023).

    σ is the logistic function. Beside cosine it spends fewer steps at both ends of the chain.
    """

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0
    max_beta: float = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.start < self.end and self.tau > 0):
            raise ValueError(f"start = {self.start}, end = {self.end}, tau = {self.tau}: need start < end and tau > 0")

    def alpha_bar(self) -> Float64[Tensor, " T_plus_1"]:
        time = torch.arange(self.num_timesteps + 1, dtype=torch.float64) / self.num_timesteps
        falling = torch.sigmoid(-(self.start + (self.end - self.start) * time) / self.tau)
        # σ(a) − σ(b) = σ(−b) − σ(−a): written with the falling side, which is subtracted from where it ends.
        return _cumulative(_beta_from_ratios(falling - falling[-1], self.max_beta))


def _beta_from_ratios(alpha_bar: Float64[Tensor, " T_plus_1"], max_beta: float) -> Float64[Tensor, " T"]:
    """β_t = min(1 − ᾱ_t/ᾱ_{t−1}, max_beta), from ᾱ known up to a factor."""
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=max_beta)


def _cumulative(beta: Float64[Tensor, " T"]) -> Float64[Tensor, " T_plus_1"]:
    """ᾱ_t = ∏_{s≤t} (1 − β_s), with ᾱ_0 = 1."""
    return torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - beta, dim=0)])
