"""What was computed once and may be computed again: outputs/cache/.

    <data>-<features>-<kind>-<split>-<subset>-<hash>.safetensors   of real images   (`reference`)
    samples/<hash>/<first index>.safetensors                       of samples       (`stream`, `shard_file`)

Each file holds its key, a text that says which question it answers, and is named by a hash of it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

_REFERENCE_DIGITS, _STREAM_DIGITS = 12, 16  # of a hash in a name


@dataclass(frozen=True)
class CacheDirectory:
    path: Path

    @property
    def samples(self) -> Path:
        """Folder of the streams of samples."""
        return self.path / "samples"

    def reference(self, about: str, key: str) -> Path:
        """File of what was computed of real images. about: in words, for who lists the folder."""
        return self.path / f"{about}-{_digest(key)[:_REFERENCE_DIGITS]}.safetensors"


def stream(samples: Path, key: str) -> Path:
    """Folder of one stream of samples."""
    return samples / _digest(key)[:_STREAM_DIGITS]


def shard_file(stream: Path, first: int) -> Path:
    """File of the samples from index `first` on."""
    return stream / f"{first:08d}.safetensors"


def shard_files(stream: Path) -> list[Path]:
    """All of them that lie there."""
    return sorted(path for path in stream.glob("*.safetensors") if path.stem.isdecimal() and len(path.stem) == 8)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
