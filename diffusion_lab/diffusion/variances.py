"""Variances of a reverse step: Σ_θ between two bounds, β̃_t if x_0 is a point and β_t if x_0 is N(0, I).

(Sohl-Dickstein et al. 2015, on the entropy of the reverse process; Ho et al. 2020, section 3.2; Nichol & Dhariwal 2021, section
3.1.)

A variance is given the *process*, so a respaced process provides the wider β and β̃ of its longer strides; nothing else is
needed for strided sampling.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from torch import where

from .chain import GaussianDiffusion
from .forward import per_sample
from .shapes import Broadcast, Images, Steps


class Variance(ABC):
    """log Σ_θ(x_t, t). `outputs_per_channel`: network outputs per data channel that it uses, 0 or 1.

    `stop_gradient`: these outputs train only their own weights, so the mean is not affected by them.
    `varies`: between images or dimensions, so that it is not a function of t alone.
    `needs_unit_variance`: it uses β_t as the variance of x_s given x_t for x_0 ~ N(0, I), which requires α² + σ² = 1.
    """

    outputs_per_channel: int
    stop_gradient: bool = False
    varies: ClassVar[bool] = False
    needs_unit_variance: ClassVar[bool] = False

    @abstractmethod
    def log_variance(self, process: GaussianDiffusion, x_t: Images, t: Steps, v: Images | None) -> Broadcast:
        """log Σ, broadcasting against x_t; `v` is the variance part of the network's output, None if there is none."""


@dataclass(frozen=True)
class FixedSmall(Variance):
    """Σ = β̃_t, the variance of q(x_s|x_t, x_0): too narrow when steps are few."""

    outputs_per_channel = 0

    def log_variance(self, process: GaussianDiffusion, x_t: Images, t: Steps, v: Images | None) -> Broadcast:
        return per_sample(process.log_beta_tilde(t), x_t)


@dataclass(frozen=True)
class FixedLarge(Variance):
    """Σ = β_t, the variance of q(x_t|x_s): too wide when steps are few. At t = 1 it is β̃_2.

    The last step's width only affects L_0; β_1 would cost bits there, so the original implementation uses β̃_2 too.
    """

    outputs_per_channel = 0

    def log_variance(self, process: GaussianDiffusion, x_t: Images, t: Steps, v: Images | None) -> Broadcast:
        return per_sample(where(t == 1, process.log_beta_tilde(t), process.log_beta(t)), x_t)


@dataclass(frozen=True)
class LearnedRange(Variance):
    """log Σ = f·log β_t + (1 − f)·log β̃_t with f = (v + 1)/2, not clamped (Nichol & Dhariwal 2021, eq. 15).

    v = −1 is fixed small, v = 1 is β_t at every t (at t = 1 too, unlike fixed large), and v = 0 is their geometric mean.
    Published with stop_gradient=False: the bound's noisy gradient for v then also affects the features of the mean.
    """

    stop_gradient: bool = field(default=False, repr=False)  # affects training, not the variance itself

    outputs_per_channel = 1
    varies = True
    needs_unit_variance = True

    def log_variance(self, process: GaussianDiffusion, x_t: Images, t: Steps, v: Images | None) -> Broadcast:
        low, high = per_sample(process.log_beta_tilde(t), x_t), per_sample(process.log_beta(t), x_t)
        assert v is not None  # since outputs_per_channel is 1
        f = (v + 1) / 2
        return f * high + (1 - f) * low
