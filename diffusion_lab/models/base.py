"""The interface of all families: drawing samples and, if possible, computing a likelihood.

Evaluation, sweeps and report use only what is declared here and never depend on the family. Randomness is keyed, not
carried: row i of a sample depends on (weights, seed, indices[i], y[i]) and on nothing else, so neither the batch size
nor the number of devices changes an image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diffusion_lab.conditions.condition import nothing
from diffusion_lab.diffusion.parts import as_conditions, parts
from diffusion_lab.diffusion.shapes import Conditions
from diffusion_lab.models.trainable import TrainableModel
from diffusion_lab.networks.flops import NetworkCost, count_flops

if TYPE_CHECKING:
    from diffusion_lab.data.module import DataModule
    from diffusion_lab.models.drawn import DrawnDiffusion


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


class GenerativeModel(TrainableModel, ABC):
    """The LightningModule of a family. A subclass sets the facts of its data and implements the methods.

    Default implementations are for a family that draws in one step, from a latent. Training uses none of these methods.
    """

    num_levels: int | None  # data levels that [-1, 1] is divided into; None: continuous data
    needs_condition: bool = False  # whether sampling requires y

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
    def denoiser(self) -> DrawnDiffusion | None:
        """This model, if it denoises step by step: it then has the chain, sampler, … of `DrawnDiffusion`; else None."""
        return None

    @property
    def moments(self) -> tuple[float | str, ...]:
        """Earlier moments of the model's training whose weights sampling uses too."""
        return ()

    @property
    def nfe(self) -> int:
        """Network evaluations per sample."""
        return 1

    def cost(self) -> NetworkCost:
        """The cost of sampling: parameters, and operations of one evaluation."""
        index = torch.zeros(1, dtype=torch.int64, device=self.device)
        z, y = torch.zeros_like(self.latents(index, 0)), self.conditions_in_turn(index)
        parameters = sum(parameter.numel() for parameter in self.averaged_parameters().values())
        return NetworkCost(parameters, count_flops(lambda: self._evaluate_once(z, y)))

    def _evaluate_once(self, z: Tensor, y: Conditions) -> object:
        """A call with as many operations as `decode`, of kinds that the operation counter supports."""
        return self.decode(z, y)

    def sampling_flops(self) -> int:
        """Floating-point operations of one sample, a multiply-add counted as 2."""
        return self.nfe * self.cost().forward_flops

    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """What affects samples and likelihood besides the weights (sampler, spacing, variance, clipping), as plain JSON."""

    def sampling_protocol(self) -> dict[str, Any]:
        """The part of `protocol` that affects samples: models with equal weights and equal values here draw the same images."""
        return self.protocol()

    def likelihood(
        self, x_0: Tensor, y: Conditions, seed: int, indices: Tensor, max_terms: int | None
    ) -> Likelihood | None:
        """The likelihood of the images x_0 (B, *shape), or None for a family that has none.

        Row i depends on (weights, seed, indices[i], x_0[i], y[i]) only. A sum of more than max_terms terms is estimated
        without bias from max_terms of them; None: all terms.
        """
        return None

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


def check_network(network: nn.Module, shape: Sequence[int]) -> None:
    """ValueError for a network with `takes_points`, whose input is (B, D), where the family gives it images, series or volumes."""
    if len(shape) > 1 and getattr(network, "takes_points", False):
        raise ValueError(f"this network takes points, but these data have the shape {tuple(shape)}; remove network=…")


def check_axes(shape: Sequence[int]) -> None:
    """ValueError for series and volumes, in a family whose networks take images and points."""
    if len(shape) not in (1, 3):
        what = {2: "series", 4: "volumes"}.get(len(shape), f"data of {len(shape)} axes")
        raise ValueError(f"this family takes images and points, but these data are {what}: use model=diffusion")


def check_bounded(shape: Sequence[int], num_levels: int | None) -> None:
    """ValueError for series, volumes and images of real numbers, in a family whose images lie in [−1, 1]."""
    check_axes(shape)
    if len(shape) > 1 and num_levels is None:
        raise ValueError("this family draws images in [−1, 1], but these data are real numbers: use model=diffusion")
