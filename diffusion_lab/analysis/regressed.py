"""The optimal variance of a reverse step for each image and each dimension, from a head that is trained on a frozen network.

Let x̂_0 be the network's estimate at x_t, which need not be optimal. Among Gaussians with the mean of q(x_s|x_t, x̂_0), the one
with the least bound at x_t has in each dimension the variance

    σ*² = β̃_t + γ²·E[(x_0 − x̂_0)²|x_t],        γ = α_s·σ²_ts/σ_t²                                          (1)

because the term of the bound is ½·(log σ² + (β̃_t + γ²·E[(x_0 − x̂_0)²|x_t])/σ²) plus a constant. The expectation does not depend
on s, so one head serves every stride; with ε̂ = (x_t − α_t·x̂_0)/σ_t it is E[(ε − ε̂)²|x_t]/SNR_t, the noise prediction residual of
NPR-DPM (Bao et al. 2022, "Estimating the Optimal Covariance with Imperfect Mean in Diffusion Probabilistic Models"). SN-DPM's
E[ε²|x_t] − ε̂² is the same number if ε̂ = E[ε|x_t], and otherwise differs by 2·ε̂·(ε̂ − E[ε|x_t]).

NPR-DPM fits the expectation by least squares. Here the fit is by likelihood, which has the same minimum, E[(x_0 − x̂_0)²|x_t], and
weighs relative errors equally at every t, as the bound does. The head is a small separate network whose input is x_t and the output
of the frozen network: it fits any network, and the frozen network is evaluated once.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_lab.diffusion.chain import GaussianDiffusion
from diffusion_lab.diffusion.forward import ForwardProcess, per_sample
from diffusion_lab.diffusion.reverse import ReverseProcess
from diffusion_lab.diffusion.shapes import Broadcast, Conditions, Images, PerSample, Steps, Times
from diffusion_lab.diffusion.variances import Variance

# The least residual, relative to the prior's variance: a pixel without an error in training may have one later.
_LEAST = 1e-3


@dataclass(frozen=True)
class Regressed(Variance):
    """Σ = β̃_t + γ²·r, equation (1), with the residual r = (0.001 + eᵛ)/(1 + SNR_t) of a head's output v: E[(x_0 − x̂_0)²|x_t].

    v = 0 is the residual of data from N(0, I): if α² + σ² = 1, Σ is then β_t plus 0.1 % of its distance to β̃_t. At the last
    step, s = 0, Σ is r.

    head: name of the head, for the record.
    """

    head: str | None = None

    outputs_per_channel = 1
    varies = True

    def log_variance(self, process: GaussianDiffusion, x_t: Images, t: Steps, v: Images | None) -> Broadcast:
        of_x_0 = process.signal(t - 1) * process.beta(t) / process.sigma(t).square()
        own, from_x_0 = per_sample(process.beta_tilde(t).log(), x_t), per_sample(2 * of_x_0.log(), x_t)
        return torch.logaddexp(own, from_x_0 + log_residual(process, x_t, t, v))


@dataclass(frozen=True)
class WithHead:
    """network(image, timesteps, y) -> [its mean part, v], v = head([image, mean part], timesteps): the input of `Regressed`.

    The head does not see the class, which affects it through the mean part only.
    """

    network: Callable[..., Tensor]
    head: Callable[..., Tensor]

    def __call__(self, image: Images, timesteps: Tensor, y: Conditions = None) -> Tensor:
        output = self.network(image, timesteps, y)[:, : image.shape[1]]
        return torch.cat([output, self.head(torch.cat([image, output], dim=1), timesteps)], dim=1)


def residual_terms(
    process: ForwardProcess, reverse: ReverseProcess, x_0: Images, t: Times, eps: Images, y: Conditions = None
) -> dict[str, PerSample]:
    """L = ½·((x_0 − x̂_0)²/r + log r) at any t, in nats per dimension, minus its value for r = 1/(1 + SNR_t) on data from N(0, I).

    reverse: with the variance `Regressed` and the network `WithHead`. It clips x̂_0, as in the mean that the variance belongs to.
    "fit" is the mean of (x_0 − x̂_0)²/r, which is 1 for the right r.
    """
    x_t = process.q_sample(x_0, t, eps)
    output, v = reverse.evaluate(process, x_t, t, y)
    x_0_hat = reverse.clipping(reverse.prediction.to_x_0(process, output, x_t, t))
    ratio = (x_0 - x_0_hat).square() * (-log_residual(process, x_t, t, v)).exp()
    loss = (ratio + _relative(v) - 1) / 2
    return {name: term.flatten(1).mean(dim=1).double() for name, term in (("loss", loss), ("fit", ratio))}


def log_residual(process: ForwardProcess, x_t: Images, t: Times, v: Images | None) -> Images:
    """log r, at any t."""
    return _relative(v) - per_sample(process.snr(t).log1p(), x_t)


def _relative(v: Images | None) -> Images:
    """log(0.001 + eᵛ)."""
    assert v is not None  # since outputs_per_channel is 1
    return torch.logaddexp(v, torch.full_like(v, math.log(_LEAST)))
