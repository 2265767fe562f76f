"""Objectives: L_simple, L_hybrid, L_vlb and its limit L_∞. (The w(t) of L_simple are in `weightings`; flow maps in
`flow_map_objective`.)

    L_simple = E_t w(t)·‖target − output‖²/D          mean square a dimension         Ho et al. 2020, eq. 14
    L_vlb    = E_t T·L_{t−1}                          the bound, a *sum* over t       eq. 5, in bits per dimension
    L_hybrid = L_simple + 0.001·L_vlb                 Nichol & Dhariwal 2021, eq. 16
    L_∞      = ∫ −½·dSNR/dt·‖x_0 − x̂_0‖² dt           L_vlb of infinitely many steps    Kingma et al. 2021, VDM, eq. 18

Objectives use the network's output before clipping of x̂_0. L_simple is given a chain or a schedule, with its t; L_vlb is a sum
over the steps of a chain; L_∞ is an integral over the real t of a schedule.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from .bound import bits_per_dim, bound_term, in_bits
from .chain import GaussianDiffusion
from .decoders import GAUSSIAN, LEVELS, Decoder
from .forward import ForwardProcess
from .gaussian import Gaussian
from .reverse import ReverseProcess
from .schedules import Schedule
from .shapes import Conditions, Images, Number, PerSample, Steps, Times
from .weightings import UNWEIGHTED, Weighting

Terms = dict[str, PerSample]
Known = Images | None  # 1 where x_0 is known, 0 where it is missing (x_0 is then arbitrary); None: all known
Forward = TypeVar("Forward", bound=ForwardProcess, contravariant=True)


class Rows(NamedTuple):
    """The rows of a batch where s < t, int64 (K,), and those where s = t, int64 (B − K,)."""

    apart: Tensor
    together: Tensor


class Pairs(NamedTuple):
    """t, float64 (B,), and s of the rows `apart`, float64 (K,)."""

    t: PerSample
    s: PerSample


@dataclass(frozen=True)
class Objective(ABC, Generic[Forward]):
    """(process, reverse, x_0, t, ε, y) -> {"loss": (B,), …}, to be averaged with the weights of the timestep sampler.

    `reads_variance`: Σ_θ enters the loss. `trains_variance`: a learned Σ_θ receives a gradient. `over`: the forward process that it
    requires; over a chain or a schedule the loss is a mean over uniform t, over either it may be any. `two_times`: it trains a
    network of two times, and is called with the end s of steps from t too (`FlowMap`). `term_names`: the keys of the terms.
    """

    over: ClassVar[type] = ForwardProcess
    two_times: ClassVar[bool] = False
    trains_variance: ClassVar[bool]
    term_names: ClassVar[tuple[str, ...]]

    @property
    @abstractmethod
    def reads_variance(self) -> bool: ...

    @property
    def evaluations(self) -> Number:
        """Evaluations of the network per image in a training step, the backward pass counted as two."""
        return 3

    @property
    def guides(self) -> bool:
        """Whether it trains on velocities that are guided by the conditions."""
        return False

    @property
    def needs_conditions(self) -> bool:
        """Whether its velocities exist only with the conditions."""
        return False

    @property
    def differentiates_a_jvp(self) -> bool:
        """Whether its gradient passes through a forward derivative of the network."""
        return False

    @property
    def needs_null(self) -> bool:
        """Whether it evaluates the trained network without its conditions."""
        return False

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

    def rows(self, numbers: Tensor) -> Rows:
        """The rows with one and with two times of the samples with these numbers, int64 (B,), if `two_times`."""
        raise NotImplementedError(f"{type(self).__name__} has one time")

    def pairs(self, t: PerSample, other: PerSample, rows: Rows, progress: float = 1.0) -> Pairs:
        """The times of a batch from two draws of t, (B,), if `two_times`.

        progress: the used share of the budget of training.
        """
        raise NotImplementedError(f"{type(self).__name__} has one time")


@dataclass(frozen=True)
class Simple(Objective[ForwardProcess]):
    """L_simple (Ho et al. 2020, eq. 14)."""

    weighting: Weighting = UNWEIGHTED
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
    weighting: Weighting = UNWEIGHTED
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
    return mean_square(reverse.prediction.target(process, x_0, eps, t) - output, known)


def mean_square(error: Images, known: Known = None) -> PerSample:
    """‖error‖²/D over known values, float64 (B,)."""
    return (error if known is None else error * known).square().flatten(1).mean(dim=1).double()
