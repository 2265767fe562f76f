"""Guidance: reverse processes built from others, which move samples towards a class, or away from the errors of a weaker model.

    classifier-free   ε̂ = ε_θ(x_t) + s·(ε_θ(x_t, y) − ε_θ(x_t))            Ho & Salimans 2022, eq. 6, with s = 1 + w
    autoguidance      x̂_0 = x̂_worse + s·(x̂_θ − x̂_worse)                     Karras et al. 2024, "Guiding a Diffusion Model with
                                                                           a Bad Version of Itself"
    classifier        μ̂ = μ_θ + s·Σ_θ·∇ log p(y|x_t)                       Dhariwal & Nichol 2021, algorithm 1
                      ε̂ = ε_θ − s·σ_t·∇ log p(y|x_t)                       algorithm 2, σ_t = √(1 − ᾱ_t)

s = 1 is Bayes' rule, p(x|y) ∝ p(x)·p(y|x); larger s sharpens the classes: more precision, less recall. In
autoguidance s = 1 is the model itself; larger s avoids errors typical of the weaker model. A guided process returns a
`ReverseStep` too, so samplers and the bound do not depend on it. As it takes the *process*, a respaced process gives Σ of its
longer strides.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple

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
_EVERYWHERE = -math.inf, math.inf


@dataclass(frozen=True, repr=False)
class Worse:
    """The weaker model of autoguidance: another model, or an earlier moment of the same training; by default the model itself.

    Parameters
    ----------
    moment: a share of the training, or the name of a moment.
    reverse: the reverse process of another model. name: its name, for the record. conditions: its sizes of conditions.
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
        """The moment of the model's own training; None for another model."""
        return self.moment if self.reverse is None else None

    @property
    def is_itself(self) -> bool:
        return self.reverse is None and self.moment is None

    def beside(self, earlier: Callable[[Number | str], ReverseProcess] | None) -> ReverseProcess | None:
        """Its reverse process; None for the model itself, and for a moment if `earlier` is None."""
        moment = self.own_moment
        return earlier(moment) if moment is not None and earlier is not None else self.reverse


class ReverseInputs(NamedTuple):
    """The arguments of a reverse process: x_t at t of a process, with conditions y."""

    process: GaussianDiffusion
    x_t: Images
    t: Steps
    y: Conditions


class Guidance(ABC):
    """A modification of p_θ(x_{t−1}|x_t) towards the conditions y, or towards better images.

    `guides`: it changes the prediction. `needs_null`: it evaluates a network with and without the condition, and thus needs one
    trained for both.
    `num_classes`: of a guiding classifier; None if only the network has classes. `worse`: the weaker model of autoguidance.
    `interval`, `log_snr_interval`: where it acts, in t of the original chain or in log SNR, ends included;
    outside the model is unchanged (Kynkäänniemi et al. 2024).
    """

    guides: ClassVar[bool] = True
    needs_null: ClassVar[bool] = False
    num_classes: int | None = None
    worse: Worse | None = None
    interval: Interval = None
    log_snr_interval: Interval = None

    @abstractmethod
    def step(self, reverse: ReverseProcess, worse: ReverseProcess | None, inputs: ReverseInputs) -> ReverseStep:
        """The guided evaluation. worse: None for the model itself."""

    def unguided(self, reverse: ReverseProcess, inputs: ReverseInputs) -> ReverseStep:
        """The evaluation outside the interval."""
        return reverse(*inputs)

    def evaluations(self, process: GaussianDiffusion, t: int) -> int:
        """Network evaluations of one step at t for a sample with a condition."""
        return 1

    def acts(self, process: GaussianDiffusion, t: Steps) -> Bool[Tensor, " b"]:
        """Whether t lies in the interval, both ends included. `interval` counts t of the original chain."""
        place = process.time(t) if self.log_snr_interval is None else process.log_snr(t)
        lo, hi = self.interval or self.log_snr_interval or _EVERYWHERE
        return (place >= lo) & (place <= hi)

    def acts_at(self, process: GaussianDiffusion, t: int) -> bool:
        """The same if all samples are at one step."""
        row = process.numbers(t)
        place = row.time if self.log_snr_interval is None else 2 * math.log(row.signal / row.sigma)
        lo, hi = self.interval or self.log_snr_interval or _EVERYWHERE
        return lo <= place <= hi

    def around(
        self, reverse: ReverseProcess, earlier: Callable[[Number | str], ReverseProcess] | None = None
    ) -> "GuidedReverse":
        """`reverse` with this guidance. earlier: loads earlier moments; None: not available yet, so guidance by them is off."""
        return GuidedReverse(reverse, self, None if self.worse is None else self.worse.beside(earlier))


@dataclass(frozen=True)
class GuidedReverse:
    """A guided reverse process: (process, x_t, t, y) -> ReverseStep, like `ReverseProcess`."""

    reverse: ReverseProcess
    guidance: Guidance
    worse: ReverseProcess | None = None

    def __call__(self, process: GaussianDiffusion, x_t: Images, t: Steps, y: Conditions = None) -> ReverseStep:
        if t.device.type == "cpu" and not self.guidance.acts(process, t).any():  # on a GPU the check would wait
            return self._unguided(process, x_t, t, y)
        return self._guided(process, x_t, t, y)

    def at_step(self, process: GaussianDiffusion, t: int) -> Callable[..., ReverseStep]:
        """The evaluation for samples that are all at step t, which outside the interval skips the guiding evaluations."""
        return self._guided if self.guidance.acts_at(process, t) else self._unguided

    def _guided(self, process: GaussianDiffusion, x_t: Images, t: Steps, y: Conditions = None) -> ReverseStep:
        return self.guidance.step(self.reverse, self.worse, ReverseInputs(process, x_t, t, y))

    def _unguided(self, process: GaussianDiffusion, x_t: Images, t: Steps, y: Conditions = None) -> ReverseStep:
        return self.guidance.unguided(self.reverse, ReverseInputs(process, x_t, t, y))

    def without_clipping(self) -> "GuidedReverse":
        """The same without clipping x̂_0."""
        return replace(self, reverse=self.reverse.without_clipping())


@dataclass(frozen=True)
class Unguided(Guidance):
    """The network's own p_θ(x_{t−1}|x_t, y)."""

    guides = False

    def step(self, reverse: ReverseProcess, worse: ReverseProcess | None, inputs: ReverseInputs) -> ReverseStep:
        return reverse(*inputs)


@dataclass(frozen=True)
class ClassifierFree(Guidance):
    """output = output(∅) + s·(output(y) − output(∅)), Σ from the branch with y (Ho & Salimans 2022, eq. 6).

    At a given x_t every prediction is an affine map of ε with the same offset in both branches, and the weights 1 − s and s add
    up to 1: combining raw outputs *is* combining ε̂, x̂_0 or v̂. Clipping comes after.

    Parameters
    ----------
    scale: s ≥ 0. 1 is the conditional model and 0 the unconditional one, exactly and with one evaluation instead of two.
    worse: the model of output(∅); None: the model itself. With it, guidance is away from a weaker, unconditional model.
    """

    scale: Number = 2.0
    interval: Interval = None
    log_snr_interval: Interval = None
    worse: Worse | None = None
    needs_null = True

    def __post_init__(self) -> None:
        _check(self.scale, self.interval, self.log_snr_interval)
        if self.worse is not None and self.worse.is_itself:
            object.__setattr__(self, "worse", None)

    def step(self, reverse: ReverseProcess, worse: ReverseProcess | None, inputs: ReverseInputs) -> ReverseStep:
        process, x_t, t, y = inputs
        if y is None or self.scale == 1:
            return reverse(*inputs)
        acts = self.acts(process, t)
        if worse is not None:
            nothing = None if worse.null is None else left_out(y, worse.null)
            return _away_from(worse, nothing, self.scale, acts, reverse, inputs)
        if reverse.null is None:
            raise ValueError(
                "classifier-free guidance needs a network that was trained without conditions too: model.condition_dropout"
            )
        nothing = left_out(y, reverse.null)
        if self.scale == 0:
            return reverse(process, x_t, t, where(acts, nothing, y))
        output, v = reverse.evaluate(process, torch.cat([x_t, x_t]), torch.cat([t, t]), joined(y, nothing))
        conditional, unconditional = output.chunk(2)
        output = _extrapolated(unconditional, conditional, self.scale, acts)
        return reverse.from_output(process, output, None if v is None else v[: len(x_t)], x_t, t)

    def evaluations(self, process: GaussianDiffusion, t: int) -> int:
        spared = (1,) if self.worse is not None else (0, 1)
        return 2 if self.scale not in spared and self.acts_at(process, t) else 1


@dataclass(frozen=True)
class Autoguidance(Guidance):
    """output = output_worse + s·(output − output_worse), with the same conditions in both; Σ is the model's own.

    The weaker model makes the same errors, but larger ones, so extrapolating from it through the model reduces them
    (Karras et al. 2024). It is a smaller network, or an earlier moment of the same training.

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
        _check(self.scale, self.interval, self.log_snr_interval)
        if self.worse is None or self.worse.is_itself:
            raise ValueError("autoguidance needs a worse model: set guidance.moment or guidance.model")

    def step(self, reverse: ReverseProcess, worse: ReverseProcess | None, inputs: ReverseInputs) -> ReverseStep:
        if worse is None or self.scale == 1:
            return reverse(*inputs)
        return _away_from(worse, inputs.y, self.scale, self.acts(inputs.process, inputs.t), reverse, inputs)

    def evaluations(self, process: GaussianDiffusion, t: int) -> int:
        return 2 if self.scale != 1 and self.acts_at(process, t) else 1


def _away_from(
    worse: ReverseProcess,
    conditions: Conditions,
    scale: Number,
    acts: Bool[Tensor, " b"],
    reverse: ReverseProcess,
    inputs: ReverseInputs,
) -> ReverseStep:
    """`reverse`, guided away from `worse`, which is given the `conditions` if it uses any."""
    process, x_t, t, y = inputs
    output, v = reverse.evaluate(process, x_t, t, y)
    predicted = worse.without_clipping()(process, x_t, t, conditions if worse.null is not None else None)
    base = reverse.prediction.target(process, predicted.x_0, predicted.eps, t)
    return reverse.from_output(process, _extrapolated(base, output, scale, acts), v, x_t, t)


def _extrapolated(base: Images, output: Images, scale: Number, acts: Bool[Tensor, " b"]) -> Images:
    """base + s·(output − base) where the guidance acts."""
    return torch.where(acts.reshape(-1, *[1] * (output.ndim - 1)), base + scale * (output - base), output)


@dataclass(frozen=True)
class ClassifierGuidance(Guidance):
    """μ̂ = μ_θ + s·Σ_θ·g and ε̂ = ε_θ − s·σ_t·g, g = ∇ log p(y|x_t) (Dhariwal & Nichol 2021, algorithms 1 and 2).

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

    def __post_init__(self) -> None:
        _check(self.scale, self.interval, self.log_snr_interval)

    def step(self, reverse: ReverseProcess, worse: ReverseProcess | None, inputs: ReverseInputs) -> ReverseStep:
        process, x_t, t, y = inputs
        predicted = self.unguided(reverse, inputs)
        classes = classes_in(y)
        if classes is None or self.scale == 0:
            return predicted
        shift = self.scale * self._gradient(x_t, process.network_time(t), classes)
        distribution = predicted.distribution
        mean = distribution.mean + distribution.log_variance.exp() * shift
        eps = predicted.eps - per_sample(process.sigma(t), x_t) * shift
        guess = x_0_from_eps(process, eps, x_t, t)
        x_0 = reverse.clipping(guess)
        eps = eps if x_0 is guess else eps_from_x_0(process, x_0, x_t, t)
        acts = self.acts(process, t).reshape(-1, *[1] * (x_t.ndim - 1))
        mean = torch.where(acts, mean, distribution.mean)
        x_0, eps = torch.where(acts, x_0, predicted.x_0), torch.where(acts, eps, predicted.eps)
        return replace(predicted, distribution=Gaussian(mean, distribution.log_variance), x_0=x_0, eps=eps)

    def unguided(self, reverse: ReverseProcess, inputs: ReverseInputs) -> ReverseStep:
        process, x_t, t, y = inputs
        return reverse(process, x_t, t, y if reverse.null is not None else None)

    def _gradient(self, x_t: Images, timesteps: Steps, y: Int64[Tensor, " b"]) -> Float[Tensor, "b *dims"]:
        """∇ log p(y|x_t) with respect to x_t, nats."""
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            # A view, because torch's FLOP counter rejects gradients of a module's own input tensor.
            log_p = self.classifier(x.view_as(x), timesteps).log_softmax(dim=1)
            return torch.autograd.grad(log_p.gather(1, y[:, None]).sum(), x)[0]


def _check(scale: Number, interval: Interval, log_snr_interval: Interval) -> None:
    if interval is not None and log_snr_interval is not None:
        raise ValueError("guidance.interval and guidance.log_snr_interval both set the interval: give one of them")
    if interval is not None and not (len(interval) == 2 and 1 <= interval[0] <= interval[1]):
        raise ValueError(
            f"guidance.interval={list(interval)} must be [lo, hi] with 1 ≤ lo ≤ hi, steps of the full chain"
        )
    if log_snr_interval is not None and not (len(log_snr_interval) == 2 and log_snr_interval[0] <= log_snr_interval[1]):
        raise ValueError(
            f"guidance.log_snr_interval={list(log_snr_interval)}: give [lo, hi] with lo ≤ hi (noise has a low log SNR)"
        )
    if not (0 <= scale < math.inf):
        raise ValueError(f"guidance.scale={scale} must be at least 0")
