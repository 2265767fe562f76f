"""Guidance: reverse processes built from others, which move samples towards a class, or away from a weaker model.

    x̂ = x̂_weak + s·(x̂_θ − x̂_weak)                                                                          (1)

    classifier-free   x̂_weak: the same network without its condition       Ho & Salimans 2022, eq. 6, with s = 1 + w
    autoguidance      x̂_weak: a weaker network with the same condition     Karras et al. 2024, "Guiding a Diffusion Model with
                                                                           a Bad Version of Itself", section 3, with s = w

(or both, a weaker network without a condition). At a given x_t every prediction (x̂_0, ε̂, v̂) is the same affine map of ε̂ in both
terms, and the weights s and 1 − s add up to 1: (1) on the network's outputs is (1) on each of them. Clipping comes after.

A classifier p(y|x_t) guides by its gradient (Dhariwal & Nichol 2021, algorithms 1 and 2):

    μ̂ = μ_θ + s·Σ_θ·∇ log p(y|x_t),   ε̂ = ε_θ − s·σ_t·∇ log p(y|x_t)                                       (2)

A guided process is a reverse process too, so samplers and the bound do not depend on guidance.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from diffusion_lab.diffusion.chain import GaussianDiffusion
from diffusion_lab.diffusion.forward import per_sample
from diffusion_lab.diffusion.gaussian import Gaussian
from diffusion_lab.diffusion.parts import classes_in, joined, left_out, where
from diffusion_lab.diffusion.predictions import eps_from_x_0, x_0_from_eps
from diffusion_lab.diffusion.reverse import ReverseProcess, ReverseStep
from diffusion_lab.diffusion.shapes import Conditions, Images, Number, Steps

Interval = Sequence[float | int] | None  # [lo, hi]
Acts = Bool[Tensor, " b"] | None  # for which samples a guidance acts; None: for all


@dataclass(frozen=True, repr=False)
class Worse:
    """The weaker model: another model, or an earlier moment of the same training; by default the model itself.

    Parameters
    ----------
    moment: a share of the training, or the name of a moment.
    reverse: the weaker reverse process; None for a moment of the model's own training whose weights are not loaded yet.
    name: of another model, for the record. conditions: its sizes of conditions.
    """

    moment: Number | str | None = None
    reverse: ReverseProcess | None = None
    name: str = ""
    conditions: Sequence[int | Sequence[int]] = ()

    def __post_init__(self) -> None:
        if isinstance(self.moment, float | int) and not 0 < self.moment < 1:
            raise ValueError(f"guidance.moment={self.moment} must be a share of the training, between 0 and 1")

    def __repr__(self) -> str:
        return self.name or ("itself" if self.moment is None else f"itself at {self.moment} of its training")

    @property
    def own_moment(self) -> Number | str | None:
        """The moment of the model's own training that is to be loaded; None if there is none."""
        return self.moment if self.reverse is None else None

    @property
    def is_itself(self) -> bool:
        return self.reverse is None and self.moment is None


class Guidance(ABC):
    """A modification of p_θ(x_{t−1}|x_t) towards the conditions y, or towards better images.

    `guides`: it changes the prediction. `needs_null`: it evaluates a network with and without the condition, and thus needs one
    trained for both. `num_classes`: of a guiding classifier; None if only the network has classes. `worse`: the weaker model.
    `scale`: s. `interval`, `log_snr_interval`: where it acts, [lo, hi] in t of the original chain or in log SNR; None: everywhere.
    Elsewhere the model is unchanged (Kynkäänniemi et al. 2024, "Applying Guidance in a Limited Interval").
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]  # every guidance is a dataclass
    guides: ClassVar[bool] = True
    needs_null: ClassVar[bool] = False
    num_classes: int | None = None
    worse: Worse | None = None
    scale: Number = 1.0
    interval: Interval = None
    log_snr_interval: Interval = None

    def __post_init__(self) -> None:
        t, log_snr = self.interval, self.log_snr_interval
        if t is not None and log_snr is not None:
            raise ValueError("guidance.interval and guidance.log_snr_interval both set the interval: give one of them")
        if t is not None and not (len(t) == 2 and 1 <= t[0] <= t[1]):
            raise ValueError(f"guidance.interval={list(t)} must be [lo, hi] with 1 ≤ lo ≤ hi, steps of the full chain")
        if log_snr is not None and not (len(log_snr) == 2 and log_snr[0] <= log_snr[1]):
            raise ValueError(
                f"guidance.log_snr_interval={list(log_snr)}: give [lo, hi] with lo ≤ hi (noise has a low log SNR)"
            )
        if not (0 <= self.scale < math.inf):
            raise ValueError(f"guidance.scale={self.scale} must be at least 0")

    @abstractmethod
    def step(
        self, reverse: ReverseProcess, process: GaussianDiffusion, x_t: Images, t: Steps, y: Conditions, acts: Acts
    ) -> ReverseStep:
        """The evaluation of `reverse` at x_t, guided for the samples for which the guidance acts."""

    def known(self, reverse: ReverseProcess, y: Conditions) -> Conditions:
        """The conditions that the network itself is given."""
        return y

    def acts_at(self, process: GaussianDiffusion, t: int | Steps) -> Any:
        """Whether t lies in the interval, ends included: bool of a step, bool (B,) of the steps of samples."""
        row: Any = process.row(t) if isinstance(t, Tensor) else process.numbers(t)
        place, (lo, hi) = row.time, self.interval or (-math.inf, math.inf)
        if self.log_snr_interval is not None:
            log = torch.log if isinstance(t, Tensor) else math.log
            place, (lo, hi) = 2 * log(row.signal / row.sigma), self.log_snr_interval
        return (place >= lo) & (place <= hi)

    def evaluations(self, process: GaussianDiffusion, t: int) -> int:
        """Network evaluations of one step at t for a sample with a condition."""
        return 1

    def around(self, reverse: ReverseProcess) -> "GuidedReverse":
        """`reverse` with this guidance."""
        return GuidedReverse(reverse, self)


@dataclass(frozen=True)
class GuidedReverse:
    """A guided reverse process: (process, x_t, t, y) -> ReverseStep, like `ReverseProcess`."""

    reverse: ReverseProcess
    guidance: Guidance

    def __call__(self, process: GaussianDiffusion, x_t: Images, t: Steps, y: Conditions = None) -> ReverseStep:
        acts = self.guidance.acts_at(process, t)
        if t.device.type == "cpu" and not acts.any():  # on a GPU the check would wait
            return self._unguided(process, x_t, t, y)
        return self._guided(process, x_t, t, y, acts)

    def at_step(self, process: GaussianDiffusion, t: int) -> Callable[..., ReverseStep]:
        """The evaluation for samples that are all at step t: outside the interval, that of the model alone."""
        return self._guided if self.guidance.acts_at(process, t) else self._unguided

    def _guided(
        self, process: GaussianDiffusion, x_t: Images, t: Steps, y: Conditions = None, acts: Acts = None
    ) -> ReverseStep:
        return self.guidance.step(self.reverse, process, x_t, t, y, acts)

    def _unguided(self, process: GaussianDiffusion, x_t: Images, t: Steps, y: Conditions = None) -> ReverseStep:
        return self.reverse(process, x_t, t, self.guidance.known(self.reverse, y))

    def without_clipping(self) -> "GuidedReverse":
        """The same without clipping x̂_0."""
        return replace(self, reverse=self.reverse.without_clipping())


class Extrapolation(Guidance):
    """output_weak + s·(output − output_weak), equation (1); Σ is the model's own.

    The weak prediction is that of `worse`, or of the model itself, with the same conditions or, if `needs_null`, without any.
    """

    def step(
        self, reverse: ReverseProcess, process: GaussianDiffusion, x_t: Images, t: Steps, y: Conditions, acts: Acts
    ) -> ReverseStep:
        if self.scale == 1 or (self.needs_null and y is None):
            return reverse(process, x_t, t, y)
        weak = reverse if self.worse is None else self.worse.reverse
        if weak is None:
            raise ValueError(
                f"guidance: the weights of the weaker model ({self.worse}) are not loaded; load them first"
            )
        if weak is reverse and weak.null is None:
            raise ValueError(
                "classifier-free guidance needs a network that was trained without conditions too: model.condition_dropout"
            )
        y_weak = None if weak.null is None else left_out(y, weak.null) if self.needs_null else y
        if weak is not reverse:
            output, v = reverse.evaluate(process, x_t, t, y)
            predicted = weak.without_clipping()(process, x_t, t, y_weak)
            output_weak = reverse.prediction.target(process, predicted.x_0, predicted.eps, t)
        elif self.scale == 0:
            return reverse(process, x_t, t, y_weak if acts is None else where(acts, y_weak, y))
        else:
            both, v = reverse.evaluate(process, torch.cat([x_t, x_t]), torch.cat([t, t]), joined(y, y_weak))
            output, output_weak = both.chunk(2)
            v = None if v is None else v[: len(x_t)]
        guided = output_weak + self.scale * (output - output_weak)
        return reverse.from_output(process, _chosen(acts, guided, output), v, x_t, t)

    def evaluations(self, process: GaussianDiffusion, t: int) -> int:
        one = (0, 1) if self.worse is None else (1,)
        return 2 if self.scale not in one and self.acts_at(process, t) else 1


@dataclass(frozen=True)
class Unguided(Extrapolation):
    """The network's own p_θ(x_{t−1}|x_t, y): s = 1."""

    guides = False


@dataclass(frozen=True)
class ClassifierFree(Extrapolation):
    """output(∅) + s·(output(y) − output(∅)), Σ of the branch with y (Ho & Salimans 2022, eq. 6).

    Parameters
    ----------
    scale: s ≥ 0. 1 is the conditional model and 0 the unconditional one, exactly and with one evaluation instead of two.
    worse: the model of output(∅); None: the model itself.
    """

    scale: Number = 2.0
    interval: Interval = None
    log_snr_interval: Interval = None
    worse: Worse | None = None
    needs_null = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.worse is not None and self.worse.is_itself:
            object.__setattr__(self, "worse", None)


@dataclass(frozen=True)
class Autoguidance(Extrapolation):
    """output_worse + s·(output − output_worse), with the same conditions in both (Karras et al. 2024).

    The weaker model, a smaller network or an earlier moment of the same training, makes the same errors, but larger ones, so
    extrapolating from it through the model reduces them.

    Parameters
    ----------
    worse: the weaker model. Its prediction is converted to the model's, so the two may predict different quantities.
    scale: s ≥ 0. 1 is the model itself, with one evaluation instead of two; 0 gives the mean of the weaker model.
    """

    worse: Worse
    scale: Number = 2.0
    interval: Interval = None
    log_snr_interval: Interval = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.worse is None or self.worse.is_itself:
            raise ValueError("autoguidance needs a worse model: set guidance.moment or guidance.model")


@dataclass(frozen=True)
class ClassifierGuidance(Guidance):
    """μ̂ = μ_θ + s·Σ_θ·g and ε̂ = ε_θ − s·σ_t·g, g = ∇ log p(y|x_t): equation (2).

    Ancestral steps use the first, all others the second. x̂_0 follows ε̂, and is clipped again if the reverse process
    clips it. The network may also be conditioned on classes, or not.

    Parameters
    ----------
    classifier: (x_t (B, …), timesteps int64 (B,)) -> logits (B, num_classes), differentiable. It sees the 0-based index of the
        step in the original chain, like the network.
    scale: s ≥ 0; 0 leaves the process as it is and evaluates no classifier.
    name: of the classifier, for the record.
    """

    classifier: Callable[[Tensor, Tensor], Tensor] = field(repr=False)
    num_classes: int
    scale: Number = 1.0
    name: str = ""
    interval: Interval = None
    log_snr_interval: Interval = None

    def known(self, reverse: ReverseProcess, y: Conditions) -> Conditions:
        return None if reverse.null is None else y

    def step(
        self, reverse: ReverseProcess, process: GaussianDiffusion, x_t: Images, t: Steps, y: Conditions, acts: Acts
    ) -> ReverseStep:
        plain, classes = reverse(process, x_t, t, self.known(reverse, y)), classes_in(y)
        if classes is None or self.scale == 0:
            return plain
        shift = self.scale * self._gradient(x_t, process.network_time(t), classes)
        mean, log_variance = plain.distribution.mean, plain.distribution.log_variance
        mean = _chosen(acts, mean + log_variance.exp() * shift, mean)
        eps = plain.eps - per_sample(process.sigma(t), x_t) * shift
        guess = x_0_from_eps(process, eps, x_t, t)
        x_0 = reverse.clipping(guess)
        eps = eps if x_0 is guess else eps_from_x_0(process, x_0, x_t, t)
        x_0, eps = _chosen(acts, x_0, plain.x_0), _chosen(acts, eps, plain.eps)
        return replace(plain, distribution=Gaussian(mean, log_variance), x_0=x_0, eps=eps)

    def _gradient(self, x_t: Images, timesteps: Steps, y: Int64[Tensor, " b"]) -> Float[Tensor, "b *dims"]:
        """∇ log p(y|x_t) with respect to x_t, nats."""
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            # A view, because torch's FLOP counter rejects gradients of a module's own input tensor.
            log_p = self.classifier(x.view_as(x), timesteps).log_softmax(dim=1)
            return torch.autograd.grad(log_p.gather(1, y[:, None]).sum(), x)[0]


def _chosen(acts: Acts, guided: Images, plain: Images) -> Images:
    """`guided` for the samples for which the guidance acts, `plain` for the others."""
    return guided if acts is None else torch.where(acts.reshape(-1, *[1] * (guided.ndim - 1)), guided, plain)
