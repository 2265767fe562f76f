"""How hard is a sample pushed towards its class? A reverse process around a reverse process.

    classifier-free   ε̂ = ε_θ(x_t) + s·(ε_θ(x_t, y) − ε_θ(x_t))            Ho & Salimans 2022, eq. 6, with s = 1 + w
    classifier        μ̂ = μ_θ + s·Σ_θ·∇ log p(y|x_t)                       Dhariwal & Nichol 2021, algorithm 1
                      ε̂ = ε_θ − s·σ_t·∇ log p(y|x_t)                       algorithm 2, σ_t = √(1 − ᾱ_t)

s = 1 is Bayes' rule, p(x|y) ∝ p(x)·p(y|x); larger s is sharper than the data's own classes: more precision, less recall. A
guided process gives the same `ReverseStep`, so samplers and the bound need not know of it, and as it is asked with the
*process*, a respaced one gives Σ of its longer strides.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .gaussian import Gaussian
from .predictions import eps_from_x_0, x_0_from_eps
from .process import GaussianDiffusion, per_sample
from .reverse import ReverseProcess, ReverseStep
from .shapes import Images, Labels, Steps


class Guidance(ABC):
    """What is done to p_θ(x_{t−1}|x_t) so that it leads to the class y. Without labels, y = None, it is left alone.

    `guides`: it changes what the network says. `needs_null_class`: it asks a network with and without the label, so one that was
    trained with label dropout.
    `num_classes`: of what the guidance itself knows; None where the network's classes are all there are.
    """

    guides: ClassVar[bool] = True
    needs_null_class: ClassVar[bool] = False
    num_classes: int | None = None

    @abstractmethod
    def step(
        self, reverse: ReverseProcess, process: GaussianDiffusion, x_t: Images, t: Steps, y: Labels
    ) -> ReverseStep:
        """The guided look at x_t."""

    def evaluations(self, process: GaussianDiffusion, t: Steps) -> int:
        """Network evaluations that one look at t (1,) takes, where there is a label."""
        return 1

    def around(self, reverse: ReverseProcess) -> "GuidedReverse":
        """`reverse`, guided."""
        return GuidedReverse(reverse, self)


@dataclass(frozen=True)
class GuidedReverse:
    """(process, x_t, t, y) -> ReverseStep, as a `ReverseProcess` is."""

    reverse: ReverseProcess
    guidance: Guidance

    def __call__(self, process: GaussianDiffusion, x_t: Images, t: Steps, y: Labels = None) -> ReverseStep:
        return self.guidance.step(self.reverse, process.at(t), x_t, t, y)

    def without_clipping(self) -> "GuidedReverse":
        """The same without clamping x̂_0."""
        return replace(self, reverse=self.reverse.without_clipping())


@dataclass(frozen=True)
class Unguided(Guidance):
    """The network's own p_θ(x_{t−1}|x_t, y)."""

    guides = False

    def step(
        self, reverse: ReverseProcess, process: GaussianDiffusion, x_t: Images, t: Steps, y: Labels
    ) -> ReverseStep:
        return reverse(process, x_t, t, y)


@dataclass(frozen=True)
class ClassifierFree(Guidance):
    """output = output(∅) + s·(output(y) − output(∅)), Σ from the branch that knows y (Ho & Salimans 2022, eq. 6).

    At a given x_t every prediction is an affine map of ε with the same offset in both branches, and the weights 1 − s and s add
    up to 1: combining raw outputs *is* combining ε̂, x̂_0 or v̂. Clipping comes after.

    Parameters
    ----------
    scale: s ≥ 0. 1 is the conditional model and 0 the unconditional one, exactly and with one evaluation instead of two.
    interval: [lo, hi], t of the original chain, both ends included: s acts there only, and the model is the conditional one
        elsewhere (Kynkäänniemi et al. 2024). None: everywhere.
    """

    scale: float = 2.0
    interval: Sequence[int] | None = None
    needs_null_class = True

    def __post_init__(self) -> None:
        _check_scale(self.scale)
        if self.interval is not None and not (len(self.interval) == 2 and 1 <= self.interval[0] <= self.interval[1]):
            raise ValueError(
                f"guidance.interval={list(self.interval)}: it is [lo, hi] with 1 ≤ lo ≤ hi, steps of the full chain"
            )

    def step(
        self, reverse: ReverseProcess, process: GaussianDiffusion, x_t: Images, t: Steps, y: Labels
    ) -> ReverseStep:
        inside = self._inside(process, t)
        if y is None or self.scale == 1 or not inside.any():
            return reverse(process, x_t, t, y)
        nothing = torch.full_like(y, reverse.null_class)
        if self.scale == 0:
            return reverse(process, x_t, t, torch.where(inside, nothing, y))
        output, v = reverse.evaluate(process, torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([y, nothing]))
        conditional, unconditional = output.chunk(2)
        guided = unconditional + self.scale * (conditional - unconditional)
        output = torch.where(inside.reshape(-1, *[1] * (x_t.ndim - 1)), guided, conditional)
        return reverse.from_output(process, output, None if v is None else v[: len(x_t)], x_t, t)

    def evaluations(self, process: GaussianDiffusion, t: Steps) -> int:
        return 2 if self.scale not in (0, 1) and bool(self._inside(process, t).any()) else 1

    def _inside(self, process: GaussianDiffusion, t: Steps) -> Bool[Tensor, " b"]:
        """Where the scale acts."""
        if self.interval is None:
            return torch.ones_like(t, dtype=torch.bool)
        original = process.shown(t) + 1
        return (original >= self.interval[0]) & (original <= self.interval[1])


@dataclass(frozen=True)
class ClassifierGuidance(Guidance):
    """μ̂ = μ_θ + s·Σ_θ·g and ε̂ = ε_θ − s·σ_t·g, g = ∇ log p(y|x_t) (Dhariwal & Nichol 2021, algorithms 1 and 2).

    The first is what ancestral steps read, the second what all others read. x̂_0 follows ε̂, and is clipped again where the reverse
    process clips it. The network may know the classes too, or none.

    Parameters
    ----------
    classifier: (x_t (B, …), timesteps int64 (B,)) -> logits (B, num_classes), differentiable. It sees the 0-based index of the
        step in the original chain, as the network does.
    scale: s ≥ 0; 0 leaves the process alone and asks no classifier.
    name: of the classifier, for the record.
    """

    classifier: Callable[[Tensor, Tensor], Tensor] = field(repr=False)
    num_classes: int
    scale: float = 1.0
    name: str = ""

    def __post_init__(self) -> None:
        _check_scale(self.scale)

    def step(
        self, reverse: ReverseProcess, process: GaussianDiffusion, x_t: Images, t: Steps, y: Labels
    ) -> ReverseStep:
        look = reverse(process, x_t, t, y if reverse.null_class is not None else None)
        if y is None or self.scale == 0:
            return look
        shift = self.scale * self._gradient(x_t, process.shown(t), y)
        distribution = look.distribution
        mean = distribution.mean + distribution.log_variance.exp() * shift
        eps = look.eps - per_sample(process.noise(t), x_t) * shift
        guess = x_0_from_eps(process, eps, x_t, t)
        x_0 = reverse.clip_x_0(guess)
        eps = eps if x_0 is guess else eps_from_x_0(process, x_0, x_t, t)
        return replace(look, distribution=Gaussian(mean, distribution.log_variance), x_0=x_0, eps=eps)

    def _gradient(self, x_t: Images, timesteps: Steps, y: Labels) -> Float[Tensor, "b *dims"]:
        """∇ log p(y|x_t) with respect to x_t, nats."""
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            log_p = self.classifier(x, timesteps).log_softmax(dim=1)
            return torch.autograd.grad(log_p.gather(1, y[:, None]).sum(), x)[0]


def _check_scale(scale: float) -> None:
    if not (0 <= scale < math.inf):
        raise ValueError(f"guidance.scale={scale}: a scale is a number of at least 0")
