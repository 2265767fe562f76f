"""Likelihoods p(x|z) of an image, from the output of a decoder.

A likelihood states its number of outputs per channel, which sizes the network. Given z, all dimensions are independent.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from diffusion_lab.diffusion import Gaussian, SampleNoise
from diffusion_lab.diffusion.levels import nearest_level
from diffusion_lab.diffusion.shapes import Images

Output = Float[
    Tensor, "b ..."
]  # (B, C·outputs_per_channel, …): along the channels, one parameter of all channels after the other

_SMALLEST_LOG_SCALE, _LARGEST_LOG_SCALE = -7.0, 7.0
_SMALLEST_STD = 1e-3


@dataclass(frozen=True)
class DecoderLikelihood(ABC):
    """p(x|z).

    Parameters
    ----------
    num_levels: the data's equally spaced levels from −1 to 1, for the mass of a level; None for a density, of continuous data.
    """

    num_levels: int | None

    @property
    @abstractmethod
    def outputs_per_channel(self) -> int:
        """Outputs of the decoder for each channel of x."""

    @abstractmethod
    def log_prob(self, output: Output, x: Images) -> Images:
        """log p(x|z), in nats per dimension, shaped like x."""

    @abstractmethod
    def mean(self, output: Output) -> Images:
        """E[x|z]; within [−1, 1] for data with levels."""

    @abstractmethod
    def draw(self, output: Output, noise: SampleNoise) -> Images:
        """x ~ p(x|z), on a level for data with levels. Row i depends only on output[i] and on noise of row i."""

    def parameters(self, output: Output) -> Tensor:
        """(B, C·outputs_per_channel, …) -> (B, outputs_per_channel, C, …)."""
        return output.unflatten(1, (self.outputs_per_channel, -1))


@dataclass(frozen=True)
class DiscretizedLogisticMixture(DecoderLikelihood):
    """P(x|z) = Σ_k π_k·(σ((x + h − μ_k)/s_k) − σ((x − h − μ_k)/s_k)), h half a level (Salimans et al. 2017, eq. 2).

    The first bin extends to −∞ and the last to +∞, so the masses of all levels sum to 1. Each pixel and channel has its own mixture
    (π, μ, log s): channels are independent given z, without PixelCNN++'s linear coupling of red, green and blue.

    At output 0 the components are evenly spaced in [−1, 1], as wide as their distance: a nearly uniform start with distinct
    components. log s is clamped to [−7, 7], below as in the authors' code.
    """

    num_levels: int
    num_mixtures: int = 5

    def __post_init__(self) -> None:
        if self.num_levels is None:
            raise ValueError(
                "a discretized logistic mixture needs levels, but these data are continuous: use decoder_likelihood=gaussian, "
                "or model=diffusion for series and volumes"
            )
        if self.num_levels < 2:
            raise ValueError(f"num_levels={self.num_levels}: a discretized likelihood needs at least two data levels")
        if self.num_mixtures < 1:
            raise ValueError(f"num_mixtures={self.num_mixtures} must be at least 1")

    @property
    def outputs_per_channel(self) -> int:
        return 3 * self.num_mixtures

    def log_prob(self, output: Output, x: Images) -> Images:
        """x is rounded to the nearest level.

        σ(b) − σ(a) = σ(b)·σ(−a)·(1 − e^{a−b}): as a product it is precise in float32 even if both are near 0 or near 1.
        """
        log_weight, mean, log_scale = self._mixture(output)
        last_level = self.num_levels - 1
        level = nearest_level(x, self.num_levels)[:, None]
        first, last = level == 0, level == last_level
        centre, half, inverse_scale = 2 * level / last_level - 1, 1 / last_level, torch.exp(-log_scale)
        below_upper = logsigmoid((centre + half - mean) * inverse_scale)
        above_lower = logsigmoid((mean - centre + half) * inverse_scale)
        # An open bin has one edge: its mass is σ(b) or σ(−a).
        inner = below_upper + above_lower + torch.log(-torch.expm1(-2 * half * inverse_scale))
        log_mass = torch.where(first, below_upper, torch.where(last, above_lower, inner))
        return torch.logsumexp(log_weight + log_mass, dim=1)

    def mean(self, output: Output) -> Images:
        """The mean of the mixture clamped to [−1, 1]: Σ_k π_k·(−1 + s_k·(softplus((μ_k + 1)/s_k) − softplus((μ_k − 1)/s_k))).

        The mean over the levels is the midpoint rule for the same integral, less than half a level away.
        """
        log_weight, mean, log_scale = self._mixture(output)
        scale = torch.exp(log_scale)
        clamped = scale * (softplus((mean + 1) / scale) - softplus((mean - 1) / scale)) - 1
        return (log_weight.exp() * clamped).sum(dim=1).clamp(-1, 1)

    def draw(self, output: Output, noise: SampleNoise) -> Images:
        """A component drawn by cumulated π, then μ + s·logit(u), u uniform."""
        log_weight, mean, log_scale = self._mixture(output)
        chosen, u = (torch.special.ndtr(noise(draw, mean[:, 0])).double() for draw in (1, 2))
        component = (chosen[:, None] > log_weight.double().exp().cumsum(dim=1)[:, :-1]).sum(dim=1, keepdim=True)
        mean, log_scale = (part.gather(1, component)[:, 0].double() for part in (mean, log_scale))
        return on_levels(mean + log_scale.exp() * torch.logit(u, eps=1e-12), self.num_levels).to(output.dtype)

    def _mixture(self, output: Output) -> tuple[Tensor, Tensor, Tensor]:
        """log π, μ and log s, (B, num_mixtures, C, …)."""
        logits, mean, log_scale = self.parameters(output).chunk(3, dim=1)
        step = 2 / self.num_mixtures
        places = (torch.arange(self.num_mixtures, device=output.device, dtype=output.dtype) + 0.5) * step - 1
        mean = mean + places.view(-1, *[1] * (mean.ndim - 2))
        # A logistic of scale s has the standard deviation π·s/√3.
        log_scale = log_scale + math.log(step * math.sqrt(3) / math.pi)
        return logits.log_softmax(dim=1), mean, log_scale.clamp(_SMALLEST_LOG_SCALE, _LARGEST_LOG_SCALE)


@dataclass(frozen=True)
class GaussianLikelihood(DecoderLikelihood):
    """p(x|z) = N(x; μ, σ²), μ and σ from the decoder: a density, or the mass of a level for data with levels.

    σ = 10⁻³ + softplus keeps densities bounded at training points.
    """

    @property
    def outputs_per_channel(self) -> int:
        return 2

    def log_prob(self, output: Output, x: Images) -> Images:
        gaussian = self._gaussian(output)
        return gaussian.log_prob(x) if self.num_levels is None else gaussian.discretized_log_prob(x, self.num_levels)

    def mean(self, output: Output) -> Images:
        mean = self._gaussian(output).mean
        return mean if self.num_levels is None else mean.clamp(-1, 1)

    def draw(self, output: Output, noise: SampleNoise) -> Images:
        gaussian = self._gaussian(output)
        x = gaussian.sample(noise(1, gaussian.mean))
        return x if self.num_levels is None else on_levels(x, self.num_levels)

    def _gaussian(self, output: Output) -> Gaussian:
        mean, raw_std = self.parameters(output).unbind(dim=1)
        return Gaussian(mean, 2 * (_SMALLEST_STD + softplus(raw_std)).log())


def on_levels(x: Images, num_levels: int) -> Images:
    """x rounded to the nearest of `num_levels` levels from −1 to 1."""
    return nearest_level(x, num_levels) * (2 / (num_levels - 1)) - 1
