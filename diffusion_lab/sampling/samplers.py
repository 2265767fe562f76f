"""From noise to data: which times to visit (a spacing) × how to take a step (a step rule). The loop is written once.

    chain ← process.respace(S);  x ← prior_std·x_T, that of the chain
    for t = K, …, 1:  x, memory ← step(x, t, s = t − 1, noise of t, memory),  noise of the last step = 0

A step rule sees the respaced chain, so its α_t, σ_t, β and β̃ are already those of the longer stride.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch

from diffusion_lab.diffusion.noise import Noise, NoNoise, StepNoise, fresh_noise
from diffusion_lab.diffusion.process import GaussianDiffusion
from diffusion_lab.diffusion.reverse import ReverseStep
from diffusion_lab.diffusion.shapes import Images, Labels, Steps

from .spacings import AllSteps, Spacing

Reverse = Callable[[GaussianDiffusion, Images, Steps], ReverseStep]


class Past(NamedTuple):
    """What a step rule may remember of a step it took: what it saw there."""

    t: int
    x_0: Images
    eps: Images


Memory = tuple[Past, ...]  # newest first
Draw = Callable[[Images], Images]  # like -> ε, the same at each call


@dataclass(frozen=True)
class Sampler(ABC):
    """x_T -> x_0 along the times of `spacing`. Give it the full process: it respaces by itself.

    `draws_from_reverse_process`: every step but the last, which shows the mean, is a draw from p_θ(x_s|x_t), so the variational
    bound of that chain is about this sampler. `reads_variance`: what it generates depends on Σ_θ. `order`: of its convergence, as
    the steps of a deterministic rule get shorter. `evaluations_per_step`: evaluations of the reverse process that a step takes.
    """

    spacing: Spacing = field(default_factory=AllSteps)
    draws_from_reverse_process: ClassVar[bool] = False
    reads_variance: ClassVar[bool] = True
    evaluations_per_step: ClassVar[int] = 1

    @property
    def order(self) -> int:
        return 1

    @abstractmethod
    def step(
        self, process: GaussianDiffusion, reverse: Reverse, x_t: Images, t: int, s: int, noise: Draw, memory: Memory
    ) -> tuple[Images, Memory]:
        """(x_s, memory), from x_t, s < t steps of `process`; s = 0 is clean data.

        noise: like -> the ε of this step. memory: () at first, then what the rule returned from the step before.
        """

    def evaluation_times(self, num_steps: int) -> list[int]:
        """The t at which the reverse process is evaluated along a chain of num_steps steps, in order."""
        return list(range(num_steps, 0, -1))

    def __call__(
        self,
        process: GaussianDiffusion,
        reverse: Callable[..., ReverseStep],
        x_T: Images,
        y: Labels = None,
        noise: Noise | None = None,
    ) -> Images:
        """x_0, shaped like x_T ~ N(0, I). `noise` by default comes from a fresh seed."""
        return last(self.trajectory(process, reverse, x_T, y, noise))

    def trajectory(
        self,
        process: GaussianDiffusion,
        reverse: Callable[..., ReverseStep],
        x_T: Images,
        y: Labels = None,
        noise: Noise | None = None,
    ) -> Iterator[tuple[float, Images]]:
        """(t, x_t) from t = T down to t = 0, t on the clock of the original chain."""
        chain = process.respace(self.spacing(process))
        return self.walk(chain, reverse, chain.prior_std * x_T, y, noise)

    def walk(
        self,
        chain: GaussianDiffusion,
        reverse: Callable[..., ReverseStep],
        x: Images,
        y: Labels = None,
        noise: Noise | None = None,
    ) -> Iterator[tuple[float, Images]]:
        """(t, x_t) from the last step of a chain, where x is x_t, down to t = 0."""
        noise = fresh_noise(len(x), x.device) if noise is None else noise
        times = [0, *(chain.timesteps + 1).tolist()]
        whole = not chain.timesteps.is_floating_point()  # such a t is its step's key, whatever other steps are visited

        def conditioned(process: GaussianDiffusion, x_t: Images, t: Steps) -> ReverseStep:
            return reverse(process, x_t, t, y)

        memory: Memory = ()
        yield times[-1], x
        for t in range(chain.num_timesteps, 0, -1):
            own: Draw = StepNoise(noise, times[t] if whole else t) if t > 1 else NoNoise()
            x, memory = self.step(chain, conditioned, x, t, t - 1, own, memory)
            yield times[t - 1], x


@dataclass(frozen=True)
class AncestralSampler(Sampler):
    """x_s = μ_θ(x_t, t) + √Σ_θ·z, z = 0 in the last step (Ho et al. 2020, algorithm 2).

    With fewer steps than T it is strided sampling (Nichol & Dhariwal 2021, section 4). The last step returns x̂_0, which is what
    μ̃_1 is.
    """

    draws_from_reverse_process = True

    def step(
        self, process: GaussianDiffusion, reverse: Reverse, x_t: Images, t: int, s: int, noise: Draw, memory: Memory
    ) -> tuple[Images, Memory]:
        return evaluate_at(reverse, process, x_t, t).distribution.sample(noise(x_t)), ()


@dataclass(frozen=True)
class DDIMSampler(Sampler):
    """x_s = α_s·x̂_0 + √(σ_s² − η²·β̃_t)·ε̂ + η·√β̃_t·z (Song et al. 2020, DDIM, eq. 12 and 16).

    η = 0 is deterministic; η = 1 is ancestral sampling with β̃ at any stride. The last step returns x̂_0. Σ_θ is not used.
    """

    reads_variance = False
    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(
                f"eta = {self.eta} must lie between 0 (deterministic) and 1 (the noise of ancestral sampling)"
            )

    def step(
        self, process: GaussianDiffusion, reverse: Reverse, x_t: Images, t: int, s: int, noise: Draw, memory: Memory
    ) -> tuple[Images, Memory]:
        predicted, to = evaluate_at(reverse, process, x_t, t), process.numbers(s)
        variance = self.eta**2 * process.numbers(t).beta_tilde
        x_s = to.signal * predicted.x_0 + max(to.noise**2 - variance, 0) ** 0.5 * predicted.eps
        return x_s + variance**0.5 * noise(x_t) if self.eta > 0 else x_s, ()

    def encode(
        self, process: GaussianDiffusion, reverse: Callable[..., ReverseStep], x_0: Images, y: Labels = None
    ) -> Images:
        """x_0 -> x_T, the deterministic map run backwards (Song et al. 2020, DDIM, section 4.3 and eq. 14).

            x_t = α_ts·x_s + (σ_t − α_ts·σ_s)·ε̂(x_s, t)

        ε̂ is taken at the start of the stride, so decoding gives x_0 back up to an error of first order in the stride. Give a
        reverse process without clipping; η must be 0.
        """
        if self.eta != 0:
            raise ValueError(f"eta = {self.eta}: only the deterministic sampler, eta = 0, can encode")
        chain = process.respace(self.spacing(process))
        x = x_0
        for t in range(1, chain.num_timesteps + 1):
            here, before = chain.numbers(t), chain.numbers(t - 1)
            x = here.alpha * x + (here.noise - here.alpha * before.noise) * reverse(chain, x, full(t, x), y).eps
        return x / chain.prior_std


@dataclass(frozen=True)
class AnalyticDDIMSampler(DDIMSampler):
    """x_s as DDIM's, with additional noise from the uncertainty of x_0 under Σ_θ (Bao et al. 2022, "Analytic-DPM", theorem 1).

        λ² = η²·β̃_t,  Var = (Σ_θ − β̃_t)/(α_s·σ²_ts/σ_t²)²,  σ² = λ² + (α_s − √(σ_s² − λ²)·α_t/σ_t)²·Var

    Any Σ_θ will do: with β̃_t it is DDIM, and with η = 1 ancestral sampling. The last step returns x̂_0.
    """

    reads_variance = True

    def step(
        self, process: GaussianDiffusion, reverse: Reverse, x_t: Images, t: int, s: int, noise: Draw, memory: Memory
    ) -> tuple[Images, Memory]:
        predicted, at, to = evaluate_at(reverse, process, x_t, t), process.numbers(t), process.numbers(s)
        own = self.eta**2 * at.beta_tilde
        towards_eps = max(to.noise**2 - own, 0) ** 0.5
        x_s = to.signal * predicted.x_0 + towards_eps * predicted.eps
        if s == 0:
            return x_s, ()
        log_beta_tilde = torch.full_like(predicted.distribution.log_variance, at.log_beta_tilde)
        excess = at.beta_tilde * torch.expm1(predicted.distribution.log_variance - log_beta_tilde).clamp(min=0)
        of_x_0 = to.signal - towards_eps * at.signal / at.noise
        return x_s + (own + (of_x_0 / at.of_x_0) ** 2 * excess).sqrt() * noise(x_t), ()

    def encode(
        self, process: GaussianDiffusion, reverse: Callable[..., ReverseStep], x_0: Images, y: Labels = None
    ) -> Images:
        """Raises ValueError: with no η is this a deterministic map."""
        raise ValueError("only the deterministic sampler, sampler=ddim with eta = 0, can encode")


def evaluate_at(reverse: Reverse, process: GaussianDiffusion, x_t: Images, t: int) -> ReverseStep:
    """p_θ(x_s|x_t), all samples at one step, which the process then knows without a copy from the device."""
    steps = full(t, x_t)
    return reverse(process.at(steps, shared_t=t), x_t, steps)


def past(t: int, predicted: ReverseStep) -> Past:
    """A prediction, to be remembered."""
    return Past(t, predicted.x_0, predicted.eps)


def full(t: int, like: Images) -> Steps:
    """The same t for every sample."""
    return torch.full((len(like),), t, dtype=torch.int64, device=like.device)


def last(states: Iterator[tuple[float, Images]]) -> Images:
    """Where a walk ends."""
    for _, x in states:  # noqa: B007 - the last one is x_0
        pass
    return x
