"""Samplers: a spacing (the times that are visited) and a step rule (how a step is taken), with one common loop.

    chain ← process.respace(S);  x ← prior_std·x_T, that of the chain
    for t = K, …, 1:  x ← step(walk, x, t)

A step rule is given the respaced chain, so its α_t, σ_t, β and β̃ are those of the longer strides.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch

from diffusion_lab.diffusion.chain import GaussianDiffusion, Row
from diffusion_lab.diffusion.noise import Noise, fresh_noise
from diffusion_lab.diffusion.reverse import ReverseProcess, ReverseStep
from diffusion_lab.diffusion.shapes import Conditions, Images, Steps

from .guidance import GuidedReverse
from .spacings import AllSteps, Spacing

Reverse = ReverseProcess | GuidedReverse
Evaluation = Callable[[GaussianDiffusion, Images, Steps, Conditions], ReverseStep]


class Predicted(NamedTuple):
    """A prediction at step t of a walk."""

    t: int
    x_0: Images
    eps: Images


@dataclass(frozen=True)
class Walk:
    """A pass down a chain, from x_K to x_0, as given to a step rule. All samples are at the same step.

    chain: with steps t = 1 … K. reverse, source, y: the reverse process, the source of ε, and the conditions.
    past: the last predictions, newest first, as many as the sampler uses.
    """

    chain: GaussianDiffusion
    reverse: Reverse
    source: Noise
    y: Conditions = None
    past: deque[Predicted] = field(default_factory=deque, repr=False)

    def predict(self, x_t: Images, t: int) -> ReverseStep:
        """p_θ(x_s|x_t): one evaluation of the reverse process, which is added to `past`."""
        predicted = self.reverse.at_step(self.chain, t)(self.chain, x_t, self.chain.full(t, x_t), self.y)
        self.past.appendleft(Predicted(t, predicted.x_0, predicted.eps))
        return predicted

    def noise(self, t: int, like: Images) -> Images:
        """ε for the step from t, the same at each call; 0 for the last step (Ho et al. 2020, algorithm 2, line 3)."""
        return self.source(self.chain.keys[t - 1], like) if t > 1 else torch.zeros_like(like)

    def at(self, t: int) -> Row[float]:
        """α_t, σ_t, β_t, … of step t; at t = 0 the pair is (1, 0)."""
        return self.chain.numbers(t)


@dataclass(frozen=True)
class Sampler(ABC):
    """x_T -> x_0 along the times of `spacing`. It is given the full process and respaces it.

    `draws_from_reverse_process`: every step except the last, which returns the mean, is a draw from p_θ(x_s|x_t), so the bound
    of the respaced chain applies to this sampler. `reads_variance`: its samples depend on Σ_θ. `order`: of convergence with
    shrinking steps of a deterministic rule. `evaluations_per_step`: of the reverse process.
    `remembers`: the number of predictions in `walk.past` that the rule uses, including that of the current step.
    """

    spacing: Spacing = field(default_factory=AllSteps)
    draws_from_reverse_process: ClassVar[bool] = False
    reads_variance: ClassVar[bool] = True
    evaluations_per_step: ClassVar[int] = 1

    @property
    def order(self) -> int:
        return 1

    @property
    def remembers(self) -> int:
        return 1

    @abstractmethod
    def step(self, walk: Walk, x_t: Images, t: int) -> Images:
        """x_s from x_t, with s = t − 1 the next step of the chain; s = 0 is clean data."""

    def evaluation_times(self, num_steps: int) -> list[int]:
        """The t at which the reverse process is evaluated, in order, along a chain of num_steps steps."""
        return list(range(num_steps, 0, -1))

    def __call__(
        self,
        process: GaussianDiffusion,
        reverse: Reverse,
        x_T: Images,
        y: Conditions = None,
        noise: Noise | None = None,
    ) -> Images:
        """x_0, shaped like x_T ~ N(0, I). `noise` defaults to a fresh seed."""
        return last(self.trajectory(process, reverse, x_T, y, noise))

    def trajectory(
        self,
        process: GaussianDiffusion,
        reverse: Reverse,
        x_T: Images,
        y: Conditions = None,
        noise: Noise | None = None,
    ) -> Iterator[tuple[float, Images]]:
        """(t, x_t) from t = T down to t = 0, with t on the clock of the original chain."""
        chain = process.respace(self.spacing(process))
        return self.walk(chain, reverse, chain.prior_std * x_T, y, noise)

    def begin(self, chain: GaussianDiffusion, reverse: Reverse, y: Conditions, noise: Noise) -> Walk:
        """A walk down `chain` that keeps as many predictions as this rule uses."""
        return Walk(chain, reverse, noise, y, deque(maxlen=self.remembers))

    def walk(
        self, chain: GaussianDiffusion, reverse: Reverse, x: Images, y: Conditions = None, noise: Noise | None = None
    ) -> Iterator[tuple[float, Images]]:
        """(t, x_t) from the last step of a chain, where x is x_t, down to t = 0."""
        walk = self.begin(chain, reverse, y, fresh_noise(len(x), x.device) if noise is None else noise)
        times = [0, *chain.times.tolist()]
        yield times[-1], x
        for t in range(chain.num_timesteps, 0, -1):
            x = self.step(walk, x, t)
            yield times[t - 1], x


@dataclass(frozen=True)
class AncestralSampler(Sampler):
    """x_s = μ_θ(x_t, t) + √Σ_θ·z, z = 0 in the last step (Ho et al. 2020, algorithm 2).

    With fewer steps than T this is strided sampling (Nichol & Dhariwal 2021, section 4). The last step returns μ̃_1 = x̂_0.
    """

    draws_from_reverse_process = True

    def step(self, walk: Walk, x_t: Images, t: int) -> Images:
        return walk.predict(x_t, t).distribution.sample(walk.noise(t, x_t))


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

    def step(self, walk: Walk, x_t: Images, t: int) -> Images:
        predicted, at, to = walk.predict(x_t, t), walk.at(t), walk.at(t - 1)
        variance = self.eta**2 * at.beta_tilde
        x_s = to.signal * predicted.x_0 + max(to.sigma**2 - variance, 0) ** 0.5 * predicted.eps
        return x_s + variance**0.5 * walk.noise(t, x_t) if self.eta > 0 else x_s

    def encode(self, process: GaussianDiffusion, reverse: Evaluation, x_0: Images, y: Conditions = None) -> Images:
        """x_0 -> x_T, the deterministic map reversed (Song et al. 2020, DDIM, section 4.3 and eq. 14).

            x_t = α_ts·x_s + (σ_t − α_ts·σ_s)·ε̂(x_s, t)

        ε̂ is taken at the start of the stride, so decoding recovers x_0 up to an error of first order in the stride. Use a
        reverse process without clipping; η must be 0.
        """
        if self.eta != 0:
            raise ValueError(f"eta = {self.eta}: only the deterministic sampler, eta = 0, can encode")
        chain = process.respace(self.spacing(process))
        x = x_0
        for t in range(1, chain.num_timesteps + 1):
            here, before = chain.numbers(t), chain.numbers(t - 1)
            x = here.alpha * x + (here.sigma - here.alpha * before.sigma) * reverse(chain, x, chain.full(t, x), y).eps
        return x / chain.prior_std


@dataclass(frozen=True)
class AnalyticDDIMSampler(DDIMSampler):
    """x_s of DDIM with additional noise from the uncertainty of x_0 under Σ_θ (Bao et al. 2022, "Analytic-DPM", theorem 1).

        λ² = η²·β̃_t,  Var = (Σ_θ − β̃_t)/(α_s·σ²_ts/σ_t²)²,  σ² = λ² + (α_s − √(σ_s² − λ²)·α_t/σ_t)²·Var

    Any Σ_θ is possible: with β̃_t this is DDIM, and with η = 1 ancestral sampling. The last step returns x̂_0.
    """

    reads_variance = True

    def step(self, walk: Walk, x_t: Images, t: int) -> Images:
        predicted, at, to = walk.predict(x_t, t), walk.at(t), walk.at(t - 1)
        own = self.eta**2 * at.beta_tilde
        towards_eps = max(to.sigma**2 - own, 0) ** 0.5
        x_s = to.signal * predicted.x_0 + towards_eps * predicted.eps
        if t == 1:
            return x_s
        log_beta_tilde = torch.full_like(predicted.distribution.log_variance, at.log_beta_tilde)
        excess = at.beta_tilde * torch.expm1(predicted.distribution.log_variance - log_beta_tilde).clamp(min=0)
        of_x_0 = to.signal - towards_eps * at.signal / at.sigma
        return x_s + (own + (of_x_0 / at.of_x_0) ** 2 * excess).sqrt() * walk.noise(t, x_t)

    def encode(self, process: GaussianDiffusion, reverse: Evaluation, x_0: Images, y: Conditions = None) -> Images:
        """Raises ValueError, because this map is not deterministic for any η."""
        raise ValueError("only the deterministic sampler, sampler=ddim with eta = 0, can encode")


def last(states: Iterator[tuple[float, Images]]) -> Images:
    """The last x of a walk."""
    for _, x in states:  # noqa: B007 - the last one is x_0
        pass
    return x
