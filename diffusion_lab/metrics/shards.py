"""Results in shards: one file per fixed range of images, used only if it is intact and has the right key.

A shard is the same whoever computes it and when, because row i depends only on (weights, seed, i). So interrupted work continues
at the first missing shard, more samples extend existing ones, processes of torch.distributed (ranks) divide the shards,
and cells with equal samples draw once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffusion_lab.store.cache import CacheDirectory, shard_file
from diffusion_lab.store.files import write_whole
from diffusion_lab.training.ranks import broadcast_from_rank_zero, hold_together, num_ranks, rank, wait_for_all

Progress = Callable[[str, int, int], None]  # task, images done, all images
Shard = tuple[Mapping[str, Tensor], Mapping[str, Any]]  # tensors on the CPU, and facts about them as plain JSON


def silent(stage: str, done: int, total: int) -> None:
    """Progress that is not shown."""


def write_tensors(path: Path, key: str, tensors: Mapping[str, Tensor], facts: str = "") -> None:
    """Write CPU tensors and a text about them, whole or not at all; `key` identifies the computation."""
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
    """SHA-256 of names, types, shapes and values, for tensors on any device.

    safetensors checks lengths, not content: a flipped bit would cause a wrong score permanently.
    """
    sha256 = hashlib.sha256(facts.encode())
    for name, tensor in sorted(tensors.items()):
        sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha256.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha256.hexdigest()


@dataclass(frozen=True)
class ShardStore:
    """The shards of one computation. key: a text that contains everything that affects them."""

    cache: CacheDirectory
    folder: Path
    key: str

    def path(self, part: range) -> Path:
        return shard_file(self.folder, part.start)

    def read(self, part: range) -> Shard | None:
        """The shard, or None if it is missing, damaged, or has too few images, like the last shard of a smaller number."""
        found = read_tensors(self.path(part), self.key) if self.cache.has(self.path(part)) else None
        if found is None:
            return None
        facts = json.loads(found[1])
        return None if facts.pop("images") < len(part) else (found[0], facts)

    def write(self, part: range, shard: Shard) -> None:
        """Write a shard, whole or not at all. OSError if the folder cannot be written."""
        tensors, facts = shard
        write_tensors(self.path(part), self.key, tensors, json.dumps({"images": len(part), **facts}))


def complete(
    stores: Sequence[ShardStore],
    parts: Sequence[range],
    make: Callable[[range, Sequence[int], Callable[[int], None]], Iterable[Shard]],
    stage: str,
    progress: Progress,
) -> list[list[Shard]] | None:
    """The shards of all parts in each store. All ranks must call it; rank 0 returns the shards, the others None.

    Missing shards are made by all ranks together, while no other command works in these folders, and written as soon as they
    are complete. make(part, of, report): shards of a part for the stores numbered `of`; it calls report(n) after n more images.
    stage: the task, in words.
    """
    found: list[dict[range, Shard]] = [{} for _ in stores]

    def missing() -> list[tuple[range, list[int]]]:
        """Read the stored parts; return the parts that a store lacks, with the numbers of these stores."""
        for store, known in zip(stores, found, strict=True):
            known |= {part: shard for part in parts if part not in known and (shard := store.read(part)) is not None}
        lacking = ((part, [i for i, known in enumerate(found) if part not in known]) for part in parts)
        return [(part, of) for part, of in lacking if of]

    def work(wanted: Sequence[tuple[range, list[int]]], lacking: Sequence[tuple[range, list[int]]]) -> None:
        done = sum(map(len, parts)) - sum(len(part) for part, _ in lacking)
        total = done + sum(len(part) for part, _ in wanted)

        def report(images: int) -> None:
            nonlocal done
            done += images
            progress(stage, done, total)

        for part, of in wanted:
            for i, shard in zip(of, make(part, of, report), strict=True):
                stores[i].write(part, shard)
                found[i][part] = shard

    with ExitStack() as held:
        for folder in sorted(store.folder for store in stores):  # all commands hold them in this order
            held.enter_context(hold_together(folder, lambda holder: progress(f"waiting for {holder}", 0, 1)))
        # Rank 0 decides what is missing, because ranks that look at different times would divide the work differently.
        lacking = broadcast_from_rank_zero(missing() if rank() == 0 else None)
        work(lacking[rank() :: num_ranks()], lacking)
        wait_for_all()
    if rank() > 0:
        return None
    unseen = missing()  # for ranks on another file system
    work(unseen, unseen)
    return [[known[part] for part in parts] for known in found]
