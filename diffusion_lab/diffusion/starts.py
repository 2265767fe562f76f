"""Starts: p(x_T), from which sampling draws, and with which the bound compares q(x_T|x_0)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from .chain import GaussianDiffusion
from .condition_parts import classes_in
from .shapes import Conditions, Images, PerSample


@dataclass(frozen=True)
class DataMoments:
    """Mean and covariance of the data, the covariance as Σ = U·diag(λ)·Uᵀ.

    mean: (K, D), one row per class, or a single row without classes. eigenvalues: λ, (D,). basis: U, (D, D). of: the
    images, in words.
    """

    mean: Float[Tensor, "k d"] = field(repr=False)
    eigenvalues: Float[Tensor, " d"] = field(repr=False)
    basis: Float[Tensor, "d d"] = field(repr=False)
    of: str = ""

    @classmethod
    def from_covariance(
        cls, mean: Float[Tensor, "k d"], covariance: Float[Tensor, "d d"], of: str = ""
    ) -> "DataMoments":
        eigenvalues, basis = torch.linalg.eigh(covariance)
        return cls(mean, eigenvalues.clamp(min=0), basis, of)

    def around_mean(self, x_0: Images, y: Conditions) -> Float[Tensor, "b d"]:
        """Uᵀ·(x_0 − mean), with the mean of class y."""
        flat = x_0.flatten(1).to(self.mean.dtype)
        return (flat - self.means(y, len(flat)).to(flat.device)) @ self.basis.to(flat.device)

    def means(self, y: Conditions, size: int) -> Float[Tensor, "b d"]:
        classes = classes_in(y)
        if classes is None and len(self.mean) > 1:
            raise ValueError(
                f"start=data_moments has a mean for each of {len(self.mean)} classes, but no classes were given: give the class of "
                "each image"
            )
        return self.mean.expand(size, -1) if classes is None else self.mean.to(classes.device)[classes]


@dataclass(frozen=True)
class Start(ABC):
    """`needs_data_moments`: it depends on moments of the data (see `measured`)."""

    needs_data_moments: ClassVar[bool] = False

    @abstractmethod
    def draw(self, chain: GaussianDiffusion, eps: Images, y: Conditions = None) -> Images:
        """x_T ~ p(x_T) from ε ~ N(0, I), at the last step of the chain."""

    @abstractmethod
    def kl(self, chain: GaussianDiffusion, x_0: Images, y: Conditions = None) -> PerSample:
        """KL(q(x_T|x_0) ‖ p(x_T)), mean over dimensions, in nats: L_T."""

    def measured(self, moments: DataMoments) -> "Start":
        """The same start with these moments."""
        return self


@dataclass(frozen=True)
class NoiseStart(Start):
    """p(x_T) = N(0, prior_std²·I), as assumed in training."""

    def draw(self, chain: GaussianDiffusion, eps: Images, y: Conditions = None) -> Images:
        return chain.prior_std * eps

    def kl(self, chain: GaussianDiffusion, x_0: Images, y: Conditions = None) -> PerSample:
        return chain.prior_kl(x_0).double().flatten(1).mean(dim=1)


@dataclass(frozen=True)
class MomentsStart(Start):
    """p(x_T) = N(α_T·m, α_T²·Σ + σ_T²·I) with mean m and covariance Σ of the data.

    It is the Gaussian closest to q(x_T). At low SNR the score of any data is that of this Gaussian (Wang & Vastola 2024,
    "The unreasonable effectiveness of Gaussian score approximation for diffusion models"), so a chain may start
    later and save the earlier steps: on Fashion-MNIST at a log SNR of −4 instead of −8. It helps only with few steps.

    moments: measured on the training images, with one mean per class if the model has classes, and the covariance within
    classes. Without them, as during training, it is `NoiseStart`.
    """

    moments: DataMoments | None = None

    needs_data_moments = True

    def draw(self, chain: GaussianDiffusion, eps: Images, y: Conditions = None) -> Images:
        if self.moments is None:
            return NoiseStart().draw(chain, eps, y)
        last = chain.numbers(chain.num_timesteps)
        basis, flat = self.moments.basis.to(eps), eps.flatten(1)
        spread = _variance(chain, self.moments).sqrt().to(eps)
        mean = last.signal * self.moments.means(y, len(eps)).to(eps)
        return (mean + ((flat @ basis) * spread) @ basis.T).view_as(eps)

    def kl(self, chain: GaussianDiffusion, x_0: Images, y: Conditions = None) -> PerSample:
        if self.moments is None:
            return NoiseStart().kl(chain, x_0, y)
        last = chain.numbers(chain.num_timesteps)
        ratio = last.sigma**2 / _variance(chain, self.moments).to(x_0.device)
        distance = (last.signal / last.sigma * self.moments.around_mean(x_0, y)).square()
        return ((1 + distance) * ratio - 1 - ratio.log()).mean(dim=1) / 2

    def measured(self, moments: DataMoments) -> "MomentsStart":
        return replace(self, moments=moments)


def _variance(chain: GaussianDiffusion, moments: DataMoments) -> Float[Tensor, " d"]:
    """The variance of x_T along each column of U."""
    last = chain.numbers(chain.num_timesteps)
    return last.signal**2 * moments.eigenvalues + last.sigma**2
