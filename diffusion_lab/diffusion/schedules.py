"""Schedules: how the signal decays and the noise grows, x_t = α_t·x_0 + σ_t·ε, at every real t in [1, T].

    log SNR(t) = 2·log(α_t/σ_t) falls with t; t = 0 is clean data, α_0 = 1 and σ_0 = 0, and t = T is almost pure noise.

DDPM gives the pair as a table, ᾱ_t = ∏_{s=1}^{t} (1 − β_s) for whole t: α_t = √ᾱ_t and σ_t = √(1 − ᾱ_t). Between whole t log ᾱ is
interpolated linearly, so the signal decays at a constant rate. Schedules with a formula in real t: `continuous_schedules`.
All values are float64: in float32 the first 1 − ᾱ of a cosine schedule with T = 4000 is already 0.29 % off.

Both ends may be cut. At the clean end, noise far below the spacing of the data's levels leaves nothing to learn; at the noisy
end, remaining signal is counted in L_T.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from .forward import ForwardProcess
from .shapes import Number, PerSample, Times

Table = Float64[Tensor, " T_plus_1"]


class DeviceTable:
    """A tensor on the host, copied to each device on first use."""

    def __init__(self, values: Tensor) -> None:
        self._copies = {values.device: values}
        self.values = values

    def on(self, device: torch.device) -> Tensor:
        if device not in self._copies:
            self._copies[device] = self.values.to(device)
        return self._copies[device]


@dataclass(frozen=True)
class Schedule(ForwardProcess):
    """α_t and σ_t from the table ᾱ_t for t = 0 … T.

    Parameters
    ----------
    num_timesteps: T ≥ 1. ValueError, with the reason, if the schedule does not exist for a T.
    """

    time_dtype = torch.float64
    tabulated: ClassVar[bool] = True  # chains and training use whole t by default
    num_timesteps: int

    def __post_init__(self) -> None:
        if not isinstance(self.num_timesteps, int) or self.num_timesteps < 1:
            raise ValueError(f"num_timesteps = {self.num_timesteps} must be a whole number of at least 1")

    @abstractmethod
    def alpha_bar(self) -> Table:
        """ᾱ_0 = 1 > ᾱ_1 > … > ᾱ_T > 0, float64 (T + 1,)."""

    def pair(self, t: Times) -> tuple[PerSample, PerSample]:
        """(α_t, σ_t), t in [1, T]."""
        table = self._alpha_bars.on(t.device)
        before = t.detach().long()
        after = (before + 1).clamp(max=self.num_timesteps)
        alpha_bar = table[before] * (table[after] / table[before]) ** (t - before)
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    @cached_property
    def _alpha_bars(self) -> DeviceTable:
        table = torch.as_tensor(self.alpha_bar(), dtype=torch.float64)
        if table.shape != (self.num_timesteps + 1,) or table[0] != 1:
            given = f"shape {tuple(table.shape)}, starting with {table.flatten()[:1].tolist()}"
            raise ValueError(
                f"{self}: alpha_bar() must be ᾱ_0 = 1, ᾱ_1, …, ᾱ_T for T = {self.num_timesteps}, not {given}"
            )
        return DeviceTable(table)

    def time_at(self, log_snr: PerSample) -> PerSample:
        """The real t at which the pair has a given log SNR, between those of the ends."""
        return _time_at(self._alpha_bars.on(log_snr.device).log(), log_snr)

    def log_snr_slope(self, t: PerSample) -> PerSample:
        """d log SNR/dt < 0."""
        differentiable = self.trained is not None and torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            t = t.clone().requires_grad_()
            return torch.autograd.grad(self.log_snr(t).sum(), t, create_graph=differentiable)[0]

    @property
    def prior_std(self) -> float:
        """The standard deviation of the noise that sampling starts from."""
        return 1.0

    @property
    def trained(self) -> nn.Module | None:
        """The trained parameters of the schedule; None if it has none."""
        return None

    def keep_first_std(self) -> None:
        """Read `first_std` once, and reuse it until the next call: reading the parameters of a trained schedule takes time."""

    def network_time(self, t: Times) -> Times:
        """The network's input for t: t − 1, also between whole t."""
        return t - 1

    def own_loss(self, t: PerSample, loss: PerSample) -> PerSample:
        """A term of value 0 that a trained schedule adds to the loss at t, for gradients that the loss itself does not provide."""
        return torch.zeros_like(loss)

    def is_real(self, real: bool | None) -> bool:
        """Whether t is real with this choice; None: it is, unless the schedule is a table."""
        return not self.tabulated if real is None else real


_SHOWN = 4  # numbers of a table that are shown in its name
_FINEST = 256  # number of levels up to which the clean end follows their spacing


class CleanEnd(float):
    """The log SNR at t = 1 that fits data with levels: 2·log(ratio/bin), bin = 2/(num_levels − 1), so σ_1/α_1 = bin/ratio.

    Less noise leaves nothing to learn, and a network without knowledge of the levels loses bits; more noise leaves
    the decoder to guess the level. So few levels cut a schedule's clean end, and many levels extend it, up to 256: for
    more, the noise is finer than a network resolves, which costs more bits than the decoder (at 16 bits 66.8 bits/dim, not 10.4).

    Parameters
    ----------
    num_levels: the data's levels from −1 to 1; None for continuous data, whose log SNR at t = 1 is `continuous`.
    ratio: standard deviations of the noise per bin. continuous: infinite if the schedule has its own end.
    """

    def __new__(cls, num_levels: int | None, ratio: Number = 2.0, continuous: Number = math.inf) -> "CleanEnd":
        levels = num_levels is None or (isinstance(num_levels, int) and num_levels >= 2)
        if not (levels and is_number(ratio) and 0 < ratio < math.inf and is_number(continuous)):
            raise ValueError(
                f"CleanEnd(num_levels={num_levels}, ratio={ratio}, continuous={continuous}): num_levels must be null or at least "
                "2, and ratio above 0"
            )
        if num_levels is None:
            return super().__new__(cls, continuous)
        return super().__new__(cls, 2 * math.log(ratio * (min(num_levels, _FINEST) - 1) / 2))


End = Number | CleanEnd  # a choice may stand in place of the number


@dataclass(frozen=True)
class CutSchedule(Schedule):
    """A table with movable ends: T steps, evenly spaced along the curve between the two.

    Parameters
    ----------
    log_snr_max: the log SNR at t = 1; None or infinite keeps the formula's clean end.
    log_snr_min: the log SNR at t = T, above the formula's; None keeps the noisy end.
    """

    log_snr_max: End | None = field(default=None, kw_only=True)
    log_snr_min: Number | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        settle_ends(self)

    def alpha_bar(self) -> Table:
        whole = self.uncut()
        if self.log_snr_max is None and self.log_snr_min is None:
            return whole
        log = whole.log()
        first, last = self._place(log, self.log_snr_max, 1), self._place(log, self.log_snr_min, self.num_timesteps)
        if not first < last:
            noisy = "the noisy end" if self.log_snr_min is None else f"log_snr_min = {self.log_snr_min}"
            raise ValueError(f"log_snr_max = {self.log_snr_max} must lie above {noisy}")
        t = torch.linspace(first, last, self.num_timesteps, dtype=torch.float64)
        t[-1] = last  # also for a single step
        before = t.long().clamp(max=self.num_timesteps - 1)
        cut = torch.lerp(log[before], log[before + 1], t - before).exp()
        return torch.cat([whole[:1], cut])

    @abstractmethod
    def uncut(self) -> Table:
        """ᾱ_t of the formula."""

    def _place(self, log_alpha_bar: Table, log_snr: Number | None, otherwise: int) -> float:
        """The t at which the curve has a log SNR."""
        if log_snr is None:
            return float(otherwise)
        last = float(log_alpha_bar[-1])
        end = last - math.log(-math.expm1(last))
        if log_snr < end - 1e-6:
            raise ValueError(f"cannot cut {type(self).__name__} at log SNR {log_snr}: it ends at {end:.2f}")
        return float(_time_at(log_alpha_bar, torch.tensor([log_snr], dtype=torch.float64)))


@dataclass(frozen=True)
class LinearSchedule(CutSchedule):
    """β_t rises linearly from β_start·1000/T to β_end·1000/T (Ho et al. 2020, section 4, for T = 1000).

    The factor 1000/T keeps ᾱ_T as in the paper when T changes; without it T = 200 would end with ᾱ_T = 0.13.
    It also implies β_T = 20/T with the paper's β_end, so T must be at least 21.
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
                f"which is not a variance; use num_timesteps ≥ {smallest} or another schedule (cosine works for every T)"
            )

    def uncut(self) -> Table:
        scale = 1000 / self.num_timesteps
        beta = torch.linspace(scale * self.beta_start, scale * self.beta_end, self.num_timesteps, dtype=torch.float64)
        return _cumulative(beta)


@dataclass(frozen=True)
class CosineSchedule(CutSchedule):
    """ᾱ_t = f(t)/f(0), f(t) = cos²((t/T + s)/(1 + s)·π/2), with β_t ≤ 0.999 (Nichol & Dhariwal 2021, eq. 17).

    The clip affects only the last β, where f(T) = 0. The offset s keeps β_1 from being too small: √β_1 is 5.3, 2.0, 0.8 and 0.4
    bins of 256 grey levels at T = 50, 200, 1000 and 4000.
    """

    s: float = 0.008
    max_beta: float = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.s >= 0 and 0 < self.max_beta < 1):
            raise ValueError(f"s = {self.s}, max_beta = {self.max_beta}: need s ≥ 0 and 0 < max_beta < 1")

    def uncut(self) -> Table:
        time = torch.arange(self.num_timesteps + 1, dtype=torch.float64) / self.num_timesteps
        f = torch.cos((time + self.s) / (1 + self.s) * math.pi / 2).square()
        return _cumulative(_beta_from_ratios(f, self.max_beta))


@dataclass(frozen=True)
class SigmoidSchedule(CutSchedule):
    """ᾱ_t = (σ(end/τ) − σ((start + (end − start)·t/T)/τ)) / (σ(end/τ) − σ(start/τ)), with β_t ≤ 0.999 (Chen 2023).

    σ is the logistic function. Compared with cosine it spends fewer steps at both ends of the chain.
    """

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0
    max_beta: float = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.start < self.end and self.tau > 0):
            raise ValueError(f"start = {self.start}, end = {self.end}, tau = {self.tau}: need start < end and tau > 0")

    def uncut(self) -> Table:
        time = torch.arange(self.num_timesteps + 1, dtype=torch.float64) / self.num_timesteps
        falling = torch.sigmoid(-(self.start + (self.end - self.start) * time) / self.tau)
        # σ(a) − σ(b) = σ(−b) − σ(−a), written with the decreasing side to avoid cancellation.
        return _cumulative(_beta_from_ratios(falling - falling[-1], self.max_beta))


@dataclass(frozen=True, repr=False)
class TableSchedule(Schedule):
    """ᾱ_t = ∏_{s≤t} (1 − β_s) for given β_1 … β_T, as in published checkpoints.

    Fewer than T numbers are taken as evenly spaced and interpolated linearly.

    So two numbers give a β_t that rises linearly, as in `LinearSchedule`, but without its factor 1000/T.

    Parameters
    ----------
    betas: 1 to T numbers, each above 0 and below 1; the first is β_1 and the last β_T. ValueError for others.
    """

    betas: Sequence[Number] = (1e-4, 0.02)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "betas", tuple(map(float, self.betas)))
        if not 1 <= len(self.betas) <= self.num_timesteps:
            raise ValueError(
                f"schedule.betas has {len(self.betas)} numbers: give 1 to num_timesteps={self.num_timesteps} of them"
            )
        wrong = [beta for beta in self.betas if not 0 < beta < 1]
        if wrong:
            raise ValueError(f"schedule.betas: {wrong[0]} must lie above 0 and below 1")

    def __repr__(self) -> str:
        """A short form of a long table: its ends and its sum."""
        shown = ", ".join(map(repr, self.betas))
        if len(self.betas) > _SHOWN:
            shown = f"{self.betas[0]!r}, …, {self.betas[-1]!r}; sum {sum(self.betas)!r}"
        return f"TableSchedule(num_timesteps={self.num_timesteps}, betas=({shown}))"

    def alpha_bar(self) -> Table:
        given = torch.tensor(self.betas, dtype=torch.float64)
        place = torch.linspace(0, len(given) - 1, self.num_timesteps, dtype=torch.float64)
        before = place.long().clamp(max=max(len(given) - 2, 0))
        after = (before + 1).clamp(max=len(given) - 1)
        beta = torch.lerp(given[before], given[after], place - before)
        return _cumulative(beta)


def settle_ends(schedule: Schedule) -> None:
    """The ends as plain numbers; None for those of the formula. ValueError for a value that is not a number."""
    for name in ("log_snr_max", "log_snr_min"):
        end = getattr(schedule, name)
        if end is not None and not (is_number(end) and end == end):
            raise ValueError(f"{name} = {end} must be a number")
        end = float(end) if isinstance(end, CleanEnd) else end
        object.__setattr__(schedule, name, None if end == math.inf else end)


def is_number(value: object) -> bool:
    """Whether it is a number; Python's True and False are excluded."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _beta_from_ratios(alpha_bar: Table, max_beta: float) -> Float64[Tensor, " T"]:
    """β_t = min(1 − ᾱ_t/ᾱ_{t−1}, max_beta), from ᾱ known up to a factor."""
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=max_beta)


def _cumulative(beta: Float64[Tensor, " T"]) -> Table:
    """ᾱ_t = ∏_{s≤t} (1 − β_s), with ᾱ_0 = 1."""
    return torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - beta, dim=0)])


def _time_at(log_alpha_bar: Table, log_snr: PerSample) -> PerSample:
    """The t at which the piecewise linear table has a log SNR; the last t below the last entry."""
    log = -torch.log1p(torch.exp(-log_snr))  # log ᾱ, as SNR = ᾱ/(1 − ᾱ)
    wanted = torch.maximum(log, log_alpha_bar[-1])
    after = torch.searchsorted(-log_alpha_bar, -wanted).clamp(1, len(log_alpha_bar) - 1)
    low, high = log_alpha_bar[after - 1], log_alpha_bar[after]
    return after - 1 + (low - wanted) / (low - high)
