import math

import pytest
import torch

from diffusion_lab.diffusion import Gaussian


def gaussian(mean: float, std: float) -> Gaussian:
    return Gaussian(
        torch.full((1, 1), mean, dtype=torch.float64), torch.full((1, 1), 2 * math.log(std), dtype=torch.float64)
    )


@pytest.mark.parametrize(("a", "b"), [((0.3, 0.5), (-1.0, 2.0)), ((0.0, 1.0), (0.0, 1.0)), ((2.0, 3.0), (1.0, 0.1))])
def test_kl_is_torchs(a, b):
    expected = torch.distributions.kl_divergence(torch.distributions.Normal(*a), torch.distributions.Normal(*b))
    assert float(gaussian(*a).kl(gaussian(*b))) == pytest.approx(float(expected), rel=1e-6, abs=1e-12)


def test_kl_keeps_its_digits_when_the_two_are_nearly_equal():
    near = Gaussian(torch.zeros(1, 1, dtype=torch.float64), torch.full((1, 1), 1e-6, dtype=torch.float64))
    assert float(near.kl(gaussian(0.0, 1.0))) == pytest.approx(0.25e-12, rel=1e-3)


def test_log_prob_is_torchs_and_sample_is_mean_plus():
    """Log prob is torchs and sample is mean plus std times eps."""
    x = torch.tensor([[0.7]], dtype=torch.float64)
    expected = torch.distributions.Normal(torch.tensor(0.2, dtype=torch.float64), 0.4).log_prob(x)
    torch.testing.assert_close(gaussian(0.2, 0.4).log_prob(x), expected)
    torch.testing.assert_close(gaussian(0.2, 0.4).sample(torch.full((1, 1), -2.0, dtype=torch.float64)), x * 0 - 0.6)


@pytest.mark.parametrize("num_levels", [2, 17, 256])
@pytest.mark.parametrize("mean", [-3.0, -1.0, -0.123, 0.0, 0.5, 1.0, 40.0])
@pytest.mark.parametrize("std", [1e-4, 1e-2, 0.3, 5.0])
def test_the_masses_of_all_levels_sum_to_one(num_levels, mean, std):
    levels = torch.linspace(-1, 1, num_levels, dtype=torch.float64)[:, None]
    one = gaussian(mean, std)
    every = Gaussian(one.mean.expand(num_levels, 1), one.log_variance.expand(num_levels, 1))
    log_mass = every.discretized_log_prob(levels, num_levels)
    assert torch.isfinite(log_mass).all()
    assert float(log_mass.exp().sum()) == pytest.approx(1.0, abs=1e-9)


def test_a_bin_is_the_difference_of_the_normal_cdf():
    """A bin is the difference of the normal cdf and the edge bins are open."""
    phi = lambda z: 0.5 * math.erfc(-z / math.sqrt(2))  # noqa: E731
    mean, std, half = 0.1, 0.2, 1 / 16
    one = gaussian(mean, std)
    at = lambda x: float(one.discretized_log_prob(torch.tensor([[x]], dtype=torch.float64), 17).exp())  # noqa: E731
    assert at(0.25) == pytest.approx(phi((0.25 + half - mean) / std) - phi((0.25 - half - mean) / std), rel=1e-10)
    assert at(-1.0) == pytest.approx(phi((-1.0 + half - mean) / std), rel=1e-10)
    assert at(1.0) == pytest.approx(1 - phi((1.0 - half - mean) / std), rel=1e-8)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_far_in_either_tail_the_log_mass_is_finite(sign):
    """Far in either tail the log mass is finite with a finite gradient."""
    mean = torch.full((1, 1), 0.9 * sign, requires_grad=True)
    log_variance = torch.full((1, 1), -12.0, requires_grad=True)
    level = -1 + 2 * 64 / 255  # about −0.5
    value = Gaussian(mean, log_variance).discretized_log_prob(torch.full((1, 1), level * sign), 256)
    distance = (0.9 - level - 1 / 255) / math.exp(-6)  # to the bin's nearer edge, in standard deviations
    assert value.item() == pytest.approx(-0.5 * distance**2, rel=1e-3)
    value.backward()
    assert torch.isfinite(mean.grad).all()
    assert float(mean.grad) * sign < 0
    assert torch.isfinite(log_variance.grad).all()


@pytest.mark.parametrize("level", [-1.0, -0.875, 0.0, 0.875, 1.0])
@pytest.mark.parametrize("log_variance", [-14.0, -6.0, 0.0])
def test_every_bin_has_the_gradient_of_finite_differences(level, log_variance):
    """Open bins too: an edge at infinity must not reach the backward pass."""
    mean = torch.full((1, 1), level - 0.01, dtype=torch.float64, requires_grad=True)
    log_variance = torch.full((1, 1), log_variance, dtype=torch.float64, requires_grad=True)
    x = torch.full((1, 1), level, dtype=torch.float64)
    log_mass = lambda m, v: Gaussian(m, v).discretized_log_prob(x, 17)  # noqa: E731
    assert torch.autograd.gradcheck(log_mass, (mean, log_variance), eps=1e-7, atol=1e-6)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_all_the_mass_in_an_open_bin_leaves_a_finite(sign):
    """All the mass in an open bin leaves a finite gradient."""
    mean = torch.tensor([[sign * 1e4]], requires_grad=True)
    log_prob = Gaussian(mean, torch.zeros(1, 1)).discretized_log_prob(torch.tensor([[sign]]), 17)
    log_prob.sum().backward()
    assert float(log_prob.detach()) == 0
    assert float(mean.grad) == 0


def test_one_level_is_no_data():
    with pytest.raises(ValueError, match="num_levels = 1"):
        gaussian(0.0, 1.0).discretized_log_prob(torch.zeros(1, 1, dtype=torch.float64), 1)
