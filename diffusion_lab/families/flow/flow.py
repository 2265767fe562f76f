"""A normalizing flow: noise and images are one thing, seen through an invertible map z = f(x).

Training minimises bits per dimension: of grey levels with uniform noise, the bound of `dequantization.py`; of continuous
data the density itself. Sampling is f⁻¹(T·z) for z ~ N(0, I), in one evaluation; the temperature T is chosen after training.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from math import prod
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.diffusion import SampleNoise, derive_seed
from diffusion_lab.diffusion.bits import in_bits
from diffusion_lab.diffusion.streams import BOUND, TRAINING
from diffusion_lab.families.flow.couplings import standard_normal_log_prob
from diffusion_lab.families.flow.dequantization import (
    dequantise,
    scale_bits,
    undo,
    uniform_from_normal,
)
from diffusion_lab.families.flow.network import Flow
from diffusion_lab.models.base import GenerativeModel, Likelihood
from diffusion_lab.models.optimization import Optimization
from diffusion_lab.networks.flops import NetworkCost, count_flops

_DRAWS = 4  # of the noise on an image's levels, averaged in its likelihood


class FlowModel(GenerativeModel):
    """log p(x) = log N(f(x); 0, I) + log|det ∂f/∂x|.

    Parameters
    ----------
    shape: (C, H, W) of images, or (D,) of points. num_levels: the data's levels; None for continuous data.
    num_classes: the classes that the model is conditioned on; None: it is not.
    network: given num_classes, builds f (`networks.flow.Flow`).
    temperature: T > 0, by which the noise of samples is scaled; it changes no likelihood and nothing in training.
    seed: training's noise on the levels at batch k is a function of (seed, k).
    """

    network: Flow
    nfe = 1  # f⁻¹

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
        if not (isinstance(temperature, int | float) and temperature > 0):
            raise ValueError(f"sampling.temperature={temperature} must be above 0; 1 draws from the model's density")
        self.shape, self.num_levels, self.num_classes = tuple(shape), num_levels, num_classes
        self.seed, self.optimization, self.temperature = seed, optimization, temperature
        self.network = network(num_classes=num_classes)
        self.term_names = ("loss", "prior", "log_det", *(("levels",) if num_levels is not None else ()))

    def training_step(self, batch: tuple[Tensor, Tensor | None], batch_idx: int) -> dict[str, Any]:
        """Bits per dimension. Every rank draws the noise of the global batch and takes its rows."""
        x_0, y = batch
        y = y if self.num_classes is not None else None
        size, rows = self.global_batch(len(x_0))
        u = torch.rand(size, *self.shape, generator=self.generator(TRAINING, x_0.device), device=x_0.device)
        if not self.network.has_started:
            self._initialise(x_0, y, u)
        parts = self._bits(*self.network(self._continuous(x_0, u[rows]), y))
        terms = {name: part.mean() for name, part in parts.items()}
        loss = _total(terms)
        return {"loss": loss, "terms": {name: term.detach() for name, term in ({"loss": loss} | terms).items()}}

    def held_out_terms(self, x_0: Tensor, y: Tensor | None, noise: SampleNoise) -> dict[str, Tensor]:
        y = y if self.num_classes is not None else None
        u = uniform_from_normal(noise.initial(self.shape).double()).to(x_0)
        parts = self._bits(*self.network(self._continuous(x_0, u), y))
        return {"loss": _total(parts)} | parts

    def _initialise(self, x_0: Tensor, y: Tensor | None, u: Tensor) -> None:
        """Every rank shows its actnorms the global batch, so that all ranks, and any number of them, start alike."""
        x_0 = self.of_all_ranks(x_0).reshape(-1, *self.shape)
        y = None if y is None else self.of_all_ranks(y).flatten()
        self.network.initialise(self._continuous(x_0, u), y)

    def _continuous(self, x_0: Tensor, u: Tensor) -> Tensor:
        return x_0 if self.num_levels is None else dequantise(x_0, u, self.num_levels)

    def _bits(self, z: Tensor, log_det: Tensor) -> dict[str, Tensor]:
        """What bits per dimension are the sum of, each float64 (B,)."""
        dims = prod(self.shape)
        parts = {
            "prior": in_bits(-standard_normal_log_prob(z).double(), dims),
            "log_det": in_bits(-log_det.double(), dims),
        }
        if self.num_levels is not None:
            parts["levels"] = torch.full_like(parts["prior"], scale_bits(self.num_levels))
        return parts

    def sample(self, indices: Tensor, seed: int, y: Tensor | None = None) -> Tensor:
        return self.decode(self.latents(indices, seed), y)

    def latents(self, indices: Tensor, seed: int) -> Tensor:
        """(B, D): z as the flow orders it, coarse parts first."""
        return SampleNoise(seed, indices).initial((prod(self.shape),))

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """f⁻¹(T·z); levels are clamped to [−1, 1], unless they are not finite."""
        x = self.network.inverse(self.temperature * z, y).float()
        if self.num_levels is None:
            return x
        x = undo(x, self.num_levels)
        return torch.where(x.isfinite(), x.clamp(-1, 1), x)

    def encode(self, x_0: Tensor, y: Tensor | None = None) -> Tensor:
        """f(x)/T, of the middle of each level's bin: `decode` gives x_0 back."""
        return self.network(self._continuous(x_0, torch.full_like(x_0, 0.5)), y)[0] / self.temperature

    @torch.no_grad()
    def cost(self) -> NetworkCost:
        """The operations are those of f: the counter has no formula for the triangular systems of f⁻¹. With the composition of each
        matrix, which a batch shares."""
        x = torch.zeros(1, *self.shape, device=self.device)
        y = None if self.num_classes is None else torch.zeros(1, dtype=torch.int64, device=self.device)
        return NetworkCost(
            sum(weights.numel() for weights in self.parameters()), count_flops(lambda: self.network(x, y))
        )

    def likelihood(
        self, x_0: Tensor, y: Tensor | None, seed: int, indices: Tensor, max_terms: int | None
    ) -> Likelihood:
        """Exact for continuous data; of levels the mean over draws of the noise, and what the noise leaves uncertain."""
        given = " given the class" if y is not None else ""
        if self.num_levels is None:
            parts = self._bits(*self.network(x_0, y))
            return Likelihood(_total(parts), f"exact density{given}", parts)
        noise = SampleNoise(derive_seed(seed, BOUND), indices)
        draws = []
        for draw in range(_DRAWS):
            u = uniform_from_normal(noise(draw + 1, x_0.double())).to(x_0)
            draws.append(self._bits(*self.network(self._continuous(x_0, u), y)))
        parts = {name: torch.stack([draw[name] for draw in draws]).mean(0) for name in draws[0]}
        bits = torch.stack([_total(draw) for draw in draws])
        return Likelihood(
            bits_per_dim=_total(parts),
            kind=f"dequantised flow bound{given}",
            parts=parts,
            standard_error=float((bits.var(0) / _DRAWS).sum().sqrt()) / len(x_0),
        )

    def protocol(self) -> dict[str, Any]:
        return {
            "family": "flow",
            "temperature": self.temperature,
            "conditional": self.num_classes is not None,
            "dequantisation": None if self.num_levels is None else f"uniform, {_DRAWS} draws",
        }


def _total(parts: dict[str, Tensor]) -> Tensor:
    return reduce(torch.add, parts.values())
