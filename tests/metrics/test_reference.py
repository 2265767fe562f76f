import numpy as np
import pytest
import torch

from diffusion_lab.metrics.reference import Reference
from diffusion_lab.store import CacheDirectory
from tests.metrics.stand_ins import RawPixels, TinyImages


@pytest.fixture
def reference(tmp_path):
    data = TinyImages()
    data.prepare()
    return Reference(data, RawPixels(), CacheDirectory(tmp_path / "cache"))


def files(reference):
    return sorted(reference.cache.path.glob("[!.]*"))


def same(a, b):
    return all(mine is yours is None or torch.equal(mine, yours) for mine, yours in zip(a, b, strict=True))


def test_moments_are_those_of_all_images_of_the_split(reference):
    x = reference.data.splits["train"][0].flatten(1).double()
    n, mean, covariance, _ = reference.moments("train")
    assert n == 300
    np.testing.assert_allclose(mean, x.mean(0), atol=1e-7)
    np.testing.assert_allclose(covariance, x.T.cov(), atol=1e-7)


def test_a_subset_is_not_the_first_class_only(reference):
    whole, subset = reference.moments("test"), reference.moments("test", 12)
    assert subset.n == 12
    first_class = reference.data.splits["test"][0][:12].mean()
    assert abs(subset.mean.mean() - whole.mean.mean()) < abs(first_class - whole.mean.mean()) / 2


def test_images_are_read_once_for_each_question(reference):
    first = reference.moments("train"), reference.vectors("train", 50), reference.class_means("train")
    reads = reference.data.reads
    again = Reference(reference.data, RawPixels(), reference.cache)
    assert same(again.moments("train"), first[0])
    assert torch.equal(again.vectors("train", 50), first[1])
    assert same(again.class_means("train"), first[2])
    assert reference.data.reads == reads


def test_a_distance_is_the_same_from_new_and_from_stored_moments(reference):
    """To the bit: products of one matrix depend on how it lies in memory."""
    few = [Reference(reference.data, RawPixels(), reference.cache).moments("test", 3) for _ in range(2)]
    assert few[0].factor is not None
    assert few[0].factor.stride() == few[1].factor.stride()


@pytest.mark.parametrize("what", ["data", "features", "split", "num_images"])
def test_another_key_is_another_file(reference, what):
    reference.moments("train")
    if what == "data":
        other = Reference(TinyImages(seed=1), RawPixels(), reference.cache)
        other.data.prepare()
    else:
        other = Reference(reference.data, RawPixels(), reference.cache)
        other.features.identity = "1" * 64 if what == "features" else other.features.identity
    other.moments("test" if what == "split" else "train", 7 if what == "num_images" else None)
    assert len(files(reference)) == 2


def test_a_file_that_is_damaged_or_of_another_key_is_computed_again(reference):
    """And is whole again."""
    expected = reference.moments("train")
    reference.moments("test")
    test, train = files(reference)
    for content in (test.read_bytes(), train.read_bytes()[:-20] + bytes(20)):
        train.write_bytes(content)
        assert same(reference.moments("train"), expected)
        reads = reference.data.reads
        assert same(reference.moments("train"), expected)
        assert reference.data.reads == reads


def test_the_same_images_are_found_whatever_is_held_back(reference):
    """Test images stay the same; training images depend on the number of images for validation."""
    reference.moments("test"), reference.moments("train")
    for held_back, new in ((20, 2), (30, 2)):
        data, before = TinyImages(), len(files(reference))
        data.hold_back(held_back)
        data.prepare()
        divided = Reference(data, RawPixels(), reference.cache)
        assert same(divided.moments("test"), reference.moments("test"))
        assert (divided.moments("train").n, divided.moments("validation").n) == (300 - held_back, held_back)
        assert len(files(reference)) - before == new
