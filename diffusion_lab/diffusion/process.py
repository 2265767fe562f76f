"""What is a noisy image, given a clean one? The forward process, a pair of functions, signal and noise.

    q(x_t|x_0)      = N(α_t·x_0, σ_t²·I)                                                                    (1)
    q(x_t|x_s)      = N(α_ts·x_s, σ²_ts·I),   α_ts = α_t/α_s,   σ²_ts = σ_t² − α_ts²·σ_s²,   s < t           (2)
    q(x_s|x_t, x_0) = N((α_ts·σ_s²·x_t + α_s·σ²_ts·x_0)/σ_t², σ_s²·σ²_ts/σ_t²·I)                             (3)

(Kingma et al. 2021, VDM, appendix A.) With α_t = √ᾱ_t, σ_t = √(1 − ᾱ_t) and s = t − 1 this is DDPM: σ²_ts is its β_t, (1) to (3)
are equations 4, 2 and 6 of Ho et al. 2020, and mean and variance in (3) are the μ̃_t and β̃_t of equation 7.

A chain is a list of times at which the pair is known, so a chain over some of the steps is the same object as the chain over all of
them: s is then the kept step before t (Nichol & Dhariwal 2021, eq. 19).
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from .gaussian import Gaussian
from .schedules import Schedule
from .shapes import Broadcast, Images, Number, PerSample, Steps, Times
from .waiting import is_on_host

_CPU = torch.device("cpu")
Value = TypeVar("Value", Tensor, float)


@dataclass(frozen=True)
class Row(Generic[Value]):
    """What is known about the step t of a chain and the step s before it: a row of its table, of each sample or of all alike."""

    time: Value  # on the clock of the schedule
    network_time: Value  # what the network sees
    signal: Value  # α_t
    noise: Value  # σ_t
    alpha: Value  # α_ts
    beta: Value  # σ²_ts
    log_beta: Value
    beta_tilde: Value  # the variance of (3)
    log_beta_tilde: Value
    of_x_t: Value  # the mean of (3) is of_x_t·x_t + of_x_0·x_0
    of_x_0: Value


def per_sample(values: PerSample, like: Images) -> Broadcast:
    """One float64 value a sample -> (B, 1, …, 1) in the dtype of `like`: cast last, after all float64 arithmetic."""
    return values.reshape(-1, *[1] * (like.ndim - 1)).to(like.dtype)


class GaussianDiffusion:
    """The forward chain of a schedule, or of some of its times.

    An int64 t counts the steps of this chain, t = 0 being clean data; a float64 t is a time on the clock of the schedule, where the
    schedule takes it. Not a module and not on a device: `.to()` and `.half()` on a model cannot cast its table. Look-ups follow the
    device of t, and no t wraps around to another step: what is not known at t = 0 (β, the posterior, …) is NaN there, and anything
    below 0 or above num_timesteps is an error.

    Attributes
    ----------
    num_timesteps: K, the steps of this chain (T before any respacing).
    timesteps: (K,), times − 1: 0-based indices of the steps in the *original* chain, int64, or float64 where times are real. The
        network sees `timesteps[t − 1]` at t, so a network trained on the full chain serves every chain over its times.
    prior_std: the standard deviation of p(x_T).
    shared_t: the step of all samples, where the host knows it (see `at`).
    """

    def __init__(self, schedule: Schedule, times: Int64[Tensor, " K"] | Float64[Tensor, " K"] | None = None) -> None:
        """The chain of `schedule` at its integer t, or at strictly increasing `times` in 1 … T."""
        self.schedule = schedule
        self._times = torch.arange(1, schedule.num_timesteps + 1) if times is None else times
        self.num_timesteps, self.timesteps = len(self._times), self._times - 1
        self._tables: dict[torch.device, Tensor] = {}
        if schedule.trained is None:  # a trained schedule may be on a GPU, and its table is not needed for real t
            self._table(_CPU)
        self.prior_std = self._prior_std()
        self._here: tuple[Steps, Row[Tensor]] | None = None
        self.shared_t: int | None = None

    def _prior_std(self) -> float:
        """The schedule's; scaled with the noise where this chain ends before it."""
        end = self.schedule.num_timesteps
        if float(self._times[-1]) == end:
            return self.schedule.prior_std
        return (
            self.schedule.prior_std
            * self.numbers(self.num_timesteps).noise
            / float(self.schedule.pair(torch.tensor([end]))[1].detach())
        )

    def respace(self, kept: Int64[Tensor, " K"] | Float64[Tensor, " K"]) -> "GaussianDiffusion":
        """The chain over the steps `kept` ⊂ {1 … num_timesteps} of this chain, or over real times in [1, T].

        `kept` is strictly increasing. The new chain has β and β̃ of its own; marginals q(x_t|x_0) do not change (Nichol & Dhariwal
        2021, eq. 19).
        """
        real = kept.is_floating_point()
        last = self.schedule.num_timesteps if real else self.num_timesteps
        valid = len(kept) > 0 and bool(kept[0] >= 1) and bool(kept[-1] <= last) and bool((kept.diff() > 0).all())
        if not valid:
            raise ValueError(f"kept must be strictly increasing within 1 … {last}, got {kept.tolist()}")
        return GaussianDiffusion(self.schedule, kept if real else self._times[kept - 1])

    # ---- distributions: (1) to (3) ------------------------------------------------------------------------------------

    def q_step(self, x_prev: Images, t: Steps, eps: Images) -> Images:
        """x_t = α_ts·x_s + σ_ts·ε ~ q(x_t|x_s), equation (2), s the step before t."""
        row = self._row(t)
        return per_sample(row.alpha, x_prev) * x_prev + per_sample(row.beta.sqrt(), x_prev) * eps

    def q_sample(self, x_0: Images, t: Times, eps: Images) -> Images:
        """x_t = α_t·x_0 + σ_t·ε ~ q(x_t|x_0), equation (1)."""
        signal, noise = self.pair(t)
        return per_sample(signal, x_0) * x_0 + per_sample(noise, x_0) * eps

    def q_marginal(self, x_0: Images, t: Times) -> Gaussian:
        """q(x_t|x_0), equation (1)."""
        signal, noise = self.pair(t)
        return Gaussian(per_sample(signal, x_0) * x_0, per_sample(2 * noise.log(), x_0))

    def prior_kl(self, x_0: Images) -> Images:
        """KL(q(x_T|x_0) ‖ p(x_T)), p(x_T) = N(0, prior_std²·I), in nats per dimension: L_T."""
        last = self.q_marginal(x_0, self.step(self.num_timesteps, x_0))
        log_variance = 2 * torch.full_like(last.log_variance, self.prior_std).log()
        return last.kl(Gaussian(torch.zeros_like(last.mean), log_variance))

    def q_posterior(self, x_0: Images, x_t: Images, t: Times, s: Times | None = None) -> Gaussian:
        """q(x_s|x_t, x_0), equation (3), for any s < t; None: the step before t, with log β̃_1 as in `log_beta_tilde`."""
        if s is None:
            row = self._row(t)
            of_x_t, of_x_0, log_variance = row.of_x_t, row.of_x_0, row.log_beta_tilde
        else:
            _, _, variance, of_x_t, of_x_0 = _between(*self.pair(t), *self.pair(s))
            log_variance = variance.log()
        mean = per_sample(of_x_0, x_0) * x_0 + per_sample(of_x_t, x_0) * x_t
        return Gaussian(mean, per_sample(log_variance, x_0))

    # ---- α_t, σ_t and the names of the papers ------------------------------------------------------------------------

    def pair(self, t: Times) -> tuple[PerSample, PerSample]:
        """(α_t, σ_t)."""
        if t.is_floating_point():
            return self.schedule.pair(t)
        row = self._row(t)
        return row.signal, row.noise

    def signal(self, t: Times) -> PerSample:
        """α_t; α_0 = 1."""
        return self.pair(t)[0]

    def noise(self, t: Times) -> PerSample:
        """σ_t; σ_0 = 0."""
        return self.pair(t)[1]

    def alpha_bar(self, t: Times) -> PerSample:
        """ᾱ_t = α_t²; ᾱ_0 = 1."""
        return self.signal(t).square()

    def snr(self, t: Times) -> PerSample:
        """α_t²/σ_t², the signal-to-noise ratio."""
        signal, noise = self.pair(t)
        return (signal / noise).square()

    def log_snr(self, t: Times) -> PerSample:
        """2·log(α_t/σ_t)."""
        return self.snr(t).log()

    def log_snr_slope(self, t: Times) -> PerSample:
        """d log SNR/dt < 0 at real t."""
        trained = self.schedule.trained is not None and torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            t = t.clone().requires_grad_()
            return torch.autograd.grad(self.log_snr(t).sum(), t, create_graph=trained)[0]

    def beta(self, t: Steps) -> PerSample:
        """β_t = σ²_ts, which is 1 − ᾱ_t/ᾱ_s where ᾱ + σ² = 1, t in 1 … num_timesteps."""
        return self._row(t).beta

    def log_beta(self, t: Steps) -> PerSample:
        """log β_t."""
        return self._row(t).log_beta

    def beta_tilde(self, t: Steps) -> PerSample:
        """β̃_t = σ_s²/σ_t²·β_t, t in 1 … num_timesteps; β̃_1 = 0 since x_0 is then known."""
        return self._row(t).beta_tilde

    def log_beta_tilde(self, t: Steps) -> PerSample:
        """log β̃_t, where log β̃_1 = −∞ is replaced by log β̃_2 (by log β_1 in a chain of one step).

        So do Improved DDPM and the one of DDPM's two files that states likelihoods (`diffusion_utils_2.py`); 1e-20 in its place, as
        in the other, would make L_0 absurd.
        """
        return self._row(t).log_beta_tilde

    @property
    def has_unit_variance(self) -> bool:
        """Whether α_t² + σ_t² = 1, so that x_t has the variance of x_0 where that is 1."""
        rows = Row(*self._table(_CPU).unbind(1))
        return bool((rows.signal.square() + rows.noise.square() - 1).abs().max() < 1e-6)

    # ---- times -------------------------------------------------------------------------------------------------------

    def network_time(self, t: Times) -> Times:
        """What the network sees at t: time − 1, the 0-based index of the step in the original chain, or what the schedule defines.

        t = 0 has no reverse step: on a CPU this is a ValueError; on a GPU, where nothing here synchronises, the posterior is NaN.
        """
        if t.is_floating_point():
            return self.schedule.network_time(t)
        if is_on_host(t) and bool((t == 0).any()):
            raise ValueError(f"t = 0 is clean data and has no reverse step: t must lie in 1 … {self.num_timesteps}")
        network_time = self._row(t).network_time
        return network_time if self.schedule.trained is not None else network_time.to(self.timesteps.dtype)

    def time(self, t: Times) -> PerSample:
        """t on the clock of the original chain, which a respaced chain keeps."""
        return t if t.is_floating_point() else self._row(t).time

    def times_at(self, log_snr: Float64[Tensor, " K"]) -> Int64[Tensor, " K"] | Float64[Tensor, " K"]:
        """The times between this chain's ends with these log SNRs; where t is whole, the steps that come nearest."""
        if self.schedule.takes_real_t:
            return self.schedule.time_at(log_snr).detach().clamp(float(self._times[0]), float(self._times[-1]))
        steps = torch.arange(1, self.num_timesteps + 1, device=log_snr.device)
        return 1 + (self.log_snr(steps)[None, :] - log_snr[:, None]).abs().argmin(dim=1)

    def step(self, k: int, like: Images) -> Times:
        """Step k of this chain for each sample; as a real time where the schedule has those, so a trained one gets a gradient."""
        t = float(self._times[k - 1]) if self.schedule.takes_real_t else k
        return torch.full((len(like),), t, dtype=None if isinstance(t, int) else torch.float64, device=like.device)

    # ---- the table, computed once and looked up once a step ----------------------------------------------------------

    @torch.no_grad()
    def _columns(self) -> list[Tensor]:
        """Of the table, for t = 0 … K."""
        pair = self.schedule.pair(self._times)
        signal, noise = _after(1, pair[0]), _after(0, pair[1])
        alpha, beta, beta_tilde, of_x_t, of_x_0 = _between(
            signal, noise, _after(torch.nan, signal[:-1]), _after(torch.nan, noise[:-1])
        )
        falls = beta[1:] > 0
        if not bool(falls.all()):
            t = int(falls.logical_not().nonzero()[0]) + 1
            raise ValueError(f"{self.schedule}: log SNR does not decrease at step {t}, so the step is not Gaussian")
        # β̃_1 = 0, since x_0 is then known; its log is that of β̃_2 (see `log_beta_tilde`).
        first = beta_tilde[2] if self.num_timesteps > 1 else beta[1]
        log_beta_tilde = torch.cat([beta_tilde[:1], first[None], beta_tilde[2:]]).log()
        network_time = _after(-1, self.schedule.network_time(self._times.double()))
        time = _after(0, self._times.double())
        of_steps = (alpha, beta, beta.log(), beta_tilde, log_beta_tilde, of_x_t, of_x_0)
        return [time, network_time, signal, noise, *of_steps]

    def at(self, t: Times, shared_t: int | None = None) -> "GaussianDiffusion":
        """This process with its values at t looked up once: for the same tensor they are not read again. A real t has no table.

        shared_t: the step of all samples as a plain number, for callers that branch on it, because t may be on a GPU.
        """
        if t.is_floating_point() or (self._here is not None and self._here[0] is t):
            return self
        here = object.__new__(type(self))
        here.__dict__.update(self.__dict__, _here=(t, self._row(t)), shared_t=shared_t)
        return here

    def _row(self, t: Steps) -> Row[Tensor]:
        if self._here is not None and self._here[0] is t:
            return self._here[1]
        try:
            return Row(*self._table(t.device).index_select(0, t).unbind(1))
        except IndexError as error:  # on a CPU; a GPU fails on the device, without being waited for
            raise ValueError(
                f"t = {t.tolist()} is not within 0 … {self.num_timesteps}, the steps of this chain"
            ) from error

    def numbers(self, t: int) -> Row[float]:
        """The row of step t as plain numbers, for those that treat all samples alike."""
        return Row(*self._table(_CPU)[t].tolist())

    def _table(self, device: torch.device) -> Tensor:
        """(K + 1, columns of a `Row`), brought to a device once."""
        if device not in self._tables:
            self._tables[device] = torch.stack(self._columns(), 1) if device == _CPU else self._table(_CPU).to(device)
        return self._tables[device]


def _between(signal: Tensor, noise: Tensor, signal_s: Tensor, noise_s: Tensor) -> tuple[Tensor, ...]:
    """(α_ts, σ²_ts, posterior variance, of_x_t, of_x_0) of (2) and (3)."""
    alpha = signal / signal_s
    variance = noise.square() - (alpha * noise_s).square()
    share = (noise_s / noise).square()
    return alpha, variance, share * variance, alpha * share, signal_s * variance / noise.square()


def _after(first: Number, rest: Tensor) -> Tensor:
    """rest with a number before it."""
    return torch.cat([torch.tensor([first], dtype=torch.float64), rest])
