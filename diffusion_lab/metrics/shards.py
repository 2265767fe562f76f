"""Results in shards: a fixed range of images a file, which is used only if it is intact and has the right key.

A shard is the same whoever computes it and when, because row i depends on (weights, seed, i) alone. So what was interrupted goes on
at the first shard that is missing, more samples extend those that exist, processes of torch.distributed (ranks) divide the shards,
and cells that sample alike draw once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffusion_lab.metrics.stopwatch import Effort, Lap
from diffusion_lab.store.cache import shard_file, shard_files, stream
from diffusion_lab.store.files import clear, write_whole
from diffusion_lab.training.ranks import broadcast_from_rank_zero, hold_together, num_ranks, rank, wait_for_all

Progress = Callable[[str, int, int], None]  # what is being done, images done, images in all
T = TypeVar("T")
SHARD_IMAGES = 128  # about as many as may be lost
RECIPE = 1  # raise it when the same key would give other numbers


def silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody is shown."""


# ---- tensors in a file --------------------------------------------------------------------------------------------------------


def write_tensors(path: Path, key: str, tensors: Mapping[str, Tensor], facts: str = "") -> None:
    """CPU tensors and a text about them, written whole or not at all; `key` says what was computed."""
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_whole(path, save(tensors, metadata={"key": key, "facts": facts, "sha256": digest(tensors, facts)}))


def read_tensors(path: Path, key: str) -> tuple[dict[str, Tensor], str] | None:
    """(tensors, facts) as they were written, or None if the file is missing, damaged or of another key."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError):
        return None
    facts = metadata.get("facts", "")
    intact = metadata.get("key") == key and metadata.get("sha256") == digest(tensors, facts)
    return (tensors, facts) if intact else None


def digest(tensors: Mapping[str, Tensor], facts: str = "") -> str:
    """SHA-256 of names, types, shapes and values, on whatever device they are.

    safetensors checks lengths, not content: a flipped bit would be a wrong score for ever.
    """
    sha256 = hashlib.sha256(facts.encode())
    for name, tensor in sorted(tensors.items()):
        sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha256.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha256.hexdigest()


# ---- several processes ----------------------------------------------------------------------------------------------------------


def share_out(
    folders: Iterable[Path],
    progress: Progress,
    missing: Callable[[], Sequence[T]],
    make: Callable[[Sequence[T], Sequence[T]], None],
) -> None:
    """Every rank makes its share of what is missing in these folders, while no other command works in them. All must call it.

    make: is given the share, and all that is missing. Ranks that share no file system do not see each other's work afterwards.
    """
    with ExitStack() as held:
        for folder in sorted(folders):  # all commands hold them in this order
            held.enter_context(hold_together(folder, lambda holder: progress(f"waiting for {holder}", 0, 1)))
        # Rank 0 decides what is missing: ranks that looked at different moments would divide it differently.
        wanted = broadcast_from_rank_zero(missing() if rank() == 0 else None)
        make(wanted[rank() :: num_ranks()], wanted)
        wait_for_all()


# ---- samples --------------------------------------------------------------------------------------------------------------------


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
