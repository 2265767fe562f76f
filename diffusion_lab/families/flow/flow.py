"""A normalizing flow: an invertible map z = f(x) between images and noise.

Training minimises bits per dimension, for continuous data the negative log-density itself. Sampling is f⁻¹(T·z) for z ~ N(0, I),
in one evaluation; T is chosen after training. For grey levels the density is that of a level plus uniform noise, a bound:

    v = (level + u)/L,   u ~ U[0, 1),   y = 2v − 1 ∈ [−1, 1)                                                    (1)
    P(level) = ∫ p(level + u) du,   so   E_u log p(level + u) ≤ log P(level)   by Jensen                          (2)
    −log2 P(level)/D ≤ E_u[−log2 p(y)/D] + log2(L/2),   since a level is 2/L wide in y                            (3)

Theis et al. 2016, "A note on the evaluation of generative models", section 3.1; Uria et al. 2013 for the noise. A uniform
density on [−1, 1) gives exactly log2 L bits per dimension. The data have their L levels at x = 2·level/(L − 1) − 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lab.diffusion import SampleNoise, derive_seed
from diffusion_lab.diffusion.bound import in_bits
from diffusion_lab.diffusion.levels import nearest_level
from diffusion_lab.diffusion.shapes import Conditions, Images
from diffusion_lab.diffusion.streams import BOUND, TRAINING
from diffusion_lab.families.flow.couplings import standard_normal_log_prob
from diffusion_lab.families.flow.networks import Flow
from diffusion_lab.models.generator import Generator, Likelihood
from diffusion_lab.models.optimization import Optimization
from diffusion_lab.models.shape_checks import check_bounded, check_network
from diffusion_lab.models.trainable import RAW, GenerativeModel

_DRAWS = 4  # of the noise on an image's levels, averaged in the likelihood


class FlowModel(GenerativeModel):
    """log p(x) = log N(f(x); 0, I) + log|det ∂f/∂x|.

    Parameters
    ----------
    shape: (C, H, W) of images, or (D,) of points. num_levels: the data's levels; None for continuous data.
    num_classes: of the condition; None without.
    network: given num_classes, builds f (`flow.networks.Flow`).
    temperature: T > 0, scales the noise of samples; it affects neither likelihoods nor training.
    seed: training's noise on the levels at batch k is a function of (seed, k).
    """

    network: Flow
    needs_whole_batches = "a flow takes its first scales from a whole batch"

    def __init__(
        self,
        shape: tuple[int, ...],
        num_levels: int | None,
        num_classes: int | None,
        network: Callable[..., Flow],
        optimization: Optimization,
        temperature: float,
        seed: int,
    ) -> None:
        super().__init__()
        check_bounded(shape, num_levels)
        if not (isinstance(temperature, int | float) and temperature > 0):
            raise ValueError(f"sampling.temperature={temperature} must be above 0; 1 draws from the model's density")
        self.shape, self.num_levels, self.num_classes = tuple(shape), num_levels, num_classes
        self.seed, self.optimization, self.temperature = seed, optimization, temperature
        self.network = network(num_classes=num_classes)
        check_network(self.network, self.shape)
        self.term_names = ("loss", "prior", "log_det", *(("levels",) if num_levels is not None else ()))

    def training_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> dict[str, Any]:
        """Bits per dimension. Every rank draws the noise of the global batch and takes its rows."""
        x_0, y = batch
        y = self.own_classes(y)
        size, rows = self.global_batch(len(x_0))
        u = torch.rand(size, *self.shape, generator=self.random_stream(TRAINING, x_0.device), device=x_0.device)
        if not self.network.has_started:
            self._initialise(x_0, y, u)
        parts = bits_of(self.num_levels, *self.network(continuous(x_0, u[rows], self.num_levels), y))
        terms = {name: part.mean() for name, part in parts.items()}
        loss = _total(terms)
        return {"loss": loss, "terms": {name: term.detach() for name, term in ({"loss": loss} | terms).items()}}

    def held_out_terms(self, x_0: Tensor, y: Conditions, noise: SampleNoise) -> dict[str, Tensor]:
        y = self.own_classes(y)
        u = uniform_from_normal(noise.initial(self.shape).double()).to(x_0)
        parts = bits_of(self.num_levels, *self.network(continuous(x_0, u, self.num_levels), y))
        return {"loss": _total(parts)} | parts

    def _initialise(self, x_0: Tensor, y: Tensor | None, u: Tensor) -> None:
        """Initialise the actnorms on half of the global batch, so that all ranks, whatever their number, start alike.

        With all of it, every shift and scale has a gradient of zero in the first step, and Adam would step by lr along the sign of
        its rounding.
        """
        x_0 = self.of_all_ranks(x_0).reshape(-1, *self.shape)
        y = None if y is None else self.of_all_ranks(y).flatten()
        half = slice(max(2, len(x_0) // 2))
        self.network.initialise(continuous(x_0, u, self.num_levels)[half], None if y is None else y[half])

    def generator(self, weights: str = RAW) -> FlowGenerator:
        return FlowGenerator(
            shape=self.shape,
            num_levels=self.num_levels,
            num_classes=self.num_classes,
            network=self.frozen(self.network, weights),
            temperature=self.temperature,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class FlowGenerator(Generator):
    """x = f⁻¹(T·z) and the density of x. temperature: T, which scales the noise of samples and does not affect likelihoods."""

    network: Flow
    temperature: float

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {"network": self.network}

    def latents(self, indices: Tensor, seed: int) -> Tensor:
        """(B, D): z in the order of the flow, coarse parts first."""
        return SampleNoise(seed, indices).initial((prod(self.shape),))

    def decode(self, z: Tensor, y: Conditions = None) -> Tensor:
        """f⁻¹(T·z); levels are clamped to [−1, 1], unless they are not finite."""
        x = self.network.inverse(self.temperature * z, self.own_classes(y)).float()
        if self.num_levels is None:
            return x
        x = undo(x, self.num_levels)
        return torch.where(x.isfinite(), x.clamp(-1, 1), x)

    def encode(self, x_0: Tensor, y: Conditions = None) -> Tensor:
        """f(x)/T at the middle of each level's bin, so that `decode` recovers x_0."""
        middle = continuous(x_0, torch.full_like(x_0, 0.5), self.num_levels)
        return self.network(middle, self.own_classes(y))[0] / self.temperature

    def _evaluate_once(self, z: Tensor, y: Conditions) -> object:
        """The cost of f, because the counter has no formula for the triangular systems of f⁻¹. It includes the composition of each
        matrix, which a batch shares."""
        return self.network(z.view(1, *self.shape), y)

    def likelihood(self, x_0: Tensor, y: Conditions, seed: int, indices: Tensor, max_terms: int | None) -> Likelihood:
        """Exact for continuous data; for levels the mean over draws of the noise, with its standard error."""
        y = self.own_classes(y)
        given = " given the class" if y is not None else ""
        if self.num_levels is None:
            parts = bits_of(self.num_levels, *self.network(x_0, y))
            return Likelihood(_total(parts), f"exact density{given}", parts)
        noise = SampleNoise(derive_seed(seed, BOUND), indices)
        draws = []
        for draw in range(_DRAWS):
            u = uniform_from_normal(noise(draw + 1, x_0.double())).to(x_0)
            draws.append(bits_of(self.num_levels, *self.network(continuous(x_0, u, self.num_levels), y)))
        return Likelihood.averaged(draws, f"dequantised flow bound{given}")

    def protocol(self) -> dict[str, Any]:
        return {
            "family": "flow",
            "temperature": self.temperature,
            "conditional": self.num_classes is not None,
            "dequantisation": None if self.num_levels is None else f"uniform, {_DRAWS} draws",
        }


def continuous(x_0: Tensor, u: Tensor, num_levels: int | None) -> Tensor:
    """x_0 with uniform noise u on its levels; continuous data as they are."""
    return x_0 if num_levels is None else dequantise(x_0, u, num_levels)


def bits_of(num_levels: int | None, z: Tensor, log_det: Tensor) -> dict[str, Tensor]:
    """The terms of bits per dimension, float64 (B,) each, for z = f(x) (B, D)."""
    dims = z[0].numel()
    parts = {
        "prior": in_bits(-standard_normal_log_prob(z).double(), dims),
        "log_det": in_bits(-log_det.double(), dims),
    }
    if num_levels is not None:
        parts["levels"] = torch.full_like(parts["prior"], scale_bits(num_levels))
    return parts


def _total(parts: dict[str, Tensor]) -> Tensor:
    return reduce(torch.add, parts.values())


def dequantise(x: Images, u: Images, num_levels: int) -> Images:
    """y of (1) for the level nearest to x, in the dtype of u: uniform on the level's bin in [−1, 1) if u is uniform on [0, 1)."""
    return (nearest_level(x.to(u), num_levels) + u) * (2 / num_levels) - 1


def undo(y: Images, num_levels: int) -> Images:
    """The inverse of (1): y -> x, equal to a level at the middle of its bin (u = ½), and halfway between levels at its ends.

    So rounding to the nearest level gives the bin. It is linear, also beyond [−1, 1).
    """
    return ((y + 1) * (num_levels / 2) - 0.5) * (2 / (num_levels - 1)) - 1


def scale_bits(num_levels: int) -> float:
    """log2(L/2) bits per dimension: from a density on [−1, 1) to the mass of one of L levels."""
    return math.log2(num_levels / 2)


def uniform_from_normal(eps: Images) -> Images:
    """u = Φ(ε) ~ U(0, 1) for ε ~ N(0, 1): keyed uniform noise from keyed normal noise."""
    return torch.special.ndtr(eps)
