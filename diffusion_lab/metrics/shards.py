"""Samples on the disk: their features, the first as pictures, and what drawing them took, a shard a file.

Sample i depends on (weights, seed, i) alone, so a shard, which is a fixed range of indices, is the same whoever draws it
and when. An interrupted scoring resumes at the first shard that is missing, more samples extend what is there, ranks share
the shards out, and cells that sample alike draw once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from diffusion_lab.metrics.cache import read_tensors, write_tensors
from diffusion_lab.metrics.stopwatch import Lap
from diffusion_lab.store.files import clear
from diffusion_lab.store.places import shard_file, shard_files, stream

SHARD_IMAGES = 128  # about as many as may be lost
RECIPE = 1  # raise it when the same key would give other numbers


@dataclass(frozen=True)
class Effort:
    """What drawing a shard took, and on what: times on different machines are not one number."""

    laps: list[Lap]
    device: str
    threads: int
    nfe: int
    peak_memory_mib: float | None
    peak_memory_of: str


@dataclass(frozen=True)
class Shard:
    """features (n, D) float32; finite (n,) bool, whether each sample is; images: the first ones of the stream among them."""

    features: Tensor
    finite: Tensor
    images: Tensor
    effort: Effort


def shards(num_samples: int, batch_size: int) -> list[range]:
    """Indices 0 … num_samples − 1 in ranges of whole batches; only the last may be shorter."""
    size = batch_size * max(1, SHARD_IMAGES // batch_size)
    return [range(start, min(start + size, num_samples)) for start in range(0, num_samples, size)]


class SampleStore:
    """The shards of one stream of one model as one set of features sees it: all that `decisive` says, hashed."""

    def __init__(self, folder: Path, decisive: Mapping[str, Any]) -> None:
        self.key = json.dumps({**decisive, "recipe": RECIPE}, sort_keys=True)
        self.folder = stream(folder, self.key)

    def path(self, indices: range) -> Path:
        return shard_file(self.folder, indices.start)

    def read(self, indices: range) -> Shard | None:
        """None if it is missing, damaged, or holds fewer samples, as the last shard of a smaller number does."""
        found = read_tensors(self.path(indices), self.key)
        if found is None or len(found[0]["features"]) < len(indices):
            return None
        tensors, facts = found
        effort = json.loads(facts)
        effort["laps"] = [Lap(**lap) for lap in effort["laps"]]
        return Shard(**{name: tensor[: len(indices)] for name, tensor in tensors.items()}, effort=Effort(**effort))

    def write(self, indices: range, shard: Shard) -> None:
        """Whole or not at all. Raises OSError if the folder cannot be written."""
        tensors = {"features": shard.features, "finite": shard.finite, "images": shard.images}
        write_tensors(self.path(indices), self.key, tensors, json.dumps(asdict(shard.effort)))

    def clear(self) -> None:
        """Everything is to be drawn again."""
        for path in shard_files(self.folder):
            clear(path)
