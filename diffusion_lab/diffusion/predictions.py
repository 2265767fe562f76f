"""What does the network predict? Its output and (x_0, ε) are one statement about x_t = √ᾱ_t·x_0 + √(1 − ᾱ_t)·ε.

Each prediction gives its regression target, and turns an output back into the clean image and the noise it implies.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from .process import GaussianDiffusion, per_sample
from .shapes import Broadcast, Images, PerSample, Steps


@dataclass(frozen=True)
class Prediction(ABC):
    """A linear parameterisation of the pair (x_0, ε) behind x_t."""

    @abstractmethod
    def target(self, process: GaussianDiffusion, x_0: Images, eps: Images, t: Steps) -> Images:
        """What L_simple regresses."""

    @abstractmethod
    def to_x_0(self, process: GaussianDiffusion, output: Images, x_t: Images, t: Steps) -> Images:
        """x̂_0 implied by an output at x_t."""

    @abstractmethod
    def to_eps(self, process: GaussianDiffusion, output: Images, x_t: Images, t: Steps) -> Images:
        """ε̂ implied by an output at x_t."""

    @abstractmethod
    def error_scale(self, process: GaussianDiffusion, t: Steps) -> PerSample:
        """(squared error of the output) / (squared error of the x̂_0 it implies), at a given x_t."""


@dataclass(frozen=True)
class PredictNoise(Prediction):
    """ε, so x̂_0 = (x_t − √(1 − ᾱ_t)·ε̂)/√ᾱ_t (Ho et al. 2020, eq. 14 and 15)."""

    def target(self, process: GaussianDiffusion, x_0: Images, eps: Images, t: Steps) -> Images:
        return eps

    def to_x_0(self, process: GaussianDiffusion, output: Images, x_t: Images, t: Steps) -> Images:
        return x_0_from_eps(process, output, x_t, t)

    def to_eps(self, process: GaussianDiffusion, output: Images, x_t: Images, t: Steps) -> Images:
        return output

    def error_scale(self, process: GaussianDiffusion, t: Steps) -> PerSample:
        return process.snr(t)


@dataclass(frozen=True)
class PredictStart(Prediction):
    """x_0, so ε̂ = (x_t − √ᾱ_t·x̂_0)/√(1 − ᾱ_t) (Ho et al. 2020, section 3.2)."""

    def target(self, process: GaussianDiffusion, x_0: Images, eps: Images, t: Steps) -> Images:
        return x_0

    def to_x_0(self, process: GaussianDiffusion, output: Images, x_t: Images, t: Steps) -> Images:
        return output

    def to_eps(self, process: GaussianDiffusion, output: Images, x_t: Images, t: Steps) -> Images:
        return eps_from_x_0(process, output, x_t, t)

    def error_scale(self, process: GaussianDiffusion, t: Steps) -> PerSample:
        return torch.ones_like(process.snr(t))


@dataclass(frozen=True)
class PredictVelocity(Prediction):
    """v = √ᾱ_t·ε − √(1 − ᾱ_t)·x_0, so x̂_0 = √ᾱ_t·x_t − √(1 − ᾱ_t)·v̂ and ε̂ = √(1 − ᾱ_t)·x_t + √ᾱ_t·v̂
    (Salimans & Ho 2022, section 4 and appendix D).

    No division: stable at both ends of the chain, where the other two divide by √ᾱ_T or √(1 − ᾱ_1).
    """

    def target(self, process: GaussianDiffusion, x_0: Images, eps: Images, t: Steps) -> Images:
        signal, noise = _signal_and_noise(process, t, x_0)
        return signal * eps - noise * x_0

    def to_x_0(self, process: GaussianDiffusion, output: Images, x_t: Images, t: Steps) -> Images:
        signal, noise = _signal_and_noise(process, t, x_t)
        return signal * x_t - noise * output

    def to_eps(self, process: GaussianDiffusion, output: Images, x_t: Images, t: Steps) -> Images:
        signal, noise = _signal_and_noise(process, t, x_t)
        return noise * x_t + signal * output

    def error_scale(self, process: GaussianDiffusion, t: Steps) -> PerSample:
        return process.snr(t) + 1


def x_0_from_eps(process: GaussianDiffusion, eps: Images, x_t: Images, t: Steps) -> Images:
    """x_0 = (x_t − √(1 − ᾱ_t)·ε)/√ᾱ_t."""
    signal, noise = _signal_and_noise(process, t, x_t)
    return (x_t - noise * eps) / signal


def eps_from_x_0(process: GaussianDiffusion, x_0: Images, x_t: Images, t: Steps) -> Images:
    """ε = (x_t − √ᾱ_t·x_0)/√(1 − ᾱ_t), t ≥ 1."""
    signal, noise = _signal_and_noise(process, t, x_t)
    return (x_t - signal * x_0) / noise


def _signal_and_noise(process: GaussianDiffusion, t: Steps, like: Images) -> tuple[Broadcast, Broadcast]:
    """√ᾱ_t and √(1 − ᾱ_t), shaped to multiply `like`."""
    alpha_bar = process.alpha_bar(t)
    return per_sample(alpha_bar.sqrt(), like), per_sample((1 - alpha_bar).sqrt(), like)
