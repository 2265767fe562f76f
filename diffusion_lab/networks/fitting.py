"""The weights of a network as the first weights of one for another condition or image size.

Only parts that depend on the condition or on the size may differ; a module with such a part states in `fit_weights` what it begins
with. The new network is at first the function that the old one is without a condition:

    e = MLP(t) + null  ->  MLP(t) + (null of the old condition) + 0,      W_in [x_t, old field]  ->  W_in [x_t, 0·new field]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]  # by name
Names = Sequence[str]


@dataclass(frozen=True)
class Origin:
    """Where weights come from. sides: lengths of the images' spatial axes, where known. null_class: whether there is one."""

    sides: Sequence[int] = ()
    null_class: bool = True


@runtime_checkable
class Fits(Protocol):
    """A module with parts that depend on the condition or on the size of the images."""

    def fit_weights(self, weights: Weights, origin: Origin) -> tuple[Weights, Names]:
        """(`weights` of such a module, with those parts in place of its own; the names of parts that are begun anew)."""


@dataclass(frozen=True)
class Fitted:
    """Weights of a network, with the names of those that were fitted (changed), begin anew, or have no place in it (left_out)."""

    weights: Weights
    changed: Names
    anew: Names
    left_out: Names


def fitted(module: nn.Module, weights: Mapping[str, Tensor], origin: Origin) -> Fitted:
    """The weights of networks for another condition or size, fitted to those in `module` wherever their parts can.

    What no part fits is left as it is.
    """
    made, anew = dict(weights), list[str]()
    for name, part in module.named_modules():
        if isinstance(part, Fits):
            own = {key: made.pop(key) for key in [*made] if key.startswith(f"{name}.")}
            changed, begun = part.fit_weights(
                {key.removeprefix(f"{name}."): tensor for key, tensor in own.items()}, origin
            )
            made |= {f"{name}.{key}": tensor for key, tensor in changed.items()}
            anew += [f"{name}.{key}" for key in begun]
    made = {**{key: made[key] for key in weights if key in made}, **made}  # in the order of the file
    altered = [key for key, tensor in made.items() if key not in anew and tensor is not weights.get(key)]
    return Fitted(made, altered, anew, [key for key in weights if key not in made])


def with_fields_of(own: Tensor, name: str, weights: Weights, image_channels: int) -> tuple[Weights, Names]:
    """`weights` with a first layer, (out, in, …), whose inputs after `image_channels` are those of fields and start at zero."""
    there = weights.get(name)
    if there is None or there.shape == own.shape or there.ndim != own.ndim or there.shape[1] < image_channels:
        return weights, ()
    if (there.shape[0], *there.shape[2:]) != (own.shape[0], *own.shape[2:]):
        return weights, ()
    fitted = torch.zeros_like(own, dtype=there.dtype)
    fitted[:, :image_channels] = there[:, :image_channels]
    return {**weights, name: fitted}, ()


def null_embedding(embeddings: Mapping[str, Tensor], origin: Origin) -> Tensor | int:
    """What embeddings of a condition, by name, add to e without one.

    It is the last row of each table, or the mean of its rows where there is no null class, and `nothing` of each vector.
    """
    without = {key: tensor for key, tensor in embeddings.items() if ".embed." not in key}
    return sum(
        tensor if tensor.ndim == 1 else tensor[-1] if origin.null_class else tensor.mean(0)
        for tensor in without.values()
    )
