import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from diffusion_lab.metrics.frechet_distance import frechet_distance
from diffusion_lab.metrics.frechet_infinity import frechet_at_infinity
from diffusion_lab.metrics.reference import Moments, UnmeasurableError
from tests.metrics.stand_ins import moments


def gaussian(mean, covariance):
    return Moments(torch.tensor(1000.0), torch.as_tensor(mean).double(), torch.as_tensor(covariance).double())


def random_features(seed, n=500, dim=24):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=generator).double() @ torch.randn(dim, dim, generator=generator).double()


def test_diagonal_covariances_have_a_closed_form():
    """‖m − m′‖² + Σ (σ_i − σ′_i)²; a point mass has no spread at all."""
    assert frechet_distance(gaussian([1.0], [[4.0]]), gaussian([-2.0], [[0.25]])) == pytest.approx(3**2 + 1.5**2)
    assert frechet_distance(*(moments(torch.tensor([[0.0], [2.0]]) + m) for m in (0, 3))) == pytest.approx(9)
    a, b = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([0.25, 4.0, 0.0])
    expected = float((a.sqrt() - b.sqrt()).square().sum() + 3 * 0.5**2)
    first, second, point = (gaussian([m] * 3, c.diag()) for m, c in ((0.0, a), (0.5, b), (0.0, torch.zeros(3))))
    assert frechet_distance(first, second) == pytest.approx(expected)
    assert frechet_distance(first, point) == pytest.approx(float(a.sum()))
    assert frechet_distance(point, point) == 0


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_sqrtm_and_with_torch_fidelity(seed):
    x, y = random_features(seed), random_features(seed + 10, n=300) + 0.2
    a, b = moments(x), moments(y)
    root = scipy.linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy())
    traces = a.covariance.trace() + b.covariance.trace() - 2 * np.trace(root.real)
    by_hand = float((a.mean - b.mean).square().sum() + traces)
    peer = fid_statistics_to_metric(fid_features_to_statistics(x), fid_features_to_statistics(y), verbose=False)
    assert frechet_distance(a, b) == pytest.approx(by_hand, rel=1e-9)
    assert frechet_distance(a, b) == pytest.approx(peer["frechet_inception_distance"], rel=1e-9)


def test_fewer_images_than_dimensions():
    # Both covariances are singular with different null spaces; the exact value comes from the features themselves:
    # the trace term is the nuclear norm of X^T Y over the root of the degrees of freedom, X and Y centred.
    x, y = random_features(5, n=10), random_features(6, n=14)
    centred = [(z - z.mean(0)) / (len(z) - 1) ** 0.5 for z in (x, y)]
    trace = np.linalg.svd(centred[0].numpy() @ centred[1].numpy().T, compute_uv=False).sum()
    spreads = sum(float(z.square().sum()) for z in centred)
    expected = float((x.mean(0) - y.mean(0)).square().sum()) + spreads - 2 * float(trace)
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(expected, rel=1e-10)
    assert 0 <= frechet_distance(moments(x), moments(x)) < 1e-11 * float(moments(x).dense().trace())


def dense(found):
    return Moments(found.n, found.mean, found.dense())


@pytest.mark.parametrize("seed", range(12))
def test_the_smaller_side_gives_what_covariances_give(seed):
    """Any n and m beside D, shared means or not, features that never vary or depend on each other, few large axes."""
    generator = torch.Generator().manual_seed(seed)
    dim, n, m = (int(torch.randint(2, 60, (), generator=generator)) for _ in range(3))
    n = n if seed % 3 else max(2, dim - 1)  # as many as there may be of the smaller side
    sizes = 10.0 ** torch.linspace(0, -2 * (seed % 4), dim)
    mixing = torch.randn(dim, dim, generator=generator).double() * sizes[:, None]
    mixing[:, : dim // 3] = 0 if seed % 2 else mixing[:, -1:]
    x, y = (torch.randn(size, dim, generator=generator).double() @ mixing for size in (n, m))
    y = y + (0 if seed % 2 else x.mean(0) - y.mean(0) + 0.3)
    a, b = moments(x), moments(y)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(dense(a), dense(b)), rel=1e-9)


def test_many_features_of_few_images_take_no_time():
    """Nothing of D × D numbers is made for 30 and 40 images of 100,000 features: it would take 80 GB."""
    a, b = (moments(torch.rand(n, 100_000, generator=torch.Generator().manual_seed(n))) for n in (30, 40))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)


def test_nearly_blank_images_have_a_distance_where_eigh_does_not_converge(monkeypatch):
    x, y = random_features(7), random_features(8)
    expected = frechet_distance(moments(x), moments(y)), frechet_at_infinity(x, y).value

    def failing(matrix):
        raise torch.linalg.LinAlgError("linalg.eigh: the algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", failing)
    assert (frechet_distance(moments(x), moments(y)), frechet_at_infinity(x, y).value) == pytest.approx(
        expected, rel=1e-9
    )


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(UnmeasurableError, match="not finite"):
        frechet_distance(gaussian([0.0], [[torch.nan]]), gaussian([0.0], [[1.0]]))
