import numpy as np
import pytest
import torch

from diffusion_lab.metrics.reference import FeatureStatistics, Moments, Reference, UnmeasurableError
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


# ---- mean and covariance ----


def moments(x, batches=1):
    return FeatureStatistics(x.shape[1], x.chunk(batches)).compute()


@pytest.mark.parametrize("batches", [1, 7, 100])
def test_mean_and_unbiased_covariance_however_the_images_are_batched(batches):
    x = torch.randn(100, 5, generator=torch.Generator().manual_seed(0)).double() * torch.arange(1, 6) + 3
    n, mean, covariance, _ = moments(x, batches)
    assert n == 100
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-13)
    np.testing.assert_allclose(covariance, np.cov(x.numpy(), rowvar=False, ddof=1), rtol=1e-11)


def test_a_mean_far_from_zero_costs_no_digits():
    # Sums of x·x^T lose the covariance altogether here: 1e8² has no room for a 1 in float64.
    x = torch.randn(1000, 3, generator=torch.Generator().manual_seed(1)).double()
    np.testing.assert_allclose(moments(x + 1e8, 9).covariance, moments(x, 9).covariance, rtol=0, atol=1e-6)
    # Features of float32 are summed in float64.
    x = torch.rand(5000, 2, generator=torch.Generator().manual_seed(2))
    np.testing.assert_allclose(moments(x, 50).mean, x.double().mean(0), rtol=1e-14)


@pytest.mark.parametrize("n", [9, 10, 11])
def test_fewer_vectors_than_features_are_kept(n):
    """Nothing (D, D) is formed of n < D vectors, and the covariance is the same as if it were."""
    x = torch.randn(n, 10, generator=torch.Generator().manual_seed(4))
    found = moments(x, 3)
    assert (found.covariance is None, found.factor is None) == (n < 10, n >= 10)
    np.testing.assert_allclose(found.mean, x.double().mean(0), atol=1e-15)
    np.testing.assert_allclose(found.dense(), x.double().T.cov(), atol=1e-14)
    again = Moments(**found.tensors())
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(again, found, strict=True))


def test_one_image_has_no_covariance():
    with pytest.raises(UnmeasurableError, match="at least 2 feature vectors, got 1"):
        moments(torch.ones(1, 3))
