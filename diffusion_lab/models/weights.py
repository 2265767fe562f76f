"""Weights in safetensors files, and networks with them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from diffusion_lab.models.tuning import merge_adapters
from diffusion_lab.store.files import write_whole

_FLOATING = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
Part = TypeVar("Part")


def frozen(part: Part, weights: Mapping[nn.Parameter, Tensor]) -> Part:
    """A copy of a network, or of a part that holds one, in evaluation mode, whose parameters have these values.

    A parameter that `weights` lacks keeps its values; additions of low rank (`tuning`) become part of the weights. Each keeps its
    memory format, which a file does not store, so that weights from a file give the same numbers as those of a training. They may
    require gradients, because autocast keeps only the bfloat16 copies of such weights: draw in torch.no_grad().
    """
    memo: dict[int, object] = {}
    for parameter, values in weights.items():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, requires_grad=False).copy_(values))
    made = copy.deepcopy(part, memo)
    if not isinstance(made, nn.Module):
        return made
    merge_adapters(made)
    return made.eval()


def read_weights(
    path: Path,
    own: Mapping[str, Tensor],
    without: str | None = None,
    optional: str | None = None,
    fit: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
) -> dict[str, Tensor]:
    """The tensors of a file, checked as in `check_weights`.

    without: prefix of names that are not read. optional: part of names that the file may lack. fit: applied before the check.
    ValueError, naming the file and the tensor, if the file is damaged or holds others.
    """

    def wanted(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {key: tensor for key, tensor in tensors.items() if without is None or not key.startswith(without)}

    try:
        tensors = fit(wanted(load_file(path)))
        here = {key: own[key] for key in wanted(own) if key in tensors or optional is None or optional not in key}
        check_weights(tensors, here)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} does not hold the weights of this model: {' '.join(str(error).split())}") from error
    return tensors


def check_weights(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """ValueError, naming the tensor, unless `tensors` has each tensor of `own` with its shape and kind, and finite values."""
    for key in (*(key for key in own if key not in tensors), *tensors):
        here, there = (tuple(part[key].shape) if key in part else "missing" for part in (own, tensors))
        if here != there:
            raise ValueError(f"{key} is {there} in the file and {here} in this model")
        kinds = _FLOATING if own[key].is_floating_point() else (own[key].dtype,)
        if tensors[key].dtype not in kinds:
            raise ValueError(f"{key} holds values of type {tensors[key].dtype}, not {own[key].dtype}")
        if not tensors[key].isfinite().all():
            raise ValueError(f"{key} holds values that are not finite")


def write_weights(path: Path, tensors: Mapping[str, Tensor], facts: dict[str, str] | None = None) -> None:
    # Contiguous, because a file stores no memory format.
    write_whole(path, save({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, facts))
