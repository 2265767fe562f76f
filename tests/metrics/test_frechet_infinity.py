"""The Fréchet distance at n = ∞, against closed forms, finite differences and, in the long proof, its coverage."""

from dataclasses import dataclass

import pytest
import torch

from diffusion_lab.metrics.frechet_distance import frechet_distance
from diffusion_lab.metrics.frechet_infinity import FrechetInfinity, frechet_at_infinity
from diffusion_lab.metrics.reference import Moments, UnmeasurableError
from tests.metrics.test_score import scored

N = torch.tensor(1.0)


def moments(x, weights=None):
    """Of the rows, or of the distribution that takes row i with probability weights[i]."""
    weights = torch.full((len(x),), 1 / len(x)).double() if weights is None else weights
    mean = weights @ x
    return Moments(N, mean, (weights[:, None] * (x - mean)).T @ (x - mean))


def normal(seed, n, dim=3):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)).double()


@dataclass(frozen=True)
class Truth:
    """x ~ `stretch`·z + move, y ~ z, of z = draw(n) with covariance diag(spectrum) and mean 0."""

    draw: object
    spectrum: torch.Tensor
    covariance: torch.Tensor
    stretch: torch.Tensor
    move: torch.Tensor

    def distance(self):
        real = Moments(N, torch.zeros(len(self.move)).double(), self.covariance)
        return frechet_distance(Moments(N, self.move, self.stretch @ self.covariance @ self.stretch.T), real)

    def covered(self, trials, n, m):
        generator, true = torch.Generator().manual_seed(1), self.distance()
        pairs = ((self.draw(n, generator) @ self.stretch.T + self.move, self.draw(m, generator)) for _ in range(trials))
        found = [frechet_at_infinity(*pair) for pair in pairs]
        return sum(one.low <= true <= one.high for one in found) / trials, found


def truth(kind, dim, floors, n, m):
    """A distribution of `kind`, and another one at a distance of so many floors from it, in mean and in covariance."""
    generator = torch.Generator().manual_seed(7)
    spectrum = 4 / torch.arange(1, dim + 1).double()
    centres = torch.randn(10, dim, generator=generator).double() * spectrum.sqrt()
    centres -= centres.mean(0)
    covariance = torch.diag(spectrum)
    if kind == "clusters":
        covariance = 0.3 * covariance + centres.T @ centres / 10

    def draw(count, generator):
        z = torch.randn(count, dim, generator=generator).double()
        if kind == "skewed":
            z = torch.empty(count, dim, dtype=torch.float64).exponential_(generator=generator) - 1
        if kind == "clusters":
            z = z * 0.3**0.5
        z = z * spectrum.sqrt()
        return z + centres[torch.randint(10, (count,), generator=generator)] if kind == "clusters" else z

    u, c = torch.randn(dim, generator=generator).double(), torch.randn(dim, dim, generator=generator).double()

    def moved(a):
        return Truth(draw, spectrum, covariance, torch.eye(dim) + 0.4 * a * c / dim**0.5, a * u / u.norm())

    def floor():
        return frechet_distance(moments(draw(n, generator)), moments(draw(m, generator)))

    wanted, low, high = floors * sum(floor() for _ in range(5)) / 5, 0.0, 5.0
    for _ in range(40 if floors else 0):
        middle = (low + high) / 2
        low, high = (middle, high) if moved(middle).distance() < wanted else (low, middle)
    return moved(low)


def test_what_a_vector_adds_is_the_derivative_of_the_distance():
    x, y = normal(0, 400) * torch.tensor([1.0, 2.0, 0.5]) + 0.7, normal(1, 600)
    found, step = frechet_at_infinity(x, y), 1e-6
    for rows, influence, other in ((x, found.of_samples, y), (y, found.of_real, x)):
        weights = torch.full((len(rows),), 1 / len(rows)).double()
        more = (1 - step) * weights
        more[5] += step
        before, after = (frechet_distance(moments(rows, each), moments(other)) for each in (weights, more))
        slope = (after - before) / step
        # What is left is what the vector adds to the bias, which is of the order of 1/n.
        assert float(influence[5]) == pytest.approx(slope, abs=0.02 * float(influence.std()) + 0.05)


def test_in_one_dimension_error_and_distance_are_those_of_the_closed_form():
    n, m, mean, std = 4000, 6000, 0.5, 2.0
    found = frechet_at_infinity(mean + std * normal(2, n, 1), normal(3, m, 1))
    true = mean**2 + (std - 1) ** 2
    # d = δ² + (σ_1 − σ_2)²; var of a mean is σ²/n, of a standard deviation σ²/(2n)
    variance = (4 * mean**2 + 2 * (std - 1) ** 2) * (std**2 / n + 1 / m)
    assert found.low < true < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 * variance**0.5, rel=0.05)


def test_the_bias_of_n_is_taken_away():
    drawn = [frechet_at_infinity(normal(2 * s, 200, 4), normal(2 * s + 1, 200, 4)) for s in range(30)]
    biases, left = torch.tensor([d.bias for d in drawn]), torch.tensor([d.value for d in drawn])
    # Of equal Gaussians with unit covariance: D for the mean, D(D + 1)/4 for the covariance, times 1/n + 1/m.
    assert float(biases.mean()) == pytest.approx((4 + 4 * 5 / 4) * 2 / 200, rel=0.1)
    assert abs(float(left.mean())) < 3 * float(left.std()) / 30**0.5


def test_features_that_never_vary_change_nothing():
    x, y = normal(4, 100) + 0.3, normal(5, 100)
    dead = torch.full((100, 2), 1.5).double()
    alone, beside = frechet_at_infinity(x, y), frechet_at_infinity(torch.cat([dead, x], 1), torch.cat([dead, y], 1))
    assert beside.value == pytest.approx(alone.value, rel=1e-9)
    assert (beside.low, beside.high) == pytest.approx((alone.low, alone.high), rel=1e-9)
    assert not alone.poor


def test_too_few_have_a_reason_and_few_a_warning():
    with pytest.raises(UnmeasurableError, match=r"needs 12 samples .* got 11 and 50"):
        frechet_at_infinity(normal(0, 11), normal(1, 50))
    with pytest.raises(UnmeasurableError, match=r"needs 104 samples .* or more, .* got 100 and 300"):
        frechet_at_infinity(normal(0, 100, 25_000), normal(1, 300, 25_000))  # in no time
    with pytest.raises(UnmeasurableError, match="not finite"):
        frechet_at_infinity(normal(0, 20) * torch.nan, normal(1, 50))
    with pytest.raises(UnmeasurableError, match="are the same"):
        frechet_at_infinity(normal(0, 50), normal(0, 50))
    heavy = normal(6, 300, 40) / normal(7, 300, 1).abs()  # Cauchy: there is no covariance that n could come near
    assert frechet_at_infinity(heavy, normal(8, 300, 40)).poor


@pytest.mark.parametrize("floors", [0, 3])
def test_the_interval_covers_in_few_dimensions(floors):
    share, _ = truth("normal", 8, floors, 100, 200).covered(60, 100, 200)
    assert share == pytest.approx(0.95, abs=0.085)  # three standard errors


@pytest.mark.thorough
@pytest.mark.parametrize(("kind", "floors"), [("skewed", 0), ("clusters", 10)])
def test_the_interval_covers_the_true_distance(kind, floors):
    n, m, trials = 500, 2000, 300
    share, found = truth(kind, 32, floors, n, m).covered(trials, n, m)
    # docs/numbers.md: 0.94 to 0.98 of 1,000 trials.
    assert share == pytest.approx(0.955, abs=0.025 + 2 * (0.05 / trials) ** 0.5)
    assert sum(one.poor for one in found) <= 0.02 * trials


def test_where_some_real_images_represent_all_the_plain_distance_has_the_error_of_all(tmp_path, monkeypatch):
    def error(name, **settings):
        scores = scored(tmp_path, metrics=[FrechetInfinity()], num_samples=100, **settings)
        return float(torch.tensor(scores.sources[name]["real images"]).std())

    with pytest.raises(KeyError):  # of a hundred samples it is left out
        error("fd_raw_infinity")
    of_all = error("fd_raw")
    monkeypatch.setattr("diffusion_lab.metrics.frechet_infinity.FEWEST_SAMPLES", 100)
    monkeypatch.setattr("diffusion_lab.metrics.frechet_infinity._MOST_VALUES", 0)
    assert error("fd_raw", reference_features=75) == pytest.approx(of_all, rel=0.3)
    assert error("fd_raw_infinity", reference_features=75) == pytest.approx(2 * of_all, rel=0.3)
