"""Objectives: L_simple, L_hybrid, L_vlb and its limit L_∞, and the weights of the steps in L_simple.

    L_simple = E_t w(t)·‖target − output‖²/D          mean square a dimension         Ho et al. 2020, eq. 14
    L_vlb    = E_t T·L_{t−1}                          the bound, a *sum* over t       eq. 5, in bits per dimension
    L_hybrid = L_simple + 0.001·L_vlb                 Nichol & Dhariwal 2021, eq. 16
    L_∞      = ∫ −½·dSNR/dt·‖x_0 − x̂_0‖² dt           L_vlb of infinitely many steps    Kingma et al. 2021, VDM, eq. 18

Objectives use the network's output before clipping of x̂_0. L_simple is given a chain or a schedule, with its t; L_vlb is a sum
over the steps of a chain; L_∞ is an integral over the real t of a schedule.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import torch

from .bound import bits_per_dim, bound_term, in_bits
from .chain import GaussianDiffusion
from .decoders import GAUSSIAN, LEVELS, Decoder
from .forward import ForwardProcess
from .gaussian import Gaussian
from .predictions import Prediction
from .reverse import ReverseProcess
from .schedules import Schedule
from .shapes import Conditions, Images, Number, PerSample, Steps, Times

Terms = dict[str, PerSample]
Known = Images | None  # 1 where x_0 is known, 0 where it is missing (x_0 is then arbitrary); None: all known
Forward = TypeVar("Forward", bound=ForwardProcess, contravariant=True)


@dataclass(frozen=True)
class Weighting(ABC):
    """w(t) of L_simple."""

    @abstractmethod
    def weight(self, process: ForwardProcess, prediction: Prediction, t: Times) -> PerSample:
        """The factor on the squared error of the network's target."""


@dataclass(frozen=True)
class Unweighted(Weighting):
    """w(t) = 1: L_simple as published."""

    def weight(self, process: ForwardProcess, prediction: Prediction, t: Times) -> PerSample:
        return torch.ones_like(process.snr(t))


@dataclass(frozen=True)
class WeightedStart(Weighting):
    """A weighting defined for the squared error of x̂_0, and therefore independent of what the network predicts."""

    @abstractmethod
    def of_x_0(self, process: ForwardProcess, t: Times) -> PerSample:
        """The factor on ‖x_0 − x̂_0‖²/D; times σ²/α² it is the factor on the error of ε̂."""

    def weight(self, process: ForwardProcess, prediction: Prediction, t: Times) -> PerSample:
        return self.of_x_0(process, t) / prediction.error_scale(process, t)


@dataclass(frozen=True)
class MinSNR(WeightedStart):
    """Weight min(SNR(t), γ) on the squared error of x̂_0 (Hang et al. 2023)."""

    gamma: float = 5.0

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise ValueError(f"weighting.gamma={self.gamma} must be above 0")

    def of_x_0(self, process: ForwardProcess, t: Times) -> PerSample:
        return process.snr(t).clamp(max=self.gamma)


@dataclass(frozen=True)
class SigmoidWeighting(WeightedStart):
    """Weight sigmoid(b − log SNR(t)) on the squared error of ε̂ (Kingma & Gao 2023).

    Their loss is an integral over log SNR. It equals this one, up to a factor, if t is uniform and log SNR linear in t
    (schedule=log_snr); with other schedules each log SNR is also weighted by the time spent near it.
    """

    bias: Number = 2.0

    def of_x_0(self, process: ForwardProcess, t: Times) -> PerSample:
        log_snr = process.log_snr(t)
        return log_snr.exp() * (self.bias - log_snr).sigmoid()


@dataclass(frozen=True)
class ErrorOf(WeightedStart):
    """Weight 1 on the squared error of the quantity that `prediction` predicts, whatever the network predicts.

    For PredictEDM(s) this is EDM's λ(σ) = (σ² + s²)/(σ·s)² on the error of x̂_0, stated for α = 1 (Karras et al. 2022, table 1).
    """

    prediction: Prediction

    def of_x_0(self, process: ForwardProcess, t: Times) -> PerSample:
        return self.prediction.error_scale(process, t)


@dataclass(frozen=True)
class Objective(ABC, Generic[Forward]):
    """(process, reverse, x_0, t, ε, y) -> {"loss": (B,), …}, to be averaged with the weights of the timestep sampler.

    `reads_variance`: Σ_θ enters the loss. `trains_variance`: a learned Σ_θ receives a gradient. `over`: the forward process that it
    requires; over a chain or a schedule the loss is a mean over uniform t, over either it may be any. `term_names`: the keys of
    the terms.
    """

    over: ClassVar[type] = ForwardProcess
    trains_variance: ClassVar[bool]
    term_names: ClassVar[tuple[str, ...]]

    @property
    @abstractmethod
    def reads_variance(self) -> bool: ...

    @abstractmethod
    def __call__(
        self,
        process: Forward,
        reverse: ReverseProcess,
        x_0: Images,
        t: Times,
        eps: Images,
        y: Conditions = None,
        known: Known = None,
    ) -> Terms:
        """ "loss" and its terms, float64 (B,): "mse" (per dimension, unweighted), "vlb" (bits/dim, already × T).

        Dimensions where `known` is 0 add nothing to any term; terms are divided by the number of all dimensions.
        """


@dataclass(frozen=True)
class Simple(Objective[ForwardProcess]):
    """L_simple (Ho et al. 2020, eq. 14)."""

    weighting: Weighting = Unweighted()
    reads_variance = False
    trains_variance = False
    term_names = ("mse", "loss")

    def __call__(
        self,
        process: ForwardProcess,
        reverse: ReverseProcess,
        x_0: Images,
        t: Times,
        eps: Images,
        y: Conditions = None,
        known: Known = None,
    ) -> Terms:
        output, _ = reverse.evaluate(process, process.q_sample(x_0, t, eps), t, y)
        mse = _mean_square_error(process, reverse, output, x_0, t, eps, known)
        return {"mse": mse, "loss": self.weighting.weight(process, reverse.prediction, t) * mse}


@dataclass(frozen=True)
class Hybrid(Objective[GaussianDiffusion]):
    """L_hybrid = L_simple + λ·L_vlb, where L_vlb trains Σ_θ only: μ_θ is held fixed in it (Nichol & Dhariwal 2021, eq. 16).

    Parameters
    ----------
    num_levels: grey levels of the data (L_0); None for continuous data.
    vlb_weight: λ.
    decoder: p(x_0|x_1) of L_0.
    """

    num_levels: int | None = 256
    vlb_weight: float = 0.001
    weighting: Weighting = Unweighted()
    decoder: Decoder = GAUSSIAN
    over = GaussianDiffusion
    reads_variance = True
    trains_variance = True
    term_names = ("mse", "vlb", "loss")

    def __post_init__(self) -> None:
        if not self.vlb_weight > 0:
            raise ValueError(f"objective.vlb_weight={self.vlb_weight} must be above 0")

    def __call__(
        self,
        process: GaussianDiffusion,
        reverse: ReverseProcess,
        x_0: Images,
        t: Steps,
        eps: Images,
        y: Conditions = None,
        known: Known = None,
    ) -> Terms:
        x_t = process.q_sample(x_0, t, eps)
        step = reverse.without_clipping()(process, x_t, t, y)
        mse = _mean_square_error(process, reverse, step.output, x_0, t, eps, known)
        held = Gaussian(step.distribution.mean.detach(), step.distribution.log_variance)
        vlb = process.num_timesteps * bound_term(process, held, x_0, x_t, t, self.num_levels, self.decoder, known)
        loss = self.weighting.weight(process, reverse.prediction, t) * mse + self.vlb_weight * vlb
        return {"mse": mse, "vlb": vlb, "loss": loss}


@dataclass(frozen=True)
class VariationalBound(Objective[GaussianDiffusion]):
    """L_vlb, training μ_θ and Σ_θ: T·L_{t−1}, so that its mean over uniform t is the bound without L_T (Ho et al. 2020, eq. 5)."""

    num_levels: int | None = 256
    decoder: Decoder = GAUSSIAN
    over = GaussianDiffusion
    reads_variance = True
    trains_variance = True
    term_names = ("mse", "vlb", "loss")

    def __call__(
        self,
        process: GaussianDiffusion,
        reverse: ReverseProcess,
        x_0: Images,
        t: Steps,
        eps: Images,
        y: Conditions = None,
        known: Known = None,
    ) -> Terms:
        x_t = process.q_sample(x_0, t, eps)
        step = reverse.without_clipping()(process, x_t, t, y)
        term = bound_term(process, step.distribution, x_0, x_t, t, self.num_levels, self.decoder, known)
        vlb = process.num_timesteps * term
        mse = _mean_square_error(process, reverse, step.output, x_0, t, eps, known)
        return {"mse": mse.detach(), "vlb": vlb, "loss": vlb}


@dataclass(frozen=True)
class ContinuousBound(Objective[Schedule]):
    """L_∞ + L_0 + L_T: its mean over uniform real t in [1, T] is the bound of infinitely many steps.

        L_∞ = (T − 1)·E_t −½·(d log SNR/dt)·SNR·‖x_0 − x̂_0‖²

    (Kingma et al. 2021, VDM, eq. 18; SNR·‖x_0 − x̂_0‖² = ‖ε − ε̂‖², whatever the network predicts.) By t → SNR it depends on the
    schedule through its two ends alone (section 5.1). With infinitely many steps every fixed variance is optimal, so Σ_θ enters
    L_0 only. L_0 is taken at t = 1 with the same ε: by LevelDecoder without the network; GaussianDecoder evaluates it again.
    """

    num_levels: int | None = 256
    decoder: Decoder = LEVELS
    over = Schedule
    trains_variance = False
    term_names = ("mse", "vlb", "loss")

    @property
    def reads_variance(self) -> bool:
        return self.decoder.reads_reverse

    def __call__(
        self,
        process: Schedule,
        reverse: ReverseProcess,
        x_0: Images,
        t: PerSample,
        eps: Images,
        y: Conditions = None,
        known: Known = None,
    ) -> Terms:
        output, _ = reverse.evaluate(process, process.q_sample(x_0, t, eps), t, y)
        mse = _mean_square_error(process, reverse, output, x_0, t, eps, known)
        of_x_0 = -0.5 * process.log_snr_slope(t) * process.snr(t)
        steps = in_bits((process.num_timesteps - 1) * of_x_0 / reverse.prediction.error_scale(process, t) * mse)
        ends = self._last_step(process, reverse.without_clipping(), x_0, eps, y, known)
        ends = ends + bits_per_dim(process.prior_kl(x_0), known)
        vlb = steps + ends
        return {"mse": mse.detach(), "vlb": vlb, "loss": vlb + process.own_loss(t, steps)}

    def _last_step(
        self, process: Schedule, reverse: ReverseProcess, x_0: Images, eps: Images, y: Conditions, known: Known
    ) -> PerSample:
        """L_0, (B,) bits per dimension."""
        x_1, last_step = process.q_sample(x_0, process.full(1, x_0), eps), None
        if self.decoder.reads_reverse:
            chain = GaussianDiffusion(process, torch.arange(1, min(process.num_timesteps, 2) + 1))
            last_step = reverse(chain, x_1, chain.full(1, x_0), y).distribution
        return -bits_per_dim(self.decoder.log_prob(process, last_step, x_0, x_1, self.num_levels), known)


def _mean_square_error(
    process: ForwardProcess,
    reverse: ReverseProcess,
    output: Images,
    x_0: Images,
    t: Times,
    eps: Images,
    known: Known,
) -> PerSample:
    """‖target − output‖²/D, (B,), over known values."""
    error = reverse.prediction.target(process, x_0, eps, t) - output
    return (error if known is None else error * known).square().flatten(1).mean(dim=1).double()
