"""From noise to data: which steps to visit (a spacing) × how to take one (a step rule). The loop is written once.

    process ← process.respace(S);  x ← x_T
    for t = K, …, 1:  x ← step(x, t, t − 1)

A step rule sees the respaced process, so its ᾱ, β and β̃ are already those of the longer stride.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from .noise import SampleNoise, fresh_noise
from .process import GaussianDiffusion, per_sample
from .reverse import ReverseStep
from .shapes import Images, Labels, Steps
from .spacings import AllSteps, Spacing

Noise = Callable[[int, Images], Images]  # (t of the original chain, like) -> ε
Reverse = Callable[[GaussianDiffusion, Images, Steps], ReverseStep]


@dataclass(frozen=True)
class Sampler(ABC):
    """x_T -> x_0 along the steps of `spacing`. Give it the full process: it respaces by itself.

    `draws_from_reverse_process`: every step but the last, which shows the mean, is a draw from p_θ(x_{t−1}|x_t), so the variational
    bound of that chain is about this sampler. `reads_variance`: what it generates depends on Σ_θ.
    """

    draws_from_reverse_process: ClassVar[bool]
    reads_variance: ClassVar[bool] = True
    spacing: Spacing = field(default_factory=AllSteps)

    @abstractmethod
    def step(
        self, process: GaussianDiffusion, reverse: Reverse, x_t: Images, t: int, t_prev: int, noise: Noise, memory: Any
    ) -> tuple[Images, Any]:
        """(x_{t_prev}, memory), from x_t; t_prev = 0 is clean data.

        `memory` starts as None and is what the rule returned from the step before: a multistep rule keeps its past there.
        """

    def __call__(
        self,
        process: GaussianDiffusion,
        reverse: Callable[..., ReverseStep],
        x_T: Images,
        y: Labels = None,
        noise: SampleNoise | Noise | None = None,
    ) -> Images:
        """x_0, shaped like x_T. `noise` by default comes from a fresh seed."""
        x = x_T
        for _, x in self.trajectory(process, reverse, x_T, y, noise):  # noqa: B007 - the last one is x_0
            pass
        return x

    def trajectory(
        self,
        process: GaussianDiffusion,
        reverse: Callable[..., ReverseStep],
        x_T: Images,
        y: Labels = None,
        noise: SampleNoise | Noise | None = None,
    ) -> Iterator[tuple[int, Images]]:
        """(t, x_t) from t = T down to t = 0, t counted in the original chain."""
        strided = process.respace(self.spacing(process.num_timesteps))
        noise = fresh_noise(len(x_T), x_T.device) if noise is None else noise

        def conditioned(process: GaussianDiffusion, x_t: Images, t: Steps) -> ReverseStep:
            return reverse(process, x_t, t, y)

        x, memory = x_T, None
        original = [0, *(strided.timesteps + 1).tolist()]
        yield original[-1], x
        for t in range(strided.num_timesteps, 0, -1):
            x, memory = self.step(strided, conditioned, x, t, t - 1, noise, memory)
            yield original[t - 1], x


@dataclass(frozen=True)
class AncestralSampler(Sampler):
    """x_{t−1} = μ_θ(x_t, t) + √Σ_θ·z, z = 0 in the last step (Ho et al. 2020, algorithm 2).

    With fewer steps than T it is strided sampling (Nichol & Dhariwal 2021, section 4). The last step returns x̂_0, which is what
    μ̃_1 is.
    """

    draws_from_reverse_process = True

    def step(
        self, process: GaussianDiffusion, reverse: Reverse, x_t: Images, t: int, t_prev: int, noise: Noise, memory: Any
    ) -> tuple[Images, Any]:
        distribution = reverse(process, x_t, _full(t, x_t)).distribution
        if t_prev == 0:
            return distribution.mean, None
        return distribution.sample(noise(int(process.timesteps[t - 1]) + 1, x_t)), None


@dataclass(frozen=True)
class DDIMSampler(Sampler):
    """x_{t−1} = √ᾱ_{t−1}·x̂_0 + √(1 − ᾱ_{t−1} − σ²)·ε̂ + σ·z, σ = η·√β̃_t (Song et al. 2020, DDIM, eq. 12 and 16).

    η = 0 is deterministic; η = 1 is ancestral sampling with β̃ at any stride. The last step returns x̂_0. Σ_θ is not used.
    """

    draws_from_reverse_process = False
    reads_variance = False
    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(
                f"eta = {self.eta}: it lies between 0, which is deterministic, and 1, which adds the noise of ancestral sampling"
            )

    def step(
        self, process: GaussianDiffusion, reverse: Reverse, x_t: Images, t: int, t_prev: int, noise: Noise, memory: Any
    ) -> tuple[Images, Any]:
        look = reverse(process, x_t, _full(t, x_t))
        if t_prev == 0:
            return look.x_0, None
        alpha_bar_prev = process.alpha_bar(_full(t_prev, x_t))
        variance = self.eta**2 * process.beta_tilde(_full(t, x_t))
        x = per_sample(alpha_bar_prev.sqrt(), x_t) * look.x_0
        x = x + per_sample((1 - alpha_bar_prev - variance).sqrt(), x_t) * look.eps
        if self.eta > 0:
            x = x + per_sample(variance.sqrt(), x_t) * noise(int(process.timesteps[t - 1]) + 1, x_t)
        return x, None

    def encode(
        self, process: GaussianDiffusion, reverse: Callable[..., ReverseStep], x_0: Images, y: Labels = None
    ) -> Images:
        """x_0 -> x_T, the deterministic map run backwards (Song et al. 2020, DDIM, section 4.3 and eq. 14).

            x_t = √(ᾱ_t/ᾱ_{t−1})·x_{t−1} + (√(1 − ᾱ_t) − √(ᾱ_t/ᾱ_{t−1})·√(1 − ᾱ_{t−1}))·ε̂(x_{t−1}, t)

        ε̂ is taken at the start of the stride, so decoding gives x_0 back up to an error of first order in the stride. Give a
        reverse process without clipping; η must be 0.
        """
        if self.eta != 0:
            raise ValueError(f"eta = {self.eta}: only the deterministic sampler, eta = 0, can encode")
        strided = process.respace(self.spacing(process.num_timesteps))
        x = x_0
        for t in range(1, strided.num_timesteps + 1):
            eps = reverse(strided, x, _full(t, x), y).eps
            alpha_bar, alpha_bar_prev = strided.alpha_bar(_full(t, x)), strided.alpha_bar(_full(t - 1, x))
            ratio = (alpha_bar / alpha_bar_prev).sqrt()
            of_eps = (1 - alpha_bar).sqrt() - ratio * (1 - alpha_bar_prev).sqrt()
            x = per_sample(ratio, x) * x + per_sample(of_eps, x) * eps
        return x


def _full(t: int, like: Images) -> Steps:
    """The same t for every sample."""
    return torch.full((len(like),), t, dtype=torch.int64, device=like.device)
