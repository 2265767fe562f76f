import numpy as np
import pytest
import torch

from diffusion_lab.metrics.kernel_distance import few_columns, kernel_distance, kernel_influences
from diffusion_lab.metrics.reference import UnmeasurableError


def cloud(seed, n, shift=0.0, dim=3):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)) + shift


def test_kernel_distance_of_all_images_is_the_unbiased_estimate_written_out():
    x, y = cloud(0, 20).double().numpy(), cloud(1, 20, 0.5).double().numpy()

    def kernel(a, b):
        return (a @ b.T / 3 + 1) ** 3

    def off_diagonal(k):
        return (k.sum() - np.trace(k)) / (20 * 19)

    expected = off_diagonal(kernel(x, x)) + off_diagonal(kernel(y, y)) - 2 * kernel(x, y).mean()
    ours = kernel_distance(cloud(0, 20), cloud(1, 20, 0.5), num_subsets=1, subset_size=20, seed=0)
    assert ours == pytest.approx(expected, rel=1e-10)


def test_kernel_distance_is_unbiased_and_sees_a_shift():
    same = [kernel_distance(cloud(2 * s, 60), cloud(2 * s + 1, 60), 5, 30, seed=s) for s in range(60)]
    error = np.std(same) / 60**0.5
    assert abs(np.mean(same)) < 4 * error
    assert kernel_distance(cloud(0, 60), cloud(1, 60, 1.0), 5, 30, seed=0) > 10 * np.std(same)


def test_kernel_distance_is_keyed_by_its_seed():
    x, y = cloud(0, 50), cloud(1, 50)
    assert kernel_distance(x, y, 3, 10, seed=1) == kernel_distance(x, y, 3, 10, seed=1)
    assert kernel_distance(x, y, 3, 10, seed=1) != kernel_distance(x, y, 3, 10, seed=2)


def test_of_many_features_only_products_count(monkeypatch):
    monkeypatch.setattr("diffusion_lab.metrics.kernel_distance._COLUMNS", 300)
    x, y = cloud(0, 20, dim=2000), cloud(1, 30, 0.1, dim=2000)
    few = few_columns(x, y, 10_000)
    assert [part.shape for part in few] == [(20, 50), (30, 50)]
    assert kernel_distance(*few, 5, 15, seed=3) == pytest.approx(kernel_distance(x, y, 5, 15, seed=3), rel=1e-9)
    for ours, theirs in zip(kernel_influences(*few)[:2], kernel_influences(x, y)[:2], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert few_columns(x[:, :40], y[:, :40], 10_000)[0].shape == (20, 40)
    assert few_columns(x, y, 1000)[0] is x


def all_pairs(x, y):
    return kernel_distance(x, y, num_subsets=1, subset_size=len(x), seed=0)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_the_error_of_a_kernel_distance_is_its_spread_where_it_is_zero_and_where_it_is_not(shift):
    pairs = [(cloud(2 * s, 50, shift), cloud(2 * s + 1, 50)) for s in range(100)]
    spread = np.std([all_pairs(x, y) for x, y in pairs])
    stated = np.mean([kernel_influences(x, y)[2] ** 2 for x, y in pairs]) ** 0.5
    assert 0.85 * spread < stated < 1.25 * spread  # a little wide near zero, where it is not negative


def test_what_a_sample_adds_to_a_kernel_distance_is_what_the_distance_loses_without_it():
    x, y = cloud(0, 40, 0.5).double(), cloud(1, 40).double()
    of_samples, _, _ = kernel_influences(x, y)

    def distance(x):
        kernel = [(a @ b.T / 3 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
        off = [(k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in kernel[:2]]
        return float(off[0] + off[1] - 2 * kernel[2].mean())

    without = [distance(torch.cat([x[:i], x[i + 1 :]])) for i in range(40)]
    lost = distance(x) - torch.tensor(without).double()
    added = (of_samples - of_samples.mean()) / 39
    assert torch.allclose(added - added.mean(), lost - lost.mean(), rtol=0.06, atol=1e-3)


def test_too_few_images_have_a_reason():
    with pytest.raises(UnmeasurableError, match="subsets of 30 images"):
        kernel_distance(cloud(0, 20), cloud(1, 80), 5, 30, seed=0)
