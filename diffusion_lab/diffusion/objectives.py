"""What is a good network? L_simple, L_hybrid and L_vlb, and how L_simple weighs the steps.

    L_simple = E_t w(t)·‖target − output‖²/D          mean square a dimension         Ho et al. 2020, eq. 14
    L_vlb    = E_t T·L_{t−1}                          the bound, a *sum* over t       eq. 5, in bits per dimension
    L_hybrid = L_simple + 0.001·L_vlb                 Nichol & Dhariwal 2021, eq. 16

Objectives look at what the network says, before any clipping of x̂_0.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from .bound import bound_term
from .gaussian import Gaussian
from .predictions import Prediction
from .process import GaussianDiffusion
from .reverse import ReverseProcess, ReverseStep
from .shapes import Images, Labels, PerSample, Steps

Terms = dict[str, PerSample]


@dataclass(frozen=True)
class Weighting(ABC):
    """w(t) of L_simple."""

    @abstractmethod
    def weight(self, process: GaussianDiffusion, prediction: Prediction, t: Steps) -> PerSample:
        """The factor on the squared error of the network's own target."""


@dataclass(frozen=True)
class Unweighted(Weighting):
    """w(t) = 1: L_simple as published."""

    def weight(self, process: GaussianDiffusion, prediction: Prediction, t: Steps) -> PerSample:
        return torch.ones_like(process.snr(t))


@dataclass(frozen=True)
class MinSNR(Weighting):
    """The squared error of x̂_0 weighs min(SNR(t), γ), whatever the network predicts (Hang et al. 2023)."""

    gamma: float = 5.0

    def weight(self, process: GaussianDiffusion, prediction: Prediction, t: Steps) -> PerSample:
        return process.snr(t).clamp(max=self.gamma) / prediction.error_scale(process, t)


@dataclass(frozen=True)
class Objective(ABC):
    """(process, reverse, x_0, t, ε, y) -> {"loss": (B,), …}, to be averaged with the weights of the timestep sampler.

    `reads_variance`: Σ_θ enters the loss. `trains_variance`: it gives a learned Σ_θ a gradient.
    `term_names`: the keys of the terms.
    """

    reads_variance: ClassVar[bool]
    trains_variance: ClassVar[bool]
    term_names: ClassVar[tuple[str, ...]]

    @abstractmethod
    def __call__(
        self, process: GaussianDiffusion, reverse: ReverseProcess, x_0: Images, t: Steps, eps: Images, y: Labels = None
    ) -> Terms:
        """ "loss" and the terms it is made of, float64 (B,): "mse" (a dimension, unweighted), "vlb" (bits/dim, already × T)."""


@dataclass(frozen=True)
class Simple(Objective):
    """L_simple (Ho et al. 2020, eq. 14)."""

    weighting: Weighting = Unweighted()
    reads_variance = False
    trains_variance = False
    term_names = ("mse", "loss")

    def __call__(
        self, process: GaussianDiffusion, reverse: ReverseProcess, x_0: Images, t: Steps, eps: Images, y: Labels = None
    ) -> Terms:
        process = process.at(t)
        _, step = _look(process, reverse, x_0, t, eps, y)
        mse = _mean_square_error(process, reverse, step, x_0, t, eps)
        return {"mse": mse, "loss": self.weighting.weight(process, reverse.prediction, t) * mse}


@dataclass(frozen=True)
class Hybrid(Objective):
    """L_hybrid = L_simple + λ·L_vlb, where L_vlb trains Σ_θ only: μ_θ is held fixed in it (Nichol & Dhariwal 2021, eq. 16).

    Parameters
    ----------
    num_levels: grey levels of the data (L_0); None for continuous data.
    vlb_weight: λ.
    """

    num_levels: int | None = 256
    vlb_weight: float = 0.001
    weighting: Weighting = Unweighted()
    reads_variance = True
    trains_variance = True
    term_names = ("mse", "vlb", "loss")

    def __call__(
        self, process: GaussianDiffusion, reverse: ReverseProcess, x_0: Images, t: Steps, eps: Images, y: Labels = None
    ) -> Terms:
        process = process.at(t)
        x_t, step = _look(process, reverse, x_0, t, eps, y)
        mse = _mean_square_error(process, reverse, step, x_0, t, eps)
        held = Gaussian(step.distribution.mean.detach(), step.distribution.log_variance)
        vlb = process.num_timesteps * bound_term(process, held, x_0, x_t, t, self.num_levels)
        loss = self.weighting.weight(process, reverse.prediction, t) * mse + self.vlb_weight * vlb
        return {"mse": mse, "vlb": vlb, "loss": loss}


@dataclass(frozen=True)
class VariationalBound(Objective):
    """L_vlb, training μ_θ and Σ_θ: T·L_{t−1}, so that its mean over uniform t is the bound without L_T (Ho et al. 2020, eq. 5)."""

    num_levels: int | None = 256
    reads_variance = True
    trains_variance = True
    term_names = ("mse", "vlb", "loss")

    def __call__(
        self, process: GaussianDiffusion, reverse: ReverseProcess, x_0: Images, t: Steps, eps: Images, y: Labels = None
    ) -> Terms:
        process = process.at(t)
        x_t, step = _look(process, reverse, x_0, t, eps, y)
        vlb = process.num_timesteps * bound_term(process, step.distribution, x_0, x_t, t, self.num_levels)
        mse = _mean_square_error(process, reverse, step, x_0, t, eps)
        return {"mse": mse.detach(), "vlb": vlb, "loss": vlb}


def _look(
    process: GaussianDiffusion, reverse: ReverseProcess, x_0: Images, t: Steps, eps: Images, y: Labels
) -> tuple[Images, ReverseStep]:
    """x_t ~ q(x_t|x_0) and the unclipped p_θ(x_{t−1}|x_t)."""
    x_t = process.q_sample(x_0, t, eps)
    return x_t, reverse.without_clipping()(process, x_t, t, y)


def _mean_square_error(
    process: GaussianDiffusion, reverse: ReverseProcess, step: ReverseStep, x_0: Images, t: Steps, eps: Images
) -> PerSample:
    """‖target − output‖²/D, (B,)."""
    target = reverse.prediction.target(process, x_0, eps, t)
    return (target - step.output).square().flatten(1).mean(dim=1).double()
