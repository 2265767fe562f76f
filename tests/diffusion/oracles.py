"""Data for which the best network is known: Gaussian data x_0 ~ N(m, s²), where everything has a closed form, and mixtures."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from diffusion_lab.analysis import NetworkStatistics, network_statistics
from diffusion_lab.diffusion import (
    FixedSmall,
    GaussianDiffusion,
    Prediction,
    PredictNoise,
    ReverseProcess,
    SampleNoise,
    Schedule,
    Variance,
)
from diffusion_lab.diffusion.forward import per_sample


@dataclass(frozen=True)
class GaussianData:
    """N(mean, std²) in every dimension; std may differ between them, a tensor (D,)."""

    mean: float = 0.0
    std: float = 0.5

    @property
    def entropy_bits(self) -> float:
        return 0.5 * math.log2(2 * math.pi * math.e * self.std**2)

    def x_0_given_x_t(self, signal: Tensor, noise: Tensor, x_t: Tensor) -> Tensor:
        gain = self.std**2 * signal / (signal.square() * self.std**2 + noise.square())
        return self.mean + gain * (x_t - signal * self.mean)

    def variance_of_x_0_given_x_t(self, signal: Tensor, noise: Tensor) -> Tensor:
        return self.std**2 * noise.square() / (signal.square() * self.std**2 + noise.square())


@dataclass(frozen=True)
class MixtureData:
    """Σ_k weights_k·N(means_k, std²) in every dimension."""

    means: tuple[float, ...] = (-0.6, 0.1, 0.5)
    weights: tuple[float, ...] = (0.3, 0.2, 0.5)
    std: float = 0.15

    def x_0_given_x_t(self, signal: Tensor, noise: Tensor, x_t: Tensor) -> Tensor:
        p, x_0 = self._parts(signal, noise, x_t)
        return (p * x_0).sum(0)

    def variance_of_x_0_given_x_t(self, signal: Tensor, noise: Tensor, x_t: Tensor) -> Tensor:
        p, x_0 = self._parts(signal, noise, x_t)
        within = GaussianData(0.0, self.std).variance_of_x_0_given_x_t(signal, noise)
        return within + (p * (x_0 - (p * x_0).sum(0)).square()).sum(0)

    def _parts(self, signal: Tensor, noise: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor]:
        """p(k|x_t) and E[x_0|x_t, k]."""
        variance = signal.square() * self.std**2 + noise.square()
        log_p = [
            math.log(weight) - (x_t - signal * mean).square() / (2 * variance)
            for weight, mean in zip(self.weights, self.means, strict=True)
        ]
        x_0 = [GaussianData(mean, self.std).x_0_given_x_t(signal, noise, x_t) for mean in self.means]
        return torch.stack(log_p).softmax(0), torch.stack(x_0)


class ExactNetwork:
    """E[target | x_t] of the data on a schedule, or that of a chain: it is given original 0-based indices, or real t − 1.

    As a network of two times it ignores the end: its velocity is the instantaneous one.
    """

    def __init__(
        self, data: GaussianData | MixtureData, process: GaussianDiffusion | Schedule, prediction: Prediction
    ) -> None:
        self.data, self.prediction = data, prediction
        self.schedule = process if isinstance(process, Schedule) else process.schedule
        self.seen: list[int] = []

    def __call__(self, x_t: Tensor, timesteps: Tensor, y: Tensor | None, end: Tensor | None = None) -> Tensor:
        self.seen.append(int(timesteps[0]))
        t = timesteps.double() + 1
        signal, noise = (per_sample(part, x_t) for part in self.schedule.pair(t))
        x_0 = self.data.x_0_given_x_t(signal, noise, x_t)
        return self.prediction.target(self.schedule, x_0, (x_t - signal * x_0) / noise, t)


@dataclass(frozen=True)
class OptimalVariance(Variance):
    """Σ* = β̃_t + (√ᾱ_{t−1}·β_t/(1 − ᾱ_t))²·Var(x_0|x_t): exact for Gaussian data, at any stride."""

    data: GaussianData
    outputs_per_channel = 0

    def log_variance(self, process, x_t, t, v):
        chain = (*process.pair(t), process.signal(t - 1), process.beta(t), process.beta_tilde(t))
        signal, noise, before, beta, beta_tilde = (per_sample(part, x_t) for part in chain)
        of_x_0 = before * beta / noise.square()
        return (beta_tilde + of_x_0.square() * self.data.variance_of_x_0_given_x_t(signal, noise)).log()


class CountOps(TorchDispatchMode):
    """How many operations run inside, and how many of them look something up in a table."""

    def __init__(self) -> None:
        super().__init__()
        self.ops = self.gathers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ops += 1
        self.gathers += func.overloadpacket.__name__ in ("index", "index_select", "gather")
        return func(*args, **(kwargs or {}))


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
        return torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=like.dtype).reshape(4, 1).expand_as(like)


def steps(t: int, batch: int) -> Tensor:
    return torch.full((batch,), t)


def posterior_mean(x_t, signal, sigma, x):
    """E[x_0|x_t] (B, D) where x_0 is one of the rows of x (N, D), each as likely."""
    return (-(x_t[:, None] - signal * x).square().sum(dim=-1) / (2 * sigma**2)).softmax(dim=1) @ x


OFF_CENTRE = GaussianData(0.2, 0.5)


def exact_reverse(process, variance=FixedSmall(), data=OFF_CENTRE):  # noqa: B008 - frozen
    return ReverseProcess(ExactNetwork(data, process, PredictNoise()), PredictNoise(), variance, clip_x_0=False)


def exact_statistics(process, data=OFF_CENTRE) -> NetworkStatistics:
    """Exact: every statistic is quadratic in (x_0, ε)."""
    rows = network_statistics(process, exact_reverse(process, data=data), SigmaPoints.x_0(data), None, SigmaPoints())
    return NetworkStatistics(**{name: values.mean(dim=0) for name, values in rows.items()})


class GaussianFlow:
    """The flow of N(m, Q·diag(λ)·Qᵀ) on the straight path, whose spread is s_t² = (1 − t)²·λ + t²."""

    def __init__(self, dimensions: int) -> None:
        generator = torch.Generator().manual_seed(dimensions)
        self.mean = 0.5 * torch.randn(dimensions, generator=generator, dtype=torch.float64)
        self.values = torch.logspace(0.3, -1.2, dimensions, dtype=torch.float64)
        square = torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64)
        self.vectors = torch.linalg.qr(square)[0]

    def sample(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x_0 and ε."""
        x_0, eps = torch.randn(2, size, len(self.mean), generator=generator, dtype=torch.float64).unbind()
        return self.mean + (x_0 * self.values.sqrt()) @ self.vectors.T, eps

    def velocity(self, z: Tensor, t: Tensor) -> Tensor:
        """−m + (t − (1 − t)·λ)/s_t²·(z − (1 − t)·m)."""
        t = t[:, None]
        return self._gained(z, t, (t - (1 - t) * self.values) / self._spread(t).square()) - self.mean

    def map(self, z: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """(1 − s)·m + s_s/s_t·(z − (1 − t)·m)."""
        t, s = t[:, None], s[:, None]
        return (1 - s) * self.mean + self._gained(z, t, self._spread(s) / self._spread(t))

    def u(self, z: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """(X − z)/(s − t), without the division: s_s² − s_t² = (s − t)·(s + t − (2 − s − t)·λ)."""
        t, s = t[:, None], s[:, None]
        here, there = self._spread(t), self._spread(s)
        return self._gained(z, t, (s + t - (2 - s - t) * self.values) / ((there + here) * here)) - self.mean

    def _spread(self, t: Tensor) -> Tensor:
        return ((1 - t).square() * self.values + t.square()).sqrt()

    def _gained(self, z: Tensor, t: Tensor, gain: Tensor) -> Tensor:
        """The distance from the mean, times a gain along each axis."""
        return (((z - (1 - t) * self.mean) @ self.vectors) * gain) @ self.vectors.T
