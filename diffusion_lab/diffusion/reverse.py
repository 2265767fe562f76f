"""What is a less noisy image, given a noisy one? p_θ(x_{t−1}|x_t) = N(μ_θ(x_t, t), Σ_θ(x_t, t)) (Ho et al. 2020, eq. 1).

μ_θ is the posterior mean μ̃_t(x_t, x̂_0) at the x̂_0 that the network predicts, Σ_θ is what the variance makes of it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from .gaussian import Gaussian
from .predictions import Prediction, eps_from_x_0
from .process import GaussianDiffusion
from .shapes import Images, Labels, Steps
from .variances import Variance


@dataclass(frozen=True)
class ReverseStep:
    """One look at x_t.

    Attributes
    ----------
    distribution: p_θ(x_{t−1}|x_t), its log variance broadcasting against the mean.
    x_0, eps: the clean image and the noise that the distribution was built from, (B, …); clipped if the process clips.
    output: the mean part of the network's raw output, (B, …): never clipped.
    """

    distribution: Gaussian
    x_0: Images
    eps: Images
    output: Images


@dataclass(frozen=True)
class ReverseProcess:
    """Network + prediction + variance -> p_θ(x_{t−1}|x_t).

    Parameters
    ----------
    network: (x_t (B, C, …), timesteps int64 (B,), y) -> (B, C·(1 + variance.outputs_per_channel), …): along the channels first
        the mean part, then the variance part. It sees the 0-based index of the step in the original chain.
    clip_x_0: clamp x̂_0 to [−1, 1], the range of images, before the mean is computed, and take ε̂ from the clamped x̂_0. For
        sampling and scoring; objectives ask `without_clipping()`.
    null_class: the label that means "no label"; None for a network that takes no labels.
    """

    network: Callable[..., Tensor]
    prediction: Prediction
    variance: Variance
    clip_x_0: bool = True
    null_class: int | None = None

    def __call__(self, process: GaussianDiffusion, x_t: Images, t: Steps, y: Labels = None) -> ReverseStep:
        """p_θ(x_{t−1}|x_t), t in 1 … process.num_timesteps; t = 0 is an error (see `process.shown`)."""
        output, v = self.evaluate(process, x_t, t, y)
        return self.from_output(process, output, v, x_t, t)

    def evaluate(
        self, process: GaussianDiffusion, x_t: Images, t: Steps, y: Labels = None
    ) -> tuple[Images, Images | None]:
        """The two parts of the network's raw output: the mean part, and the variance part where there is one."""
        raw = self.network(x_t, process.shown(t), y)
        channels = x_t.shape[1]
        expected = channels * (1 + self.variance.outputs_per_channel)
        if raw.shape[1] != expected:
            raise ValueError(
                f"the network gives {raw.shape[1]} channels; {type(self.variance).__name__} needs {expected}"
            )
        return (raw[:, :channels], raw[:, channels:]) if expected > channels else (raw, None)

    def from_output(
        self, process: GaussianDiffusion, output: Images, v: Images | None, x_t: Images, t: Steps
    ) -> ReverseStep:
        """p_θ(x_{t−1}|x_t) of the two parts of an output at x_t."""
        x_0 = self.prediction.to_x_0(process, output, x_t, t)
        if self.clip_x_0:
            x_0 = x_0.clamp(-1, 1)
            eps = eps_from_x_0(process, x_0, x_t, t)
        else:
            eps = self.prediction.to_eps(process, output, x_t, t)
        mean = process.q_posterior(x_0, x_t, t).mean
        log_variance = self.variance.log_variance(process, x_t, t, v)
        return ReverseStep(Gaussian(mean, log_variance), x_0, eps, output)

    def without_clipping(self) -> "ReverseProcess":
        """The same p_θ without clamping x̂_0: what objectives train."""
        return replace(self, clip_x_0=False)
