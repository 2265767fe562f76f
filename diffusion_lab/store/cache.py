"""The cache in outputs/: results computed from real images, samples and networks. Nothing here makes a folder.

    cache/<data>-<features>-<kind>-<split>-<subset>-<hash>.safetensors   of real images   (`reference`)
    cache/samples/<hash>/<first index>.safetensors                       of samples       (`stream`, `shard_file`)
    cache/statistics/<model>-<weights>-<images>-<hash>/<first index>.safetensors   of a network   (`statistics`, `shard_file`)

Each file of the cache contains its key, a text that identifies the computation, and is named by the key's hash.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

_REFERENCE_DIGITS, _STREAM_DIGITS = 12, 16  # of a hash in a name


@dataclass(frozen=True)
class CacheDirectory:
    """The folder of the cache. since: results that were written before this time, seconds since 1970, are computed again."""

    path: Path
    since: float = 0.0

    def has(self, file: Path) -> bool:
        """Whether this file of the cache exists and was written after `since`."""
        return file.is_file() and file.stat().st_mtime >= self.since

    @property
    def samples(self) -> Path:
        """The folder of sample streams."""
        return self.path / "samples"

    def statistics(self, about: str, key: str) -> Path:
        """The folder of statistics of one network. about: a description for the name of the folder."""
        return self.path / "statistics" / f"{about}-{_digest(key)[:_STREAM_DIGITS]}"

    def reference(self, about: str, key: str) -> Path:
        """The file of a result from real images. about: a description for its name."""
        return self.path / f"{about}-{_digest(key)[:_REFERENCE_DIGITS]}.safetensors"

    @property
    def entries(self) -> list[Path]:
        """Files of results from real images; folders of samples and of statistics."""
        folders = [folder for above in (self.samples, self.path / "statistics") for folder in above.glob("[!.]*/")]
        return sorted([*self.path.glob("[!.]*.safetensors"), *folders])


def stream(samples: Path, key: str) -> Path:
    """The folder of one stream of samples."""
    return samples / _digest(key)[:_STREAM_DIGITS]


def shard_file(stream: Path, first: int) -> Path:
    """The file of the samples from index `first` on."""
    return stream / f"{first:08d}.safetensors"


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
