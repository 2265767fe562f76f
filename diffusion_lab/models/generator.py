"""The frozen object that draws, encodes and bounds: the interface of a trained model for sampling, scores, export and reports.

A LightningModule trains and returns a generator, `module.generator(weights)`. Nothing changes a generator: another sampler,
variance, start or guidance is `dataclasses.replace`. Randomness is keyed, not carried: row i of a sample depends on
(weights, seed, indices[i], y[i]) and on nothing else, so neither the batch size nor the number of devices changes an image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diffusion_lab.conditions.condition import Size, nothing
from diffusion_lab.diffusion.condition_parts import as_conditions, classes_in, moved, parts
from diffusion_lab.diffusion.shapes import Conditions
from diffusion_lab.networks.flops import NetworkCost, count_flops

if TYPE_CHECKING:
    from diffusion_lab.data.module import DataModule


@dataclass(frozen=True)
class Likelihood:
    """-log2 p(x_0) / D of a batch of B images, or a bound on it, with its parts.

    bits_per_dim    (B,) float64, bits per dimension
    kind            what the number is: bound of the full chain, bound of a strided chain, ELBO, exact density, ...
    parts           named summands of bits_per_dim, each (B,) float64
    curve           by term, or None. A 1-D entry (K,) labels the K terms (e.g. "timesteps") and is the same for
                    every batch; a 2-D entry (B, K) holds a quantity per image and term
    beside          other values for the same images in bits/dim, by name, each (B,) float64, which are not summands
    standard_error  of this batch's mean, from the randomness of the estimate (noise, choice of terms) alone and
                    independent between batches; None if it was not estimated or nothing is random
    """

    bits_per_dim: Tensor
    kind: str
    parts: dict[str, Tensor]
    curve: dict[str, Tensor] | None = None
    standard_error: float | None = None
    beside: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def averaged(cls, draws: Sequence[dict[str, Tensor]], kind: str, **more: Any) -> Likelihood:
        """The mean of independent draws of the parts, and its standard error."""
        parts = {name: torch.stack([draw[name] for draw in draws]).mean(0) for name in draws[0]}
        bits = torch.stack([reduce(torch.add, draw.values()) for draw in draws])
        error = float((bits.var(0) / len(draws)).sum().sqrt()) / bits.shape[1]
        return cls(reduce(torch.add, parts.values()), kind, parts, standard_error=error, **more)


@dataclass(frozen=True, kw_only=True, eq=False)
class Generator(ABC):
    """A trained model that draws samples. The methods here are those of a family that draws in one step, from a latent.

    shape: (C, *spatial) or (D,) of one sample. num_levels: the data's levels that [−1, 1] is divided into; None: continuous data.
    num_classes: of y; None: y holds no classes. conditions: sizes of the parts of y, other than classes alone.
    needs_condition: sampling requires y.
    """

    shape: tuple[int, ...]
    num_levels: int | None
    num_classes: int | None
    conditions: tuple[Size, ...] = ()
    needs_condition: bool = False

    @property
    @abstractmethod
    def networks(self) -> Mapping[str, nn.Module]:
        """The modules whose weights determine samples and likelihoods, by name. The first is "network", in evaluation mode."""

    @property
    def device(self) -> torch.device:
        return next(self.networks["network"].parameters()).device

    def weights(self) -> dict[str, Tensor]:
        """All tensors of the networks, by name."""
        return {
            f"{name}.{key}": value for name, net in self.networks.items() for key, value in net.state_dict().items()
        }

    def guiding_weights(self) -> dict[str, Tensor]:
        """All tensors of a network that guides the samples, by name; empty without one."""
        return {}

    def sample(self, indices: Tensor, seed: int, y: Conditions = None) -> Tensor:
        """Samples number `indices` (int64 (B,)) of the stream `seed`: (B, *shape) float32 in [-1, 1].

        y: int64 (B,) class indices, float32 (B, …) vectors or fields, a tuple of several conditions, or None.
        """
        return self.decode(self.latents(indices, seed), y)

    @abstractmethod
    def latents(self, indices: Tensor, seed: int) -> Tensor:
        """z ~ N(0, I) of samples `indices` of the stream `seed`: (B, …) float32."""

    @abstractmethod
    def decode(self, z: Tensor, y: Conditions = None) -> Tensor:
        """The image of each latent, without further randomness: (B, *shape) float32 in [-1, 1]."""

    def encode(self, x_0: Tensor, y: Conditions = None) -> Tensor | None:
        """Latents whose images are x_0 (B, *shape), or close to it; None for a family without an encoder."""
        return None

    def reconstruct(self, x_0: Tensor, y: Conditions, seed: int, indices: Tensor) -> Tensor | None:
        """Reconstructions of x_0: the images of its latents; None for a family without an encoder."""
        z = self.encode(x_0, y)
        return None if z is None else self.decode(z, y)

    @property
    def no_likelihood(self) -> str:
        """Why `likelihood` is None, where it is."""
        return "this model has no likelihood"

    def likelihood(
        self, x_0: Tensor, y: Conditions, seed: int, indices: Tensor, max_terms: int | None
    ) -> Likelihood | None:
        """The likelihood of the images x_0 (B, *shape) given y, or None for a family that has none.

        Row i depends on (weights, seed, indices[i], x_0[i], y[i]) only; indices int64 (B,). A sum of more than max_terms terms is
        estimated without bias from max_terms of them; None: all terms.
        """
        return None

    def bits_per_dim(self, x_0: Tensor, condition: int | Conditions = None, seed: int = 0) -> Tensor:
        """Bits per dimension of images of your own, float64 (B,): `likelihood` with the noise of images 0 … B − 1 of the seed.

        x_0: (B, *shape) in [−1, 1], or in the normalised units of data without levels. condition: y of the images, or the
        number of a class for all. ValueError for x_0 of another shape or range, and for a family without a likelihood.
        """
        x_0 = x_0.to(self.device, torch.float32)
        if tuple(x_0.shape[1:]) != self.shape:
            raise ValueError(f"x_0 has the shape {tuple(x_0.shape)}: it must be (B, {', '.join(map(str, self.shape))})")
        if self.num_levels is not None and not bool((x_0.abs() <= 1 + 1e-3).all()):
            lowest, highest = (f"{float(end):g}" for end in x_0.aminmax())
            raise ValueError(
                f"x_0 has values from {lowest} to {highest}: it must lie in [−1, 1]; of uint8 take x / 127.5 − 1"
            )
        y = torch.full((len(x_0),), condition, device=self.device) if isinstance(condition, int) else condition
        if y is None and self.needs_condition:
            raise ValueError("this model has no likelihood without a condition: give condition=…")
        indices = torch.arange(len(x_0), device=self.device)
        with torch.no_grad():
            found = self.likelihood(x_0, moved(y, self.device), seed, indices, max_terms=None)
        if found is None:
            raise ValueError(f"no bits per dimension: {self.no_likelihood}")
        return found.bits_per_dim

    @property
    def nfe(self) -> int:
        """Network evaluations per sample."""
        return 1

    def cost(self) -> NetworkCost:
        """Parameters of all networks, and operations of one evaluation on one sample."""
        index = torch.zeros(1, dtype=torch.int64, device=self.device)
        z, y = torch.zeros_like(self.latents(index, 0)), self.conditions_in_turn(index)
        parameters = sum(p.numel() for network in self.networks.values() for p in network.parameters())
        return NetworkCost(parameters, count_flops(lambda: self._evaluate_once(z, y)))

    def _evaluate_once(self, z: Tensor, y: Conditions) -> object:
        """A call with as many operations as `decode`, of kinds that the operation counter supports."""
        return self.decode(z, y)

    def sampling_flops(self) -> int:
        """Floating-point operations of one sample, a multiply-add counted as 2."""
        return self.nfe * self.cost().forward_flops

    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """Settings that affect samples and likelihood besides the weights (sampler, spacing, variance, clipping), as plain JSON."""

    def sampling_protocol(self) -> dict[str, Any]:
        """The part of `protocol` that affects samples: generators with equal weights and equal values here draw the same images."""
        return self.protocol()

    def own_classes(self, y: Conditions) -> Tensor | None:
        """The classes in y, for a network with classes; else None, because data with classes give them to every model."""
        return None if self.num_classes is None else classes_in(y)

    def conditions_of_pictures(self, data: DataModule, split: str, indices: Tensor) -> Conditions:
        """Conditions for pictures of samples: classes in turn, and other conditions of images number indices[i] of a split."""
        return data.y_of(split, indices) if self.conditions else self.conditions_in_turn(indices)

    def conditions_in_turn(self, indices: Tensor) -> Conditions:
        """Class indices[i] mod num_classes for sample i, so that a picture shows all classes; vectors and fields are omitted."""
        sizes = self.conditions or (() if self.num_classes is None else (self.num_classes,))
        empty = parts(nothing(sizes, len(indices), indices.device))
        return as_conditions(
            [indices.remainder(size) if isinstance(size, int) else y for size, y in zip(sizes, empty, strict=True)]
        )
