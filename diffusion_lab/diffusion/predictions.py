"""Predictions: the quantity that the network outputs, a·x_0 + b·ε. With x_t = α·x_0 + σ·ε it determines x_0 and ε:

    x̂_0 = (b·x_t − σ·output)/(α·b − σ·a),   ε̂ = (α·output − a·x_t)/(α·b − σ·a)

A prediction is defined by its (a, b).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from .forward import ForwardProcess, per_sample
from .shapes import Images, Number, PerSample, Times

Coefficients = tuple[PerSample, PerSample]


@dataclass(frozen=True)
class Prediction(ABC):
    """A linear parameterisation of the pair (x_0, ε) behind x_t."""

    @abstractmethod
    def coefficients(self, process: ForwardProcess, t: Times) -> Coefficients:
        """(a, b) of the network's output a·x_0 + b·ε."""

    def inputs(self, process: ForwardProcess, x_t: Images, t: Times) -> tuple[Images, Times]:
        """The network's inputs (image, timesteps): x_t and t − 1."""
        return x_t, process.network_time(t)

    def target(self, process: ForwardProcess, x_0: Images, eps: Images, t: Times) -> Images:
        """a·x_0 + b·ε, the target of L_simple."""
        a, b = self.coefficients(process, t)
        return per_sample(a, x_0) * x_0 + per_sample(b, x_0) * eps

    def to_x_0(self, process: ForwardProcess, output: Images, x_t: Images, t: Times) -> Images:
        """x̂_0 implied by an output at x_t."""
        (_, b), (_, sigma), scale = self._solved(process, t)
        return per_sample(b / scale, x_t) * x_t - per_sample(sigma / scale, x_t) * output

    def to_eps(self, process: ForwardProcess, output: Images, x_t: Images, t: Times) -> Images:
        """ε̂ implied by an output at x_t."""
        (a, _), (signal, _), scale = self._solved(process, t)
        return per_sample(signal / scale, x_t) * output - per_sample(a / scale, x_t) * x_t

    def error_scale(self, process: ForwardProcess, t: Times) -> PerSample:
        """(squared error of the output) / (squared error of the x̂_0 it implies), at a given x_t: ((α·b − σ·a)/σ)²."""
        _, (_, sigma), scale = self._solved(process, t)
        return (scale / sigma).square()

    def _solved(self, process: ForwardProcess, t: Times) -> tuple[Coefficients, Coefficients, PerSample]:
        """(a, b), (α, σ) and α·b − σ·a."""
        (a, b), (signal, sigma) = self.coefficients(process, t), process.pair(t)
        return (a, b), (signal, sigma), signal * b - sigma * a


@dataclass(frozen=True)
class PredictNoise(Prediction):
    """ε, so x̂_0 = (x_t − σ_t·ε̂)/α_t (Ho et al. 2020, eq. 14 and 15)."""

    def coefficients(self, process: ForwardProcess, t: Times) -> Coefficients:
        signal = process.signal(t)
        return torch.zeros_like(signal), torch.ones_like(signal)


@dataclass(frozen=True)
class PredictStart(Prediction):
    """x_0, so ε̂ = (x_t − α_t·x̂_0)/σ_t (Ho et al. 2020, section 3.2)."""

    def coefficients(self, process: ForwardProcess, t: Times) -> Coefficients:
        signal = process.signal(t)
        return torch.ones_like(signal), torch.zeros_like(signal)


@dataclass(frozen=True)
class PredictVelocity(Prediction):
    """v = α_t·ε − σ_t·x_0, so x̂_0 = α_t·x_t − σ_t·v̂ and ε̂ = σ_t·x_t + α_t·v̂ where α_t² + σ_t² = 1
    (Salimans & Ho 2022, section 4 and appendix D).

    No division by quantities that vanish: stable at both ends of the chain, where the other two divide by α_T or σ_1.
    """

    def coefficients(self, process: ForwardProcess, t: Times) -> Coefficients:
        signal, sigma = process.pair(t)
        return -sigma, signal


@dataclass(frozen=True)
class PredictFlow(Prediction):
    """ε − x_0, which is dx_t/du on the straight path x_u = (1 − u)·x_0 + u·ε (Liu et al. 2023; Lipman et al. 2023)."""

    def coefficients(self, process: ForwardProcess, t: Times) -> Coefficients:
        one = torch.ones_like(process.signal(t))
        return -one, one


@dataclass(frozen=True)
class PredictEDM(Prediction):
    """(x_0 − c_skip·x_t)/c_out: the residual of the best linear estimate of x_0, at unit variance, for data of variance s²
    (Karras et al. 2022, EDM, eq. 7 and table 1, stated for α = 1).

        v = α²·s² + σ²,   c_skip = α·s²/v,   c_out = σ·s/√v,   c_in = 1/√v,   c_noise = ¼·log(σ/α)

    so a = σ/(s·√v) and b = −α·s/√v: the negative velocity of data of standard deviation s. Its L_simple is EDM's loss, without the
    choice of t. The network's inputs are c_in·x_t, of unit variance at every t, and c_noise instead of t − 1.

    data_std: s, σ_data.
    """

    data_std: Number = 0.5

    def __post_init__(self) -> None:
        if not self.data_std > 0:
            raise ValueError(f"prediction.data_std={self.data_std} must be the standard deviation of the data, above 0")

    def coefficients(self, process: ForwardProcess, t: Times) -> Coefficients:
        signal, sigma = process.pair(t)
        std = self._std(signal, sigma)
        return sigma / (self.data_std * std), -signal * self.data_std / std

    def inputs(self, process: ForwardProcess, x_t: Images, t: Times) -> tuple[Images, Times]:
        process.network_time(t)  # fails if t has no reverse step
        signal, sigma = process.pair(t)
        return x_t * per_sample(1 / self._std(signal, sigma), x_t), (sigma / signal).log() / 4

    def _std(self, signal: PerSample, sigma: PerSample) -> PerSample:
        """√v, of x_t."""
        return (signal.square() * self.data_std**2 + sigma.square()).sqrt()


def x_0_from_eps(process: ForwardProcess, eps: Images, x_t: Images, t: Times) -> Images:
    """x_0 = (x_t − σ_t·ε)/α_t."""
    return PredictNoise().to_x_0(process, eps, x_t, t)


def eps_from_x_0(process: ForwardProcess, x_0: Images, x_t: Images, t: Times) -> Images:
    """ε = (x_t − α_t·x_0)/σ_t, t ≥ 1."""
    return PredictStart().to_eps(process, x_0, x_t, t)
