"""What is drawn once stays drawn, whoever draws it and however often it is stopped."""

import json
import os
import time
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import distributed

from diffusion_lab.diffusion.levels import from_levels
from diffusion_lab.metrics import drawer
from diffusion_lab.metrics import samples as kinds
from diffusion_lab.metrics.drawer import Shard, ShardStore, Stream, labels, ranges
from diffusion_lab.metrics.reference import quantise
from diffusion_lab.metrics.samples import KEPT_IMAGES, Samples
from diffusion_lab.metrics.stored import silent
from diffusion_lab.store import CacheDirectory
from diffusion_lab.store.lock import hold
from diffusion_lab.training.ranks import broadcast_from_rank_zero
from tests.metrics.stand_ins import GaussianModel, RawPixels
from tests.metrics.test_score import scored

CPU = torch.device("cpu")
STREAM = Stream(seed=0, batch_size=16, num_levels=17)  # shards of 128 images


class Counting(GaussianModel):
    """Remembers which samples it was asked for, and can be stopped at one."""

    def __init__(self, stop_at: int | None = None, num_classes: int | None = None) -> None:
        super().__init__(num_classes)
        self.asked: list[int] = []
        self.stop_at = stop_at

    def sample(self, indices, seed, y=None):
        if self.stop_at in indices.tolist():
            raise KeyboardInterrupt
        self.asked += indices.tolist()
        return super().sample(indices, seed, y)


def draw(
    folder: Path, model=None, n: int = 300, stream: Stream = STREAM, progress=silent, since=0.0, kept=None
) -> Samples:
    store, model = ShardStore(CacheDirectory(folder, since), folder, "mine"), model or GaussianModel()
    kept = kinds.num_kept(model.shape) if kept is None else kept
    drawn = drawer.Drawer(model, stream, [RawPixels()], [store], kept).samples(n, progress)
    return drawn and drawn[0]


def same(a: Samples, b: Samples) -> bool:
    return torch.equal(a.features, b.features) and torch.equal(a.images, b.images)


def whole_shards(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.safetensors"))


def test_features_see_all_samples_and_pictures_are_the_first(tmp_path, monkeypatch):
    expected = torch.cat(list(STREAM.batches(GaussianModel(), range(300))))
    drawn = draw(tmp_path / "a")
    assert torch.equal(drawn.vectors().reshape(-1, 1, 2, 2), expected)
    assert torch.equal(drawn.images, expected)  # small ones are all kept
    assert drawn.moments(CPU).n == 300
    assert {effort.nfe for effort in drawn.efforts} == {5}
    monkeypatch.setattr(kinds, "KEPT_VALUES", 0)
    assert torch.equal(draw(tmp_path / "b").images, expected[:KEPT_IMAGES])
    assert torch.equal(draw(tmp_path / "c", kept=300).images, expected)


def test_the_same_samples_are_drawn_once_and_cost_what_they_cost(tmp_path):
    first, model = draw(tmp_path), Counting()
    second = draw(tmp_path, model)
    assert model.asked == []
    assert same(first, second)
    assert [asdict(effort) for effort in second.efforts] == json.loads(json.dumps([asdict(e) for e in first.efforts]))


def test_an_interrupted_drawing_goes_on_at_the_first_missing_shard(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path, Counting(stop_at=200))
    assert whole_shards(tmp_path) == ["00000000.safetensors"]
    model = Counting()
    assert same(draw(tmp_path, model), draw(tmp_path / "undisturbed"))
    assert model.asked == list(range(128, 300))


def test_more_samples_extend_what_is_there(tmp_path):
    draw(tmp_path, n=300)
    model = Counting()
    drawn = draw(tmp_path, model, n=700)
    assert model.asked == list(range(256, 700))  # the last shard was not whole
    assert same(drawn, draw(tmp_path / "at once", n=700))
    fewer = draw(tmp_path, model := Counting(), n=150)
    assert model.asked == []
    assert torch.equal(fewer.features, drawn.features[:150])
    assert len(fewer.images) == 150


def test_anew_forgets_what_is_there(tmp_path):
    draw(tmp_path)
    model = Counting()
    draw(tmp_path, model, since=time.time())
    assert model.asked == list(range(300))


def test_progress_counts_to_the_end_from_what_is_there(tmp_path):
    seen = []
    draw(tmp_path, n=50, progress=lambda *what: seen.append(what))
    assert seen == [("samples", done, 50) for done in (16, 32, 48, 50)]
    draw(tmp_path, n=128)
    seen.clear()
    draw(tmp_path, n=150, progress=lambda *what: seen.append(what))
    assert seen == [("samples", done, 150) for done in (144, 150)]


# ---- one stream ----


@pytest.mark.parametrize(("n", "batch_size"), [(1, 128), (300, 128), (300, 7), (300, 1), (300, 1000), (256, 128)])
def test_shards_cover_every_index_once_in_whole_batches(n, batch_size):
    parts = ranges(n, batch_size)
    assert [i for part in parts for i in part] == list(range(n))
    assert all(len(part) % batch_size == 0 for part in parts[:-1])
    assert ranges(n + 1000, batch_size)[: len(parts) - 1] == parts[:-1]  # ranges stay where they are


def images(batch_size=16, seed=0, prior=None, num_levels=17, part=range(50)):
    model = GaussianModel(None if prior is None else len(prior))
    return torch.cat(list(Stream(seed, batch_size, num_levels, prior).batches(model, part)))


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_batch_size_and_the_part_change_no_image(batch_size):
    prior = torch.tensor([0.5, 0.25, 0.25]).double()
    assert torch.equal(images(batch_size, prior=prior), images(50, prior=prior))
    assert torch.equal(images(batch_size, part=range(20, 45)), images(50)[20:45])
    assert not torch.equal(images(50, seed=1), images(50, seed=0))


def test_samples_lie_on_the_nearest_levels_of_the_data():
    levels = from_levels(torch.arange(17), 17)
    assert torch.isin(images(), levels).all()
    assert not torch.isin(images(num_levels=None), levels).all()
    x = torch.linspace(-1.2, 1.2, 1001)
    rounded = quantise(x, 17)
    assert (rounded - x.clamp(-1, 1)).abs().max() <= 1 / 16 + 1e-6
    assert torch.equal(quantise(rounded, 17), rounded)


def test_labels_are_independent_draws_from_the_prior():
    """Mean and variance of the counts in many runs of 200 are the multinomial's; a label depends on seed and index only."""
    prior = torch.tensor([0.1, 0.0, 0.6, 0.3]).double()
    y = labels(torch.arange(200 * 400), 0, prior)
    counts = torch.nn.functional.one_hot(y.reshape(400, 200), 4).sum(1).double()
    torch.testing.assert_close(counts.mean(0), 200 * prior, rtol=0, atol=1.5)  # five standard errors of 0.35 at most
    torch.testing.assert_close(counts.var(0), 200 * prior * (1 - prior), rtol=0.3, atol=0)
    assert not (y == 1).any()
    assert torch.equal(labels(torch.tensor([71, 5]), 0, prior), y[[71, 5]])
    assert not torch.equal(labels(torch.arange(100), 4, prior), y[:100])


def test_in_bfloat16_products_are_rounded_and_images_stay_float32():
    class Product(GaussianModel):
        def decode(self, z, y=None):
            image = super().decode(z)
            self.computed_in = (rounded := image.flatten(1) @ torch.eye(4)).dtype
            return rounded.reshape(image.shape)

    found = {}
    for precision, dtype in (("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)):
        model = Product()
        (found[precision],) = Stream(0, 50, precision=precision).batches(model, range(50))
        assert model.computed_in == dtype
        assert found[precision].dtype == torch.float32
    assert 0 < (found["32-true"] - found["bf16-mixed"]).abs().max() <= 2**-8


# ---- several processes ----


LIMIT = 2.0  # seconds that a collective may take in the first part of `in_ranks`


def in_ranks(number: str, where: str) -> None:
    """Draw from a store that somebody else holds, without patience; then score."""
    rank, folder = int(number), Path(where)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/impatient", rank=rank, world_size=2)
    broadcast_from_rank_zero(None)  # as every command does when it joins the others
    distributed.distributed_c10d._set_pg_timeout(timedelta(seconds=LIMIT))
    drawn = draw(folder / "held", progress=lambda what, *_: (folder / what.partition(" ")[0]).touch())
    assert (drawn is None) == (rank == 1)
    distributed.destroy_process_group()

    distributed.init_process_group("gloo", init_method=f"file://{folder}/sync", rank=rank, world_size=2)
    model = Counting(num_classes=3)  # the classes' shares are needed on every rank
    scores = scored(folder / "cache", model, num_samples=600)
    (folder / f"{rank}.json").write_text(json.dumps([model.asked, scores and scores.values]))
    if rank == 1:
        return  # and rank 0 is not left waiting for it
    distributed.destroy_process_group()


@pytest.mark.thorough
def test_two_ranks_outwait_another_command_share_the_shards_out_and_score_what_one_scores(tmp_path, zygote):
    """The other one draws for longer than a collective may take. What is scored has the first of five shards already."""
    alone = scored(tmp_path / "one rank", Counting(num_classes=3), num_samples=600).values
    for path in (tmp_path / "one rank").rglob("00000000.safetensors"):
        (tmp_path / "cache" / path.relative_to(tmp_path / "one rank")).parent.mkdir(parents=True)
        path.rename(tmp_path / "cache" / path.relative_to(tmp_path / "one rank"))
    with hold(tmp_path / "held", print):
        ranks = []
        for rank in "01":
            (tmp_path / rank).mkdir()
            ranks.append(zygote.call(tmp_path / rank, in_ranks, rank, str(tmp_path)))
        while not (tmp_path / "waiting").exists() and all(rank.poll() is None for rank in ranks):
            time.sleep(0.01)
        time.sleep(LIMIT + 1)
    for rank in ranks:
        _, err = rank.communicate()
        assert rank.returncode == 0, err
    assert len(whole_shards(tmp_path / "held")) == 3
    (asked, scores), (asked_of_one, nothing) = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert asked == [*range(128, 256), *range(384, 512)]
    assert asked_of_one == [*range(256, 384), *range(512, 600)]
    assert nothing is None
    for name in ("seconds_per_1000_samples", "peak_memory_mib"):
        del alone[name], scores[name]
    assert scores == alone


# ---- shards ----


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


def test_a_shard_of_another_stream_is_not_believed(store, tmp_path):
    other = ShardStore(CacheDirectory(tmp_path), tmp_path / "1", "seed 1")
    for each in (other, store):
        each.write(range(8), some(8))
    os.replace(other.path(range(8)), store.path(range(8)))
    assert store.read(range(8)) is None


def test_two_sets_of_the_same_features_share_a_folder(tmp_path):
    """It is held once, or the process would wait for itself."""
    stores = [ShardStore(CacheDirectory(tmp_path), tmp_path / "0", "mine")] * 2
    model = GaussianModel()
    found = drawer.Drawer(model, STREAM, [RawPixels(), RawPixels()], stores, kinds.num_kept(model.shape))
    one, other = found.samples(20, silent)
    assert same(one, other)
