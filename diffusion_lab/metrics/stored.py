"""Tensors in files of the cache, each with the key of its computation and a digest of its content; progress callbacks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffusion_lab.store.files import write_whole

Progress = Callable[[str, int, int], None]  # task, images done, all images


def silent(stage: str, done: int, total: int) -> None:
    """A progress callback that shows nothing."""


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
    """SHA-256 of names, types, shapes and values, for tensors on any device, and of the text `facts`.

    safetensors checks lengths, not content: a flipped bit would cause a wrong score permanently.
    """
    sha256 = hashlib.sha256(facts.encode())
    for name, tensor in sorted(tensors.items()):
        sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha256.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha256.hexdigest()
