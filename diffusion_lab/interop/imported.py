"""What a checkpoint of somebody else says of its model, whatever its format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from diffusion_lab.interop.checkpoints import CheckpointError
from diffusion_lab.store.records import printable

MOST_STEPS = 8000  # of a chain whose β are listed one by one in a config


@dataclass(frozen=True)
class Imported:
    """options: Hydra overrides that make the model. shape: (C, H, W) of its images. num_classes: None where it has none.
    tensors: as they are in the file. weights: the state dict of our network, of `tensors`; CheckpointError where it is not theirs.
    file: the one that holds them. which: of several weights in it, those that were taken. origin: recorded with the model. notes:
    what the user should know.
    """

    options: tuple[str, ...]
    shape: tuple[int, int, int]
    num_classes: int | None
    tensors: Mapping[str, Tensor]
    weights: Callable[[nn.Module], dict[str, Tensor]]
    file: Path
    origin: Mapping[str, str]
    which: str | None = None
    notes: tuple[str, ...] = field(default=())


def wrapped_weights(tensors: Mapping[str, Tensor], network: nn.Module, inside: str, where: Path) -> dict[str, Tensor]:
    """The state dict of `network`, whose parameters are called `inside` and the names of `tensors`, in float32.

    CheckpointError, naming the first difference, where they are of another network.
    """
    own = {name.removeprefix(inside): tensor for name, tensor in network.state_dict().items()}
    missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or unknown:
        differences = [f"it has no {missing[0]}"] if missing else []
        differences += [f"it has {printable(unknown[0])}, which that network does not have"] if unknown else []
        raise CheckpointError(f"checkpoint={where} does not fit the described network: {', and '.join(differences)}")
    for name, tensor in own.items():
        if tensors[name].shape != tensor.shape:
            raise CheckpointError(
                f"checkpoint={where} does not fit the described network: {name} is {tuple(tensors[name].shape)} in the file "
                f"and {tuple(tensor.shape)} in that network"
            )
        if not tensors[name].is_floating_point() or not tensors[name].isfinite().all():
            raise CheckpointError(f"checkpoint={where} is damaged: {name} holds values that are not finite")
    return {f"{inside}{name}": tensors[name].float().contiguous() for name in own}


def image_size_of(text: str) -> tuple[int, int]:
    """(H, W), from 32 or [28,32]. CheckpointError for anything else."""
    sides = text.strip("[] ").split(",")
    numbers = [int(side) for side in sides if side.strip().isdecimal()]
    if len(numbers) != len(sides) or len(numbers) > 2 or not all(0 < side <= 2**13 for side in numbers):
        raise CheckpointError(f"image_size={printable(text)}: give a side in pixels, or [height,width]")
    return numbers[0], numbers[-1]


def written(value: Any) -> str:
    """A checked value in Hydra's grammar: None, true, a number, a word, or a list of these."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(written, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
