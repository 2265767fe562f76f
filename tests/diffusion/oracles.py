"""Gaussian data x_0 ~ N(m, s²), for which the best network is known: everything about the chain has a closed form."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_lab.diffusion import GaussianDiffusion, Prediction, SampleNoise, Variance


@dataclass(frozen=True)
class GaussianData:
    """N(mean, std²) in every dimension."""

    mean: float = 0.0
    std: float = 0.5

    @property
    def entropy_bits(self) -> float:
        return 0.5 * math.log2(2 * math.pi * math.e * self.std**2)

    def x_0_given_x_t(self, alpha_bar: Tensor, x_t: Tensor) -> Tensor:
        gain = self.std**2 * alpha_bar.sqrt() / (alpha_bar * self.std**2 + 1 - alpha_bar)
        return self.mean + gain * (x_t - alpha_bar.sqrt() * self.mean)

    def variance_of_x_0_given_x_t(self, alpha_bar: Tensor) -> Tensor:
        return self.std**2 * (1 - alpha_bar) / (alpha_bar * self.std**2 + 1 - alpha_bar)


class ExactNetwork:
    """E[target | x_t] for Gaussian data, under the *full* chain's process: it is told original 0-based indices."""

    def __init__(self, data: GaussianData, process: GaussianDiffusion, prediction: Prediction) -> None:
        self.data, self.process, self.prediction = data, process, prediction
        self.seen: list[int] = []

    def __call__(self, x_t: Tensor, timesteps: Tensor, y: Tensor | None) -> Tensor:
        self.seen.append(int(timesteps[0]))
        t = timesteps + 1
        alpha_bar = self.process.alpha_bar(t).reshape(-1, *[1] * (x_t.ndim - 1)).to(x_t.dtype)
        x_0 = self.data.x_0_given_x_t(alpha_bar, x_t)
        eps = (x_t - alpha_bar.sqrt() * x_0) / (1 - alpha_bar).sqrt()
        return self.prediction.target(self.process, x_0, eps, t)


@dataclass(frozen=True)
class OptimalVariance(Variance):
    """Σ* = β̃_t + (√ᾱ_{t−1}·β_t/(1 − ᾱ_t))²·Var(x_0|x_t): exact for Gaussian data, at any stride."""

    data: GaussianData
    outputs_per_channel = 0

    def log_variance(self, process, x_t, t, v):
        of_x_0 = process.alpha_bar(t - 1).sqrt() * process.beta(t) / (1 - process.alpha_bar(t))
        spread = of_x_0.square() * self.data.variance_of_x_0_given_x_t(process.alpha_bar(t))
        return (process.beta_tilde(t) + spread).log().reshape(-1, *[1] * (x_t.ndim - 1)).to(x_t.dtype)


class SigmaPoints(SampleNoise):
    """ε = ±1 by row: with x_0 = m ± s every product (x_0, ε) of degree two has its exact expectation over four rows."""

    def __init__(self) -> None:
        super().__init__(0, torch.arange(4))

    @staticmethod
    def x_0(data: GaussianData) -> Tensor:
        return data.mean + data.std * torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64).reshape(4, 1)

    def fork(self, key: int) -> "SigmaPoints":
        return self

    def __call__(self, t: int, like: Tensor) -> Tensor:
        return torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=like.dtype).reshape(4, 1)


def steps(t: int, batch: int) -> Tensor:
    return torch.full((batch,), t)
