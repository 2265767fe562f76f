"""Schedules with a formula for every real t in [1, T]: linear log SNR (VDM), a straight path from data to noise (rectified
flow), and growing noise with constant signal (EDM).
"""

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch

from .schedules import End, Schedule, Table, settle_ends
from .shapes import Number, PerSample, Times

_BISECTIONS = 60  # halvings that find a time to the last bit of float64


@dataclass(frozen=True)
class RealSchedule(Schedule):
    """α_t and σ_t for every real t in [1, T]."""

    tabulated = False

    @abstractmethod
    def pair(self, t: Times) -> tuple[PerSample, PerSample]: ...

    def alpha_bar(self) -> Table:
        """α_t² for t = 0 … T: the ᾱ_t of DDPM where α_t² + σ_t² = 1."""
        signal, _ = self.pair(torch.arange(1, self.num_timesteps + 1))
        return torch.cat([torch.ones_like(signal[:1]), signal.square()])

    def time_at(self, log_snr: PerSample) -> PerSample:
        """By bisection of [1, T]."""
        low, high = torch.ones_like(log_snr), torch.full_like(log_snr, float(self.num_timesteps))
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            noisier = self.log_snr(middle) < log_snr
            low, high = torch.where(noisier, low, middle), torch.where(noisier, middle, high)
        return high

    def _between(self, t: Times, first: Number, last: Number) -> PerSample:
        """The straight line from `first` at t = 1 to `last` at t = T; `last` if T = 1."""
        return last + (first - last) * (self.num_timesteps - t.double()) / max(self.num_timesteps - 1, 1)

    def _where(self, value: PerSample, first: Number, last: Number) -> PerSample:
        """The t at which that line has a value."""
        return self.num_timesteps - (value - last) / (first - last) * (self.num_timesteps - 1)


@dataclass(frozen=True)
class LogSNRSchedule(RealSchedule):
    """log SNR falls linearly from log_snr_max at t = 1 to log_snr_min at t = T, α_t² + σ_t² = 1 (Kingma et al. 2021, VDM).

    The defaults are the initial values of VDM's learned ends.
    """

    log_snr_max: End = 13.3
    log_snr_min: Number = -5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        settle_ends(self)
        _check_falls(self.log_snr_max, self.log_snr_min)
        if self.log_snr_max is None:
            raise ValueError("log_snr_max must be a number for a linear log SNR; use log_snr_max=13.3")

    def pair(self, t: Times) -> tuple[PerSample, PerSample]:
        return of_log_snr(self._between(t, self.log_snr_max, self.log_snr_min))

    def time_at(self, log_snr: PerSample) -> PerSample:
        return self._where(log_snr, self.log_snr_max, self.log_snr_min)


@dataclass(frozen=True)
class RectifiedSchedule(RealSchedule):
    """α_t = 1 − u, σ_t = u: the straight path from data to noise (Liu et al. 2023; Lipman et al. 2023), u linear in t.

    u = 0 at t = 0, or log SNR = log_snr_max at t = 1; at t = T log SNR = log_snr_min, because it is undefined at u = 1.
    """

    log_snr_max: End | None = None
    log_snr_min: Number = -10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        settle_ends(self)
        _check_falls(self.log_snr_max, self.log_snr_min)

    def pair(self, t: Times) -> tuple[PerSample, PerSample]:
        u = self._between(t, *self._ends)
        return 1 - u, u

    def time_at(self, log_snr: PerSample) -> PerSample:
        return self._where((-log_snr / 2).sigmoid(), *self._ends)

    @property
    def _ends(self) -> tuple[float, float]:
        """u at t = 1 and t = T: log SNR = 2·log((1 − u)/u)."""
        last = 1 / (1 + math.exp(self.log_snr_min / 2))
        return last / self.num_timesteps if self.log_snr_max is None else 1 / (1 + math.exp(self.log_snr_max / 2)), last


@dataclass(frozen=True)
class EDMSchedule(RealSchedule):
    """α_t = 1, σ_t^{1/ρ} linear in t from σ_min at t = 1 to σ_max at t = T (Karras et al. 2022, EDM, eq. 5 and table 1).

    The signal is constant, so sampling starts from noise of standard deviation σ_max.
    """

    sigma_min: Number = 0.002
    sigma_max: Number = 80.0
    rho: Number = 7.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.sigma_min < self.sigma_max < math.inf and self.rho > 0):
            raise ValueError(
                f"sigma_min = {self.sigma_min}, sigma_max = {self.sigma_max}, rho = {self.rho}: "
                "need 0 < sigma_min < sigma_max and rho > 0"
            )

    def pair(self, t: Times) -> tuple[PerSample, PerSample]:
        sigma = self._between(t, *self._roots) ** self.rho
        return torch.ones_like(sigma), sigma

    def time_at(self, log_snr: PerSample) -> PerSample:
        return self._where((-log_snr / (2 * self.rho)).exp(), *self._roots)

    @property
    def _roots(self) -> tuple[float, float]:
        """σ^{1/ρ} at t = 1 and t = T."""
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)

    @property
    def prior_std(self) -> float:
        return float(self.sigma_max)


def of_log_snr(log_snr: PerSample) -> tuple[PerSample, PerSample]:
    """(α, σ) with α² + σ² = 1."""
    return log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()


def _check_falls(first: Number | None, last: Number) -> None:
    first = math.inf if first is None else first
    if not -math.inf < last < first:
        raise ValueError(f"log_snr_max = {first} and log_snr_min = {last}: choose log_snr_max above log_snr_min")
