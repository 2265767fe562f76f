"""The reverse process, p_θ(x_s|x_t) = N(μ_θ(x_t, t), Σ_θ(x_t, t))
(Ho et al. 2020, eq. 1, s = t − 1).

(image, timesteps) ← prediction.inputs(x_t, t)            the network's inputs
[output, v]        ← network(image, timesteps, y)
x̂_0                ← clip(prediction.to_x_0(output))       the estimate, in the range of the data
μ_θ                ← the posterior mean at x̂_0,  Σ_θ ← variance(v)
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from .chain import GaussianDiffusion
from .clipping import Clipping, as_clipping
from .condition_parts import Null
from .forward import ForwardProcess
from .gaussian import Gaussian
from .predictions import Prediction, eps_from_x_0
from .shapes import Conditions, Images, Number, Steps, Times
from .variances import Variance


@dataclass(frozen=True)
class ReverseStep:
    """The result of one evaluation at x_t.

    Attributes
    ----------
    distribution: p_θ(x_s|x_t), its log variance broadcasting against the mean.
    x_0, eps: the clean image and the noise that the distribution was built from, (B, …); clipped if the process clips.
    output: the mean part of the network's raw output, (B, …): never clipped.
    v: the variance part of the raw output, None if the variance needs none.
    """

    distribution: Gaussian
    x_0: Images
    eps: Images
    output: Images
    v: Images | None = None


@dataclass(frozen=True)
class ReverseProcess:
    """Network + prediction + variance -> p_θ(x_s|x_t).

    Parameters
    ----------
    network: (image (B, C, …), timesteps (B,), y) -> (B, C·(1 + variance.outputs_per_channel), …): along the channels first the mean
        part, then the variance part. Its inputs come from `prediction.inputs`: usually x_t and, int64, the 0-based
        index of the step in the original chain.
    clip_x_0: clipping of x̂_0 before the mean and ε̂ are computed; True clamps it to [−1, 1], the range of images, and
        False does nothing. For sampling and scoring; objectives use `without_clipping()`.
    null: the value of y that means "no condition", of each part where y has several; None for an unconditional network.
    """

    network: Callable[..., Tensor]
    prediction: Prediction
    variance: Variance
    clip_x_0: Clipping | bool = True
    null: Null = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "clip_x_0", as_clipping(self.clip_x_0))

    @property
    def clipping(self) -> Clipping:
        """`clip_x_0` as a Clipping."""
        return as_clipping(self.clip_x_0)

    def __call__(self, process: GaussianDiffusion, x_t: Images, t: Steps, y: Conditions = None) -> ReverseStep:
        """p_θ(x_s|x_t), t in 1 … process.num_timesteps."""
        output, v = self.evaluate(process, x_t, t, y)
        return self.from_output(process, output, v, x_t, t)

    def evaluate(
        self, process: ForwardProcess, x_t: Images, t: Times, y: Conditions = None, s: Times | None = None
    ) -> tuple[Images, Images | None]:
        """The two parts of the network's raw output, at any t: the mean part, and the variance part or None.

        s: the end of a step from t, for a network of two times (`flow_maps`), its fourth argument in the form of timesteps.
        """
        image, timesteps = self.prediction.inputs(process, x_t, t)
        end = () if s is None else (self.prediction.inputs(process, x_t, s)[1],)
        raw = self.network(image, timesteps, y, *end)
        channels = x_t.shape[1]
        expected = channels * (1 + self.variance.outputs_per_channel)
        if raw.shape[1] != expected:
            raise ValueError(
                f"the network returns {raw.shape[1]} channels; {type(self.variance).__name__} needs {expected}"
            )
        return (raw[:, :channels], raw[:, channels:]) if expected > channels else (raw, None)

    def from_output(
        self, process: GaussianDiffusion, output: Images, v: Images | None, x_t: Images, t: Steps
    ) -> ReverseStep:
        """p_θ(x_s|x_t) from the two parts of an output at x_t."""
        guess = self.prediction.to_x_0(process, output, x_t, t)
        x_0 = self.clipping(guess)
        untouched = x_0 is guess
        eps = self.prediction.to_eps(process, output, x_t, t) if untouched else eps_from_x_0(process, x_0, x_t, t)
        mean = process.q_posterior(x_0, x_t, t).mean
        return ReverseStep(Gaussian(mean, self.variance.log_variance(process, x_t, t, v)), x_0, eps, output, v)

    def at_step(self, process: GaussianDiffusion, t: int) -> "ReverseProcess":
        """The evaluation for samples that are all at step t: itself, because it is the same at every step."""
        return self

    def towards(self, process: ForwardProcess, s: Number) -> "ReverseProcess":
        """The same network at the end s of all steps, for a network of two times: x̂_0 and ε̂ are then the ends of the chord."""

        def network(image: Images, timesteps: Times, y: Conditions) -> Tensor:
            end = self.prediction.inputs(process, image, process.full(s, image))[1]
            return self.network(image, timesteps, y, end)

        return replace(self, network=network)

    def without_clipping(self) -> "ReverseProcess":
        """The same p_θ without clipping x̂_0, for objectives."""
        return replace(self, clip_x_0=False)
