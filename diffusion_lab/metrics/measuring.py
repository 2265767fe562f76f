"""One pass over training or validation images: a network's output and its error at each t, measured once and stored.

A shard, which is a fixed range of images, does not depend on the process that measures it. So a pass that was stopped resumes at
the first shard that is missing, ranks divide the shards, and a process that finds another one at the same pass waits for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffusion_lab.metrics.cache import digest, read_tensors, write_tensors
from diffusion_lab.metrics.reference import Progress
from diffusion_lab.metrics.trained import ready
from diffusion_lab.models.base import GenerativeModel
from diffusion_lab.store import CacheDirectory
from diffusion_lab.store.cache import shard_file
from diffusion_lab.training.ranks import broadcast_from_rank_zero, hold_together, num_ranks, rank, wait_for_all

if TYPE_CHECKING:
    from diffusion_lab.data.base import DataModule

Measure = Callable[
    [Tensor, Tensor | None, int, Tensor], Mapping[str, Tensor]
]  # (x_0, y, seed, indices) -> (B, …) by name
SHARD_IMAGES = 32  # images at a time
SEED = 0  # of the noise: always the same
RECIPE = 2  # raise it when the same key would give other numbers


@dataclass(frozen=True)
class Measured:
    """means: name -> float64, over images and noise. about: which images those are, and of which pass, for the record."""

    means: Mapping[str, Tensor]
    about: str


def measure_once(
    model: GenerativeModel,
    measure: Measure,
    facts: Mapping[str, Any],
    data: DataModule,
    num_images: int,
    weights: str,
    cache: Path,
    identity: str,
    about: str,
    progress: Progress | None = None,
    split: str = "train",
) -> Measured:
    """The mean over images of `split` of `measure`, a method of the model, with the weights of this name.

    num_images: at most. identity: what the numbers depend on besides weights and images: how the model was built, and its code;
    facts: other such values, as plain JSON. about: model and weights, in words. If several ranks call it, they share the work,
    and all return the result.
    """
    data.prepare()
    with ready(model, weights):
        return _measure_once(
            model, measure, facts, data, split, min(num_images, data.size(split)), cache, identity, about, progress
        )


def _measure_once(
    model: GenerativeModel,
    measure: Measure,
    facts: Mapping[str, Any],
    data: DataModule,
    split: str,
    total: int,
    cache: Path,
    identity: str,
    about: str,
    progress: Progress | None,
) -> Measured:
    progress = progress or (lambda stage, done, total: None)
    key = json.dumps(
        {
            **facts,
            **({} if data.named(split) == "train" else {"split": data.named(split)}),
            "model": identity,
            "weights": digest(model.state_dict()),
            "data": data.identity,
            "num_images": total,
            "shard_images": SHARD_IMAGES,
            "recipe": RECIPE,
        },
        sort_keys=True,
    )
    folder = CacheDirectory(cache).statistics(f"{about}-{total}", key)
    parts = [range(start, min(start + SHARD_IMAGES, total)) for start in range(0, total, SHARD_IMAGES)]

    def waiting(holder: str) -> None:
        progress(f"waiting for {holder}", 0, 1)

    def read_shards() -> list[dict[str, Tensor] | None]:
        found = (read_tensors(shard_file(folder, part.start), key) for part in parts)
        return [None if shard is None else shard[0] for shard in found]

    def go_on(wanted: list[range], done: int) -> None:
        for part in wanted:
            write_tensors(shard_file(folder, part.start), key, _sums(model, measure, data, split, part, total))
            done += len(part)
            progress("statistics of the network", done, total)

    def missing_parts() -> list[range]:
        return [part for part, shard in zip(parts, read_shards(), strict=True) if shard is None]

    with hold_together(folder, waiting):
        # Rank 0 says what is missing: ranks that looked at different moments would share it out differently.
        missing = broadcast_from_rank_zero(missing_parts() if rank() == 0 else None)
        done = total - sum(map(len, missing))
        go_on(missing[rank() :: num_ranks()], done)
        wait_for_all()
        go_on(missing_parts(), done)  # ranks that share no file system
    shards = read_shards()
    means = {name: sum(shard[name] for shard in shards) / total for name in shards[0]}
    return Measured(means, f"{total} {'training' if split == 'train' else split} images, {digest(means)[:12]}")


@torch.no_grad()
def _sums(
    model: GenerativeModel, measure: Measure, data: DataModule, split: str, part: range, total: int
) -> dict[str, Tensor]:
    """Over the images of a shard."""
    x_0, y = next(data.batches(split, len(part), limit=total, start=part.start))
    indices = torch.arange(part.start, part.stop, device=model.device)
    y = y.to(model.device) if y is not None and model.num_classes is not None else None
    rows = measure(x_0.to(model.device), y, SEED, indices)
    return {name: values.sum(dim=0).cpu() for name, values in rows.items()}
