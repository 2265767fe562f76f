"""Losses of a discriminator D and a generator G, and penalties on the slope of D.

    non-saturating   L_D = E softplus(−D(x)) + E softplus(D(G(z)))       L_G = E softplus(−D(G(z)))    Goodfellow et al. 2014
    hinge            L_D = E max(0, 1 − D(x)) + E max(0, 1 + D(G(z)))    L_G = −E D(G(z))              Miyato et al. 2018, eq. 16
    Wasserstein      L_D = E D(G(z)) − E D(x)                            L_G = −E D(G(z))              Arjovsky et al. 2017

    R1                 γ/2 · E ‖∇D(x)‖²                                                               Mescheder et al. 2018, eq. 9
    gradient penalty   λ · E (‖∇D(x̂)‖ − 1)²,   x̂ = u·x + (1 − u)·G(z),  u ~ U(0, 1)                  Gulrajani et al. 2017, eq. 3

D(x) is a logit, or the value of a critic, without a final nonlinearity. A loss states its requirement on the slope of D, and a
regularizer what it provides, so other code depends on neither class.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

Images = Float[Tensor, "b *dims"]
PerSample = Float[Tensor, " b"]
Critic = Callable[[Images], PerSample]


@dataclass(frozen=True)
class AdversarialLoss(ABC):
    """`needs_bounded_slope`: the loss of D has no minimum unless the slope of D is bounded."""

    needs_bounded_slope: ClassVar[bool] = False

    @abstractmethod
    def discriminator(self, real: PerSample, fake: PerSample) -> PerSample:
        """L_D per sample, minimised over D; real: D(x), fake: D(G(z))."""

    @abstractmethod
    def generator(self, fake: PerSample) -> PerSample:
        """L_G per sample, minimised over G; fake: D(G(z))."""

    def accuracy(self, real: PerSample, fake: PerSample) -> tuple[Tensor, Tensor]:
        """The shares of real and of fake samples that D classifies correctly: D(x) > 0, D(G(z)) < 0. Guessing gives 1/2."""
        return (real > 0).double().mean(), (fake < 0).double().mean()


@dataclass(frozen=True)
class NonSaturating(AdversarialLoss):
    """−log σ(D(x)) − log(1 − σ(D(G(z)))), and −log σ(D(G(z))) for G (Goodfellow et al. 2014, section 3).

    At the best D, which is log p/q, the mean of L_D is log 4 − 2·JS(p, q).
    """

    def discriminator(self, real: PerSample, fake: PerSample) -> PerSample:
        return torch.nn.functional.softplus(-real) + torch.nn.functional.softplus(fake)

    def generator(self, fake: PerSample) -> PerSample:
        return torch.nn.functional.softplus(-fake)


@dataclass(frozen=True)
class Hinge(AdversarialLoss):
    """max(0, 1 − D(x)) + max(0, 1 + D(G(z))), and −D(G(z)) for G (Miyato et al. 2018, eq. 16 and 17).

    Samples beyond the margin give D no gradient. At the best D the mean of L_D is 2 − 2·TV(p, q).
    """

    def discriminator(self, real: PerSample, fake: PerSample) -> PerSample:
        return torch.relu(1 - real) + torch.relu(1 + fake)

    def generator(self, fake: PerSample) -> PerSample:
        return -fake


@dataclass(frozen=True)
class Wasserstein(AdversarialLoss):
    """D(G(z)) − D(x), and −D(G(z)) for G: the Kantorovich–Rubinstein distance over D of slope ≤ 1 (Arjovsky et al. 2017).

    A constant added to D has no effect, so accuracy is relative to the midpoint of the two means.
    """

    needs_bounded_slope = True

    def discriminator(self, real: PerSample, fake: PerSample) -> PerSample:
        return fake - real

    def generator(self, fake: PerSample) -> PerSample:
        return -fake

    def accuracy(self, real: PerSample, fake: PerSample) -> tuple[Tensor, Tensor]:
        midpoint = (real.mean() + fake.mean()) / 2
        return super().accuracy(real - midpoint, fake - midpoint)


@dataclass(frozen=True)
class Regularizer(ABC):
    """A penalty on the slope of D, added to L_D every `every` batches with `every` times the weight, which keeps its mean (lazy
    regularization, Karras et al. 2020, section 3.1).

    `penalises`: it uses the slope at all. `bounds_slope`: a small penalty implies a small slope everywhere it is needed.
    """

    every: int = 1
    penalises: ClassVar[bool] = True
    bounds_slope: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"regularizer.every={self.every} must be a whole number of at least 1")

    @abstractmethod
    def where(self, real: Images, fake: Images, u: PerSample) -> Images | None:
        """The points at which the slope of D is computed; u ~ U(0, 1), one per sample. None: nowhere."""

    @abstractmethod
    def penalty(self, squared_slope: PerSample) -> PerSample:
        """The penalty for a slope, given ‖∇D‖²."""

    def __call__(self, critic: Critic, real: Images, fake: Images, u: PerSample, batch: int) -> PerSample | None:
        """The penalty added to L_D at batch number `batch`, already × `every`; None in the batches between. Differentiable in D."""
        points = self.where(real, fake, u) if batch % self.every == 0 else None
        return None if points is None else self.every * self.penalty(squared_slope(critic, points))


@dataclass(frozen=True)
class NoRegularizer(Regularizer):
    """0."""

    penalises = False

    def where(self, real: Images, fake: Images, u: PerSample) -> None:
        return None

    def penalty(self, squared_slope: PerSample) -> PerSample:
        return torch.zeros_like(squared_slope)


@dataclass(frozen=True)
class R1(Regularizer):
    """γ/2 · ‖∇D(x)‖² at real x only: when G generates the data, D is flat there and both stop (Mescheder et al. 2018, eq. 9)."""

    gamma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gamma <= 0:
            raise ValueError(f"regularizer.gamma={self.gamma} must be above 0; use regularizer=none for no penalty")

    def where(self, real: Images, fake: Images, u: PerSample) -> Images:
        return real

    def penalty(self, squared_slope: PerSample) -> PerSample:
        return self.gamma / 2 * squared_slope


@dataclass(frozen=True)
class GradientPenalty(Regularizer):
    """λ · (‖∇D(x̂)‖ − 1)² at x̂ = u·x + (1 − u)·G(z): slope 1 between the data and the samples (Gulrajani et al. 2017)."""

    weight: float = 10.0
    bounds_slope = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight <= 0:
            raise ValueError(f"regularizer.weight={self.weight} must be above 0; use regularizer=none for no penalty")

    def where(self, real: Images, fake: Images, u: PerSample) -> Images:
        return torch.lerp(fake, real, u.view(-1, *[1] * (real.ndim - 1)))

    def penalty(self, squared_slope: PerSample) -> PerSample:
        return self.weight * ((squared_slope + 1e-12).sqrt() - 1).square()  # the square root is not differentiable at 0


def squared_slope(critic: Critic, points: Images) -> PerSample:
    """‖∇_x D(x)‖² at each point; differentiable in the parameters of D, whose row i must depend only on x_i."""
    points = points.detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    return slope.flatten(1).square().sum(1)
