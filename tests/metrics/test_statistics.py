import numpy as np
import pytest
import torch

from diffusion_lab.metrics.reference import FeatureStatistics, Moments, UnmeasurableError


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
