"""The forward process as a chain of steps, t = 1 … K, with a table of α_t, σ_t, β_t and β̃_t.

A chain is a list of times of a schedule and, at each, the quantities in (1) to (3) of `forward` for s = t − 1. A chain over a
subset of the steps is the same kind of object: s is then the kept step before t (Nichol & Dhariwal 2021, eq. 19).
"""

from dataclasses import dataclass, fields
from functools import cached_property

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from .forward import ForwardProcess, Stride, Value, stride_between
from .given_schedules import AlphaBar, as_schedule
from .schedules import DeviceTable, Schedule
from .shapes import Number, PerSample, Steps


@dataclass(frozen=True)
class Row(Stride[Value]):
    """One row of a chain's table: step t, and the stride to the step before it."""

    time: Value  # on the clock of the schedule
    signal: Value  # α_t
    sigma: Value  # σ_t


class GaussianDiffusion(ForwardProcess):
    """The chain over the times of a schedule: t int64 (B,), t = 0 being clean data.

    Not a module and not on a device: `.to()` and `.half()` of a model cannot cast its table. Look-ups follow the device of t.
    Quantities undefined at t = 0 (β, the posterior, …) are NaN there; a t outside 0 … num_timesteps is an error.

    Attributes
    ----------
    num_timesteps: K, the steps of this chain (T before any respacing).
    times: (K,) on the clock of the schedule, int64 or float64.
    timesteps: times − 1, 0-based indices of the steps in the *original* chain. The network's input at t is `timesteps[t − 1]`, so a
        network trained on the full chain can be used with every chain over its times.
    """

    time_dtype = torch.int64

    def __init__(
        self, schedule: Schedule | AlphaBar, times: Int64[Tensor, "*b K"] | Float64[Tensor, "*b K"] | None = None
    ) -> None:
        """The chain over 1 … T, or over strictly increasing `times` in 1 … T; (B, K) times are one chain for each sample."""
        self.schedule = schedule = as_schedule(schedule)
        self.times = torch.arange(1, schedule.num_timesteps + 1) if times is None else times
        self.num_timesteps, self.timesteps = self.times.shape[-1], self.times - 1
        with torch.no_grad():
            self._table = DeviceTable(torch.stack(_columns(schedule, self.times), dim=-1))
            self._network_times = DeviceTable(schedule.network_time(self.times.flatten()).view_as(self.times))
        self._latest: tuple[Steps, int, Row[Tensor]] | None = None

    @cached_property
    def keys(self) -> list[int]:
        """The key of each step's noise: its original t, or, for real times, the number of the step."""
        real = self.times.is_floating_point()
        return list(range(1, self.num_timesteps + 1)) if real else self.times.tolist()

    @cached_property
    def prior_std(self) -> float:
        """The schedule's prior_std, scaled with the noise if this chain ends earlier."""
        end = self.schedule.num_timesteps
        if float(self.times[-1]) == end:
            return self.schedule.prior_std
        (sigma,) = self.schedule.sigma(torch.tensor([end], dtype=torch.float64)).tolist()
        return self.schedule.prior_std * self.numbers(self.num_timesteps).sigma / sigma

    def respace(self, kept: Int64[Tensor, " K"] | Float64[Tensor, " K"]) -> "GaussianDiffusion":
        """The chain over the steps `kept` ⊂ {1 … num_timesteps} of this chain, or over real times in [1, T].

        `kept` is strictly increasing. The new chain has its own β and β̃; marginals q(x_t|x_0) do not change (Nichol & Dhariwal
        2021, eq. 19).
        """
        real = kept.is_floating_point()
        last = self.schedule.num_timesteps if real else self.num_timesteps
        valid = len(kept) > 0 and bool(kept[0] >= 1) and bool(kept[-1] <= last) and bool((kept.diff() > 0).all())
        if not valid:
            raise ValueError(f"kept must be strictly increasing within 1 … {last}, got {kept.tolist()}")
        return GaussianDiffusion(self.schedule, kept if real else self.times[kept - 1])

    def pair(self, t: Steps) -> tuple[PerSample, PerSample]:
        """(α_t, σ_t); (1, 0) at t = 0."""
        row = self.row(t)
        return row.signal, row.sigma

    def stride(self, t: Steps, s: Steps | None = None) -> Stride[Tensor]:
        """None: the stride to the step before t, of the table, with log β̃_1 as in `log_beta_tilde`."""
        return self.row(t) if s is None else super().stride(t, s)

    # ---- the names of the papers -------------------------------------------------------------------------------------

    def alpha_bar(self, t: Steps) -> PerSample:
        """ᾱ_t = α_t²; ᾱ_0 = 1."""
        return self.signal(t).square()

    def beta(self, t: Steps) -> PerSample:
        """β_t = σ²_ts, which is 1 − ᾱ_t/ᾱ_s if ᾱ + σ² = 1, t in 1 … num_timesteps."""
        return self.row(t).beta

    def log_beta(self, t: Steps) -> PerSample:
        """log β_t."""
        return self.row(t).log_beta

    def beta_tilde(self, t: Steps) -> PerSample:
        """β̃_t = σ_s²/σ_t²·β_t, t in 1 … num_timesteps; β̃_1 = 0 since x_0 is then known."""
        return self.row(t).beta_tilde

    def log_beta_tilde(self, t: Steps) -> PerSample:
        """log β̃_t, where log β̃_1 = −∞ is replaced by log β̃_2 (by log β_1 in a chain of one step).

        This is also the choice of Improved DDPM and of DDPM's file for likelihoods (`diffusion_utils_2.py`); 1e-20, as in the
        other file, would make L_0 absurd.
        """
        return self.row(t).log_beta_tilde

    @property
    def has_unit_variance(self) -> bool:
        """Whether α_t² + σ_t² = 1, so that x_t has unit variance if x_0 has."""
        signal, sigma = self.pair(torch.arange(self.num_timesteps + 1))
        return bool((signal.square() + sigma.square() - 1).abs().max() < 1e-6)

    @property
    def first_std(self) -> float:
        return self.numbers(1).sigma / self.numbers(1).signal

    # ---- times -------------------------------------------------------------------------------------------------------

    def network_time(self, t: Steps) -> Tensor:
        """The network's input at t in 1 … num_timesteps: time − 1, or as the schedule defines it. t = 0 has no reverse step."""
        return self._look_up(self._network_times, t, first=1)

    def time(self, t: Steps) -> PerSample:
        """t on the clock of the original chain, which a respaced chain keeps."""
        return self.row(t).time

    def times_at(
        self, log_snr: Float64[Tensor, " K"], real: bool | None = None
    ) -> Int64[Tensor, " K"] | Float64[Tensor, " K"]:
        """The times between this chain's ends with these log SNRs: real ones, or the nearest of its steps.

        real=None: real, except for a schedule given as a table.
        """
        if self.schedule.is_real(real):
            return self.schedule.time_at(log_snr).detach().clamp(float(self.times[0]), float(self.times[-1]))
        steps = torch.arange(1, self.num_timesteps + 1, device=log_snr.device)
        return 1 + (self.log_snr(steps)[None, :] - log_snr[:, None]).abs().argmin(dim=1)

    # ---- the table ---------------------------------------------------------------------------------------------------

    def row(self, t: Steps) -> Row[Tensor]:
        """All quantities of step t, (B,) each; cached until another tensor of steps is looked up, or this one changes.

        Inference tensors have no version counter, so their rows are not cached; a compiler finds equal look-ups itself. TypeError
        unless t is a tensor.
        """
        if not isinstance(t, torch.Tensor):
            raise TypeError(
                f"t={t!r} must be an int64 tensor with the step of each sample, such as torch.full((B,), {t!r})"
            )
        if torch.compiler.is_compiling() or t.is_inference() or torch.is_inference_mode_enabled():
            return Row(*self._look_up(self._table, t, first=0).unbind(-1))
        latest = self._latest
        if latest is None or latest[0] is not t or latest[1] != t._version:
            latest = self._latest = t, t._version, Row(*self._look_up(self._table, t, first=0).unbind(-1))
        return latest[2]

    def numbers(self, t: int) -> Row[float]:
        """The row of step t as plain numbers, for samples that are all at one step."""
        return self._numbers[t]

    @cached_property
    def _numbers(self) -> list[Row[float]]:
        return [Row(*row) for row in self._table.values.tolist()]

    def copy_to(self, device: torch.device) -> None:
        """Copy the table to a device now; otherwise the first look-up there does."""
        self._table.on(device)
        self._network_times.on(device)

    def _look_up(self, table: DeviceTable, t: Steps, first: int) -> Tensor:
        """The entries of step t (B,) of a table that begins with step `first`."""
        if t.is_floating_point():
            raise ValueError("the steps of a chain are whole t; at real t ask its schedule")
        entries = table.on(t.device)
        try:
            if self.times.ndim > 1:
                if bool((t < first).any()):
                    raise IndexError("a negative index counts from the end")
                return entries[torch.arange(len(t)), t - first]
            return entries.index_select(0, t - first if first else t)
        except IndexError as error:  # on a CPU; on a GPU the device fails asynchronously
            raise ValueError(
                f"t = {t.tolist()} is not within {first} … {self.num_timesteps}, the steps of this chain"
            ) from error


def _columns(schedule: Schedule, times: Tensor) -> list[Tensor]:
    """The columns of the table, for t = 0 … K, in the order of a `Row`."""
    signal, sigma = (part.view_as(times) for part in schedule.pair(times.double().flatten()))
    signal, sigma = _after(1, signal), _after(0, sigma)
    stride = stride_between((signal[..., 1:], sigma[..., 1:]), (signal[..., :-1], sigma[..., :-1]))
    if not bool((stride.beta > 0).all()):
        t = int((stride.beta <= 0).nonzero()[0, -1]) + 1
        raise ValueError(f"{schedule}: log SNR does not decrease at step {t}, so the step is not Gaussian")
    # β̃_1 = 0, since x_0 is then known; its log is that of β̃_2 (see `log_beta_tilde`).
    log_beta_tilde = stride.log_beta_tilde
    second = log_beta_tilde[..., 1:2] if times.shape[-1] > 1 else stride.log_beta[..., :1]
    known = {**vars(stride), "log_beta_tilde": torch.cat([second, log_beta_tilde[..., 1:]], dim=-1)}
    columns = {name: _after(torch.nan, values) for name, values in known.items()}
    columns |= {"time": _after(0, times.double()), "signal": signal, "sigma": sigma}
    return [columns[column.name] for column in fields(Row)]


def _after(first: Number, rest: Tensor) -> Tensor:
    """`rest` with a number in front."""
    return torch.cat([torch.full_like(rest[..., :1], first), rest], dim=-1)
