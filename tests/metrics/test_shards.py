import os

import pytest
import torch

from diffusion_lab.metrics.shards import SampleStore, Shard, shards
from diffusion_lab.metrics.stopwatch import Effort, Lap


def some(n: int) -> Shard:
    laps = [Lap(n, 0.1 + 0.2, first=True)]
    effort = Effort(laps, device="cpu", threads=1, nfe=5, peak_memory_mib=None, peak_memory_of="unknown")
    return Shard(torch.randn(n, 4), torch.ones(n, dtype=torch.bool), torch.randn(min(n, 3), 1, 2, 2), effort)


@pytest.fixture
def store(tmp_path) -> SampleStore:
    return SampleStore(tmp_path, {"seed": 0})


def same(a: Shard, b: Shard) -> bool:
    tensors = ((a.features, b.features), (a.finite, b.finite), (a.images, b.images))
    return a.effort == b.effort and all(torch.equal(mine, yours) for mine, yours in tensors)


@pytest.mark.parametrize(("n", "batch_size"), [(1, 128), (300, 128), (300, 7), (300, 1), (300, 1000), (256, 128)])
def test_shards_cover_every_index_once_in_whole_batches(n, batch_size):
    parts = shards(n, batch_size)
    assert [i for part in parts for i in part] == list(range(n))
    assert all(len(part) % batch_size == 0 for part in parts[:-1])
    assert shards(n + 1000, batch_size)[: len(parts) - 1] == parts[:-1]  # ranges stay where they are


def test_what_is_written_is_read(store):
    shard = some(8)
    store.write(range(8, 16), shard)
    assert same(store.read(range(8, 16)), shard)
    assert store.read(range(8)) is None


def test_a_longer_shard_serves_a_shorter_range_and_not_the_reverse(store):
    shard = some(8)
    store.write(range(8, 16), shard)
    assert torch.equal(store.read(range(8, 12)).features, shard.features[:4])
    assert store.read(range(8, 20)) is None


@pytest.mark.parametrize("content", [b"", b"garbage", "truncated", "one bit", "other facts"])
def test_a_broken_shard_is_as_good_as_none(store, content):
    store.write(range(8), some(8))
    path = store.path(range(8))
    whole = bytearray(path.read_bytes())
    if content == "truncated":
        content = whole[:-10]
    elif content == "one bit":
        whole[-10] ^= 1
        content = whole
    elif content == "other facts":
        content = whole.replace(b"seconds", b"Seconds")
    path.write_bytes(content)
    assert store.read(range(8)) is None


def test_a_shard_of_another_stream_is_not_believed(store, tmp_path):
    other = SampleStore(tmp_path, {"seed": 1})
    assert other.folder != store.folder
    other.write(range(8), some(8))
    store.write(range(8), some(8))
    os.replace(other.path(range(8)), store.path(range(8)))
    assert store.read(range(8)) is None
