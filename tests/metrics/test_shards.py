import os

import pytest
import torch

from diffusion_lab.metrics.shards import Shard, ShardStore
from diffusion_lab.store import CacheDirectory


def some(n: int) -> Shard:
    return {"features": torch.randn(n, 4)}, {"seconds": 0.1 + 0.2}


@pytest.fixture
def store(tmp_path) -> ShardStore:
    return ShardStore(CacheDirectory(tmp_path), tmp_path / "0", "seed 0")


def test_what_is_written_is_read(store):
    (tensors, facts) = shard = some(8)
    store.write(range(8, 16), shard)
    assert store.read(range(8)) is None
    for part in (range(8, 16), range(8, 12)):
        found, about = store.read(part)
        assert torch.equal(found["features"], tensors["features"])
        assert about == facts
    assert store.read(range(8, 20)) is None, "it has too few images"


def test_a_broken_shard_is_as_good_as_none(store):
    """Cut off, one bit flipped, and with other facts."""
    store.write(range(8), some(8))
    path = store.path(range(8))
    whole = path.read_bytes()
    flipped = whole[:-10] + bytes([whole[-10] ^ 1]) + whole[-9:]
    for content in (b"", b"garbage", whole[:-10], flipped, whole.replace(b"seconds", b"Seconds")):
        path.write_bytes(content)
        assert store.read(range(8)) is None


def test_a_shard_of_another_stream_is_not_believed(store, tmp_path):
    other = ShardStore(CacheDirectory(tmp_path), tmp_path / "1", "seed 1")
    for each in (other, store):
        each.write(range(8), some(8))
    os.replace(other.path(range(8)), store.path(range(8)))
    assert store.read(range(8)) is None
