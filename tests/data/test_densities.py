import math

import pytest
import torch

from diffusion_lab.data.densities import Density, GaussianDensity, GaussianField, RingMixture, TwoMoons

COMMON = {"batch_size": 4, "seed": 0, "num_train": 20_000, "num_test": 10}


def points(data: Density, split: str = "train") -> tuple[torch.Tensor, torch.Tensor | None]:
    return next(data.batches(split, 10**6))


def gaussian(**options) -> GaussianDensity:
    return GaussianDensity(**COMMON | options)


def mixture(**options) -> RingMixture:
    return RingMixture(**COMMON | options)


def field(**options) -> GaussianField:
    return GaussianField(**COMMON | {"num_train": 2000} | options)


FIELDS = [
    field(shape=[1, 16]),
    field(shape=[2, 4, 6], length=1, exponent=2),
    field(shape=[1, 4, 3, 5], length=1.5, std=2),
]
KNOWN = [
    gaussian(),
    gaussian(dim=3, mean=0.25, std=0.1),
    mixture(),
    mixture(num_components=3, radius=0.2, std=0.3),
    *FIELDS,
]
IDS = ["1-D Gaussian", "3-D Gaussian", "ring apart", "ring overlapping", "series", "fields", "volumes"]


@pytest.mark.parametrize("data", [gaussian(), gaussian(dim=2, mean=0.25, std=0.1), *KNOWN[2:4]])
def test_densities_integrate_to_one(data: Density) -> None:
    # The trapezoid rule on a grid finer than a third of the narrowest Gaussian, far beyond where it ends.
    data.prepare()
    axis = torch.arange(-128, 129, dtype=torch.float64) * data.std / 3 if data.shape == (1,) else None
    step = data.std / 3
    if data.shape == (2,):
        half = math.ceil((1 + 9 * data.std) / step)
        axis = torch.arange(-half, half + 1, dtype=torch.float64) * step
    grid = torch.cartesian_prod(*[axis] * len(data.shape) * data.shape[0]).view(-1, data.shape[0])
    assert float(data.log_prob(grid).exp().sum()) * step ** data.shape[0] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("data", KNOWN, ids=IDS)
def test_entropy_is_the_mean_of_minus_log_density(data: Density) -> None:
    x, _ = points(data)
    bits = -data.log_prob(x) / (math.log(2) * x[0].numel())
    assert bits.dtype == torch.float64
    assert bits.mean().item() == pytest.approx(data.entropy_bits(), abs=5 * bits.std().item() / math.sqrt(len(x)))


@pytest.mark.parametrize("data", FIELDS, ids=IDS[4:])
def test_a_field_is_the_gaussian_of_its_covariance(data: GaussianField) -> None:
    """Covariance C_ij = Σ_ω λ(ω)·cos(ω·(i − j))/n, in pixels: its density, its entropy, and the covariance of what is drawn."""
    x, _ = points(data)
    sides, size = data.shape[1:], math.prod(data.shape[1:])
    of_shift = torch.fft.ifftn(data.spectrum()).real
    places = torch.cartesian_prod(*map(torch.arange, sides)).view(size, -1)
    shifts = (places[:, None] - places) % torch.tensor(sides)
    covariance = of_shift[tuple(shifts.unbind(-1))]
    truth = torch.distributions.MultivariateNormal(torch.zeros(size, dtype=torch.float64), covariance)
    expected = truth.log_prob(x[:9].double().flatten(2)).sum(1)
    torch.testing.assert_close(data.log_prob(x[:9]), expected)
    assert data.entropy_bits() == pytest.approx(float(truth.entropy()) / size / math.log(2))
    assert covariance.diagonal().tolist() == pytest.approx([data.std**2] * size)
    ratio = data.modes(x).mean((0, 1)) / data.spectrum()  # chi-squared, with one degree of freedom or two
    assert float((ratio - 1).abs().max()) < 5 * math.sqrt(2 / (len(x) * data.shape[0]))


def test_the_class_of_a_mixture_is_its_component() -> None:
    data = mixture()
    x, y = points(data)
    assert y.bincount().tolist() == pytest.approx([2500] * 8, abs=5 * 47)
    for k, mean in enumerate(data.means()):
        part = x[y == k].double()
        assert (part.mean(0) - mean).abs().max() < 5 * 0.05 / math.sqrt(len(part))
        assert part.std(0).tolist() == pytest.approx([0.05] * 2, rel=0.08)
    assert data.means().norm(dim=1).tolist() == pytest.approx([0.75] * 8)


def test_the_moons_are_half_circles_that_fit_the_square() -> None:
    data = TwoMoons(**COMMON, noise=0.0)
    x, y = points(data)
    circle = x.double() * 1.75 + torch.tensor([0.5, 0.25])
    upper, lower = circle[y == 0], circle[y == 1]
    assert upper.norm(dim=1).tolist() == pytest.approx([1.0] * len(upper), abs=1e-5)
    assert (lower - torch.tensor([1, 0.5])).norm(dim=1).tolist() == pytest.approx([1.0] * len(lower), abs=1e-5)
    assert upper[:, 1].min() > -1e-6
    assert lower[:, 1].max() < 0.5 + 1e-6
    assert (points(TwoMoons(**COMMON))[0].abs() < 1).double().mean() > 0.99
    assert data.log_prob(x) is None
    assert data.entropy_bits() is None


def test_the_seed_of_a_run_orders_points_and_draws_none() -> None:
    runs = [mixture(seed=0, num_test=20_000), mixture(seed=1, num_test=20_000)]
    assert torch.equal(points(runs[0])[0], points(runs[1])[0])
    assert not torch.equal(points(runs[0])[0], points(runs[0], "test")[0])
    assert runs[0].identity == runs[1].identity
    first, second = (next(iter(data.train_dataloader()))[0] for data in runs)
    assert not torch.equal(first, second)


def test_every_part_of_the_definition_counts_in_the_identity() -> None:
    variants = [
        gaussian(),
        gaussian(dim=2),
        gaussian(mean=0.1),
        gaussian(std=0.4),
        gaussian(num_train=30),
        gaussian(num_test=30),
        gaussian(data_seed=1),
        mixture(),
        mixture(num_components=5),
        mixture(radius=0.5),
        mixture(std=0.1),
        TwoMoons(**COMMON),
        TwoMoons(**COMMON, noise=0.1),
        *(field(**one) for one in ({}, {"shape": [1, 16]}, {"length": 1.0}, {"exponent": 2.0}, {"std": 0.4})),
    ]
    for data in variants:
        data.prepare()
    assert len({data.identity for data in variants}) == len(variants)
