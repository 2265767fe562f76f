"""Guidance: reverse processes built from others, which move samples towards a class, or away from a weak model.

    x̂ = x̂_weak + s·(x̂_θ − x̂_weak)                                                                          (1)

    classifier-free   x̂_weak: the same network without its condition       Ho & Salimans 2022, eq. 6, with s = 1 + w
    autoguidance      x̂_weak: a weak network with the same condition     Karras et al. 2024, "Guiding a Diffusion Model with
                                                                           a Bad Version of Itself", section 3, with s = w

(or both, a weak network without a condition). At a given x_t every prediction (x̂_0, ε̂, v̂) is the same affine map of ε̂ in both
terms, and the weights s and 1 − s add up to 1: (1) on the network's outputs is (1) on each of them. Clipping comes after.

A guided process is a reverse process too, so samplers and the bound do not depend on guidance. Outside its interval it is the
model alone. Guidance by the gradient of a classifier is in `classifier_guidance`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffusion_lab.diffusion.chain import GaussianDiffusion
from diffusion_lab.diffusion.condition_parts import joined, left_out
from diffusion_lab.diffusion.forward import ForwardProcess
from diffusion_lab.diffusion.reverse import ReverseProcess, ReverseStep
from diffusion_lab.diffusion.shapes import Conditions, Images, Number, Steps

Interval = Sequence[float | int] | None  # [lo, hi]


@dataclass(frozen=True, repr=False)
class Worse:
    """The weak model: another one, or an earlier moment of the same training.

    Parameters
    ----------
    moment: a share of the training, or the name of a moment.
    reverse: the weak reverse process; None for a moment whose weights are not loaded yet.
    name: of another model, for the record.
    """

    moment: Number | str | None = None
    reverse: ReverseProcess | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if self.moment is None and self.reverse is None:
            raise ValueError("guidance needs a worse model: set guidance.moment or guidance.model")
        if isinstance(self.moment, float | int) and not 0 < self.moment < 1:
            raise ValueError(f"guidance.moment={self.moment} must be a share of the training, between 0 and 1")

    def __repr__(self) -> str:
        return self.name or f"itself at {self.moment} of its training"


class Guidance(ABC):
    """A modification of p_θ(x_{t−1}|x_t) towards the conditions y, or towards better images.

    `guides`: it changes the prediction. `needs_null`: it evaluates a network with and without the condition, and thus needs one
    trained for both. `num_classes`: of a guiding classifier; None if only the network has classes. `worse`: the weak model.
    `scale`: s; `neutral`: the s that leaves the model unchanged. `interval`, `log_snr_interval`: where it acts, [lo, hi] in t of
    the original chain or in log SNR; None: everywhere. Elsewhere s is the neutral one (Kynkäänniemi et al. 2024, "Applying
    Guidance in a Limited Interval").
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]  # every guidance is a dataclass
    guides: ClassVar[bool] = True
    needs_null: ClassVar[bool] = False
    neutral: ClassVar[float] = 1.0
    num_classes: int | None = None
    worse: Worse | None = None
    scale: Number = 1.0
    interval: Interval = None
    log_snr_interval: Interval = None

    def __post_init__(self) -> None:
        if self.interval is not None and self.log_snr_interval is not None:
            raise ValueError("guidance.interval and guidance.log_snr_interval both set the interval: give one of them")
        _check("interval", self.interval, least=1)
        _check("log_snr_interval", self.log_snr_interval, least=-math.inf)
        if not (0 <= self.scale < math.inf):
            raise ValueError(f"guidance.scale={self.scale} must be at least 0")

    @abstractmethod
    def step(
        self, reverse: ReverseProcess, process: GaussianDiffusion, x_t: Images, t: Steps, y: Conditions = None
    ) -> ReverseStep:
        """The guided evaluation of `reverse` at x_t."""

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


def _check(name: str, interval: Interval, least: Number) -> None:
    if interval is not None and not (len(interval) == 2 and least <= interval[0] <= interval[1]):
        raise ValueError(f"guidance.{name}={list(interval)} must be [lo, hi] with {least} ≤ lo ≤ hi")


@dataclass(frozen=True)
class GuidedReverse:
    """A guided reverse process: (process, x_t, t, y) -> ReverseStep, like `ReverseProcess`."""

    reverse: ReverseProcess
    guidance: Guidance

    def __call__(self, process: GaussianDiffusion, x_t: Images, t: Steps, y: Conditions = None) -> ReverseStep:
        acts = self.guidance.acts_at(process, t)
        everywhere = self.guidance.interval is None and self.guidance.log_snr_interval is None
        on_cpu = t.device.type == "cpu"  # on a GPU a check would wait
        if everywhere or (on_cpu and acts.all()):
            return self._step(True)(process, x_t, t, y)
        plain = self._step(False)(process, x_t, t, y)
        return plain if on_cpu and not acts.any() else _chosen(acts, self._step(True)(process, x_t, t, y), plain)

    def towards(self, process: ForwardProcess, s: Number) -> "GuidedReverse":
        """`ReverseProcess.towards`, with this guidance."""
        return replace(self, reverse=self.reverse.towards(process, s))

    def without_clipping(self) -> "GuidedReverse":
        """The same without clipping x̂_0."""
        return replace(self, reverse=self.reverse.without_clipping())

    def at_step(self, process: GaussianDiffusion, t: int) -> Callable[..., ReverseStep]:
        """The evaluation for samples that are all at step t."""
        return self._step(self.guidance.acts_at(process, t))

    def _step(self, acts: bool) -> Callable[..., ReverseStep]:
        guidance = self.guidance if acts else replace(self.guidance, scale=self.guidance.neutral)
        return partial(guidance.step, self.reverse)


def _chosen(acts: Tensor, guided: Any, plain: Any) -> Any:
    """The rows of two steps: `guided` where acts, bool (B,), is true, `plain` elsewhere."""
    if isinstance(guided, Tensor):
        return torch.where(acts.reshape(-1, *[1] * (guided.ndim - 1)), guided, plain)
    parts = ((part.name, getattr(guided, part.name), getattr(plain, part.name)) for part in fields(guided))
    return replace(guided, **{name: _chosen(acts, one, other) for name, one, other in parts if one is not None})


class Extrapolation(Guidance):
    """output_weak + s·(output − output_weak), equation (1); Σ is the model's own.

    The weak prediction is that of `worse`, or of the model itself, with the same conditions or, if `needs_null`, without any.
    """

    def step(
        self, reverse: ReverseProcess, process: GaussianDiffusion, x_t: Images, t: Steps, y: Conditions = None
    ) -> ReverseStep:
        if self.scale == 1 or (self.needs_null and y is None):
            return reverse(process, x_t, t, y)
        weak = reverse if self.worse is None else self.worse.reverse
        if weak is None:
            raise ValueError(f"guidance: the weights of the weaker model ({self.worse}) are not loaded")
        if weak is reverse and weak.null is None:
            raise ValueError("classifier-free guidance needs a network that was also trained without conditions")
        y_weak = None if weak.null is None else left_out(y, weak.null) if self.needs_null else y
        if weak is reverse and self.scale == 0:
            return reverse(process, x_t, t, y_weak)
        output, output_weak, v = _both(reverse, weak, process, x_t, t, y, y_weak)
        return reverse.from_output(process, output_weak + self.scale * (output - output_weak), v, x_t, t)

    def evaluations(self, process: GaussianDiffusion, t: int) -> int:
        one = (0, 1) if self.worse is None else (1,)
        return 2 if self.scale not in one and self.acts_at(process, t) else 1


def _both(
    reverse: ReverseProcess,
    weak: ReverseProcess,
    process: GaussianDiffusion,
    x_t: Images,
    t: Steps,
    y: Conditions,
    y_weak: Conditions,
) -> tuple[Images, Images, Images | None]:
    """(output, output_weak, v): one evaluation of a doubled batch, or of each network one, output_weak then converted."""
    if weak is reverse:
        both, v = reverse.evaluate(process, torch.cat([x_t, x_t]), torch.cat([t, t]), joined(y, y_weak))
        output, output_weak = both.chunk(2)
        return output, output_weak, None if v is None else v[: len(x_t)]
    output, v = reverse.evaluate(process, x_t, t, y)
    predicted = weak.without_clipping()(process, x_t, t, y_weak)
    return output, reverse.prediction.target(process, predicted.x_0, predicted.eps, t), v


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


@dataclass(frozen=True)
class Autoguidance(Extrapolation):
    """output_weak + s·(output − output_weak), with the same conditions in both (Karras et al. 2024).

    The weak model, a smaller network or an earlier moment of the same training, makes the same errors, but larger ones, so
    extrapolating from it through the model reduces them.

    Parameters
    ----------
    worse: the weak model. Its prediction is converted to the model's, so the two may predict different quantities.
    scale: s ≥ 0. 1 is the model itself, with one evaluation instead of two; 0 gives the mean of the weak model.
    """

    worse: Worse
    scale: Number = 2.0
    interval: Interval = None
    log_snr_interval: Interval = None
