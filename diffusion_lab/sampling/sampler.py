"""Samplers: a spacing (the times that are visited) and a step rule (how a step is taken), with one common loop.

    chain ← process.respace(S);  x ← prior_std·x_T, that of the chain
    for t = K, …, 1:  x ← step(walk, x, t)

A step rule is given the respaced chain, so its α_t, σ_t, β and β̃ are those of the longer strides. Rules of first order are in
`steps`, those of higher order in `solvers`.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
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
    """x̂_0 and ε̂, (B, …), predicted at step t of a walk."""

    t: int
    x_0: Images
    eps: Images


@dataclass(frozen=True)
class Walk:
    """A pass down a chain, from x_K to x_0, as given to a step rule. All samples are at the same step.

    chain: with steps t = 1 … K. reverse, source, y: the reverse process, the source of ε, and the conditions.
    memory: earlier predictions, newest first, for multistep rules.
    """

    chain: GaussianDiffusion
    reverse: Reverse
    source: Noise
    y: Conditions = None
    memory: deque[Predicted] = field(default_factory=deque, repr=False)

    def predict(self, x_t: Images, t: int) -> ReverseStep:
        """p_θ(x_s|x_t): one evaluation of the reverse process."""
        return self.reverse.at_step(self.chain, t)(self.chain, x_t, self.chain.full(t, x_t), self.y)

    def predict_chord(self, x_t: Images, t: int, s: int) -> ReverseStep:
        """The ends x̂_0 and ε̂ of the chord from x_t to X(x_t, t, s), s < t, by one evaluation of a network of two times.

        s = 0 is the clean end of the schedule, t = 1. There x̂_0 is a sample; elsewhere it may lie outside the range of the data.
        """
        schedule = self.chain.schedule
        reverse = self.reverse.without_clipping() if s > 0 else self.reverse
        return replace(self, reverse=reverse.towards(schedule, self.at(s).time if s > 0 else 1)).predict(x_t, t)

    def remember(self, t: int, predicted: ReverseStep) -> list[Predicted]:
        """Add the prediction of step t to the memory; return the memory, newest first, at most `Sampler.remembers`."""
        self.memory.appendleft(Predicted(t, predicted.x_0, predicted.eps))
        return list(self.memory)

    def forget(self) -> None:
        """Clear the memory, after x_t was changed in another way than by a step."""
        self.memory.clear()

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
    `two_times`: of a flow map, so it needs a network of two times.
    `remembers`: the predictions that a multistep rule uses, including that of the current step; 0 for one-step rules.
    """

    spacing: Spacing = field(default_factory=AllSteps)
    draws_from_reverse_process: ClassVar[bool] = False
    reads_variance: ClassVar[bool] = True
    evaluations_per_step: ClassVar[int] = 1
    two_times: ClassVar[bool] = False

    @property
    def order(self) -> int:
        return 1

    @property
    def remembers(self) -> int:
        return 0

    @abstractmethod
    def step(self, walk: Walk, x_t: Images, t: int) -> Images:
        """x_s from x_t, with s = t − 1 the next step of the chain; s = 0 is clean data."""

    def evaluation_times(self, num_steps: int) -> list[int]:
        """The t at which the reverse process is evaluated, in order, along a chain of num_steps steps."""
        return list(range(num_steps, 0, -1))

    def evaluated_at(self, chain: GaussianDiffusion) -> list[tuple[GaussianDiffusion, int]]:
        """The chain and the step of it at which each evaluation takes place, in order; usually a step of `chain` itself."""
        return [(chain, t) for t in self.evaluation_times(chain.num_timesteps)]

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
        """A walk down `chain` that remembers as many predictions as this rule uses."""
        return Walk(chain, reverse, noise, y, deque(maxlen=self.remembers))

    def walk(
        self, chain: GaussianDiffusion, reverse: Reverse, x: Images, y: Conditions = None, noise: Noise | None = None
    ) -> Iterator[tuple[float, Images]]:
        """(t, x_t) from the last step of a chain, where x is x_t, down to t = 0."""
        walk = self.begin(chain, reverse, y, fresh_noise(len(x), x.device) if noise is None else noise)
        times = [0, *chain.times.tolist()]
        yield times[-1], x
        for evaluated, _ in self.evaluated_at(chain):
            evaluated.copy_to(x.device)  # before the first step: a copy waits for the device
        for t in range(chain.num_timesteps, 0, -1):
            x = self.step(walk, x, t)
            yield times[t - 1], x


def last(states: Iterator[tuple[float, Images]]) -> Images:
    """The last x of a walk."""
    for _, x in states:  # noqa: B007 - the last one is x_0
        pass
    return x
