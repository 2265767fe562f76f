"""Which weights of a model train: all but frozen parts, or only additions of low rank (LoRA, Hu et al. 2021).

    W x -> (W + alpha/rank · B A) x,      A (rank, in) normal with variance 1/rank², B (out, rank) zero at the start

A and B train in place of W. A finished training adds them to W, so its weights are those of any network: every command reads them,
and another training may start from them. An adapter of its own would be smaller, and would need the model that it belongs to.

This is our own page because peft 0.21 imports transformers and accelerate, renames the weights of a finished network, and
multiplies the last axis of an input, where the channels of our 1x1 convolutions are the second.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from diffusion_lab.diffusion import derive_seed
from diffusion_lab.diffusion.streams import ADAPTERS

DOWN, UP = "lora_down", "lora_up"  # A and B
_BASE, _ADDED = ".parametrizations.weight.original", ".parametrizations.weight.0."  # in the names that torch makes


@dataclass(frozen=True)
class LoRA:
    """Options of additions of low rank.

    rank: of each. alpha: their scale is alpha/rank; None: 1. target_modules: last parts of the names of layers, linear or
    convolutions, that get one; None: all linear layers, with those of attention.
    """

    rank: int
    alpha: float | None = None
    target_modules: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"lora.rank={self.rank} must be a whole number of at least 1")
        if self.alpha is not None and self.alpha <= 0:
            raise ValueError(f"lora.alpha={self.alpha} must be above 0")

    def layers(self, network: nn.Module) -> dict[str, nn.Linear | _ConvNd]:
        """The layers that get an addition, by name. ValueError for a name that is none."""
        layers = {name: part for name, part in network.named_modules() if isinstance(part, nn.Linear | _ConvNd)}
        if self.target_modules is None:
            return {name: layer for name, layer in layers.items() if isinstance(layer, nn.Linear)}
        ends = {name: {name, *_ends(name)} for name in layers}
        for target in self.target_modules:
            if not any(target in end for end in ends.values()):
                known = {end for each in ends.values() for end in each}
                raise ValueError(f"lora.target_modules: the network has no layer {target}{_close(target, known)}")
        return {name: layer for name, layer in layers.items() if ends[name] & {*self.target_modules}}


class _LowRank(nn.Module):
    """W -> W + scale·B·A, for W (out, …)."""

    def __init__(self, weight: Tensor, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        down = torch.randn(rank, columns, generator=generator) / rank
        self.scale = scale
        self.lora_down = nn.Parameter(down.to(weight))
        self.lora_up = nn.Parameter(weight.new_zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.lora_up @ self.lora_down).view_as(weight)


def freeze(network: nn.Module, names: Sequence[str]) -> None:
    """Exclude modules or parameters, by their dotted names, from training. ValueError for unknown names, or if none are left."""
    parameters = dict(network.named_parameters())
    for name in names:
        below = [parameter for key, parameter in parameters.items() if f"{key}.".startswith(f"{name}.")]
        if not below:
            known = {part for key in parameters for part in accumulate(key.split("."), "{}.{}".format)}
            raise ValueError(f"freeze: the network has no part {name}{_close(name, known)}")
        for parameter in below:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ValueError(f"freeze=[{','.join(names)}] leaves nothing of the network to train")


def add_adapters(network: nn.Module, lora: LoRA, seed: int, begun: Collection[str]) -> None:
    """Let only additions of low rank train, and the parameters `begun`, which are not those of a source.

    Layers whose weight is frozen or in `begun` get none. ValueError for names that are no layers, or if no layer gets one.
    """
    layers = lora.layers(network)
    adapted = {
        name: part for name, part in layers.items() if part.weight.requires_grad and f"{name}.weight" not in begun
    }
    if not adapted:
        raise ValueError("lora: no layer is left to adapt; name others in lora.target_modules, or remove freeze")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name in begun)
    generator = torch.Generator().manual_seed(derive_seed(seed, ADAPTERS))
    scale = 1.0 if lora.alpha is None else lora.alpha / lora.rank
    for layer in adapted.values():
        parametrize.register_parametrization(layer, "weight", _LowRank(layer.weight, lora.rank, scale, generator))


def merge_adapters(network: nn.Module) -> None:
    """Replace each weight with an addition by their sum.

    torch's own function for this changes a class that copies of the network share.
    """
    for name in _adapted(network):
        layer: Any = network.get_submodule(name)
        merged = layer.weight.detach().clone()
        layer.__class__ = type(layer).__bases__[0]
        del layer.parametrizations
        layer.register_parameter("weight", nn.Parameter(merged))


def base_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters without additions, by the names that they have in a network without any."""
    base = {name: p for name, p in module.named_parameters() if not name.endswith((f".{DOWN}", f".{UP}"))}
    adapted = _adapted(module)
    return {f"{layer}.weight" if (layer := name.removesuffix(_BASE)) in adapted else name: base[name] for name in base}


def merged_parameters(module: nn.Module) -> dict[str, Tensor]:
    """Parameters with their additions, by the names that they have in a network without any."""
    layers: dict[str, Any] = {name: module.get_submodule(name) for name in _adapted(module)}
    sums = {f"{name}.weight": layer.weight.detach() for name, layer in layers.items()}
    return {**base_parameters(module), **sums}


def added_parameters(module: nn.Module) -> list[nn.Parameter]:
    """B of each addition: where it is zero, the weights are those of `base_parameters`."""
    return [parameter for name, parameter in module.named_parameters() if name.endswith(f".{UP}")]


def _adapted(module: nn.Module) -> set[str]:
    """The names of the layers with an addition."""
    end = f"{_ADDED}{UP}"
    return {name.removesuffix(end) for name, _ in module.named_parameters() if name.endswith(end)}


def _ends(name: str) -> Iterator[str]:
    """a.b.c -> a.b.c, b.c, c."""
    parts = name.split(".")
    return (".".join(parts[start:]) for start in range(len(parts)))


def _close(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ""
