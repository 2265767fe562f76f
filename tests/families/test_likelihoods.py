"""Masses sum to 1, edges included; closed forms at the limits; nothing breaks at extreme parameters."""

import math

import pytest
import torch

from diffusion_lab.diffusion import Gaussian, SampleNoise
from diffusion_lab.families.vae.likelihoods import DiscretizedLogisticMixture, GaussianLikelihood


def levels(num_levels):
    """Every level as an image of one channel, (num_levels, 1, 1, 1)."""
    return torch.linspace(-1, 1, num_levels).view(-1, 1, 1, 1)


def outputs(likelihood, spread, channels=2, seed=0):
    """Random outputs for 5 × 5 pixels, (1, channels·outputs_per_channel, 5, 5)."""
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(1, channels * likelihood.outputs_per_channel, 5, 5, generator=generator)


def masses(likelihood, output, channels=2):
    """(num_levels, channels, 5, 5) float64."""
    x = levels(likelihood.num_levels).expand(-1, channels, 5, 5)
    return likelihood.log_prob(output.expand(len(x), *output.shape[1:]), x).double().exp()


def one_component(num_levels, mean, log_scale):
    """A mixture of one with this μ and log s at one pixel, and its output (1, 3, 1, 1)."""
    likelihood = DiscretizedLogisticMixture(num_levels, num_mixtures=1)
    start = math.log(2 * math.sqrt(3) / math.pi)
    return likelihood, torch.tensor([0.0, mean, log_scale - start]).view(1, 3, 1, 1)


@pytest.mark.parametrize("spread", [0.0, 1.0, 5.0, 100.0])
@pytest.mark.parametrize("num_levels", [2, 3, 17, 256])
@pytest.mark.parametrize("kind", [DiscretizedLogisticMixture, GaussianLikelihood])
def test_masses_of_all_levels_sum_to_one(kind, num_levels, spread):
    likelihood = kind(num_levels)
    total = masses(likelihood, outputs(likelihood, spread)).sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=2e-5)


def test_a_mass_is_a_difference_of_distribution_functions():
    mean, log_scale = 0.3, -1.2
    likelihood, output = one_component(17, mean, log_scale)
    edges = torch.linspace(-1, 1, 17, dtype=torch.float64)[:-1] + 1 / 16
    cdf = torch.sigmoid((edges - mean) / math.exp(log_scale))
    expected = torch.cat([torch.zeros(1), cdf, torch.ones(1)]).double().diff()
    torch.testing.assert_close(masses(likelihood, output, 1)[:, 0, 0, 0], expected, rtol=1e-5, atol=1e-8)


def test_far_tails_keep_their_digits_in_float32():
    """Where σ(b) and σ(a) are both 1 in float32, their difference is not 0."""
    for mean in (-0.9, 0.9):
        likelihood, output = one_component(256, mean, -4.0)
        x = torch.full((1, 1, 1, 1), -math.copysign(129 / 255, mean))
        b, a = ((float(x) + side / 255 - mean) / math.exp(-4.0) for side in (1, -1))
        b, a = (b, a) if mean > 0 else (-a, -b)  # the tail on the left, where e^b is the mass below
        expected = b + math.log(-math.expm1(a - b)) - math.log1p(math.exp(b)) - math.log1p(math.exp(a))
        assert float(likelihood.log_prob(output, x)) == pytest.approx(expected, rel=1e-5)
        assert expected < -70


def test_the_parameters_are_those_of_the_paper():
    """Weights by softmax; components at their places when the output is 0, as wide as they are apart."""
    likelihood = DiscretizedLogisticMixture(17, num_mixtures=2)
    x = torch.zeros(1, 1, 1, 1)
    raw = torch.tensor([math.log(3.0), 0.0, 0.1, -0.2, 0.5, -0.5])
    scale = math.sqrt(3) / math.pi
    expected = 0.0
    for weight, mean, log_scale in ((0.75, -0.5 + 0.1, 0.5), (0.25, 0.5 - 0.2, -0.5)):
        s = scale * math.exp(log_scale)
        expected += weight / s * 2 / 16 * _mean_density(mean, s)
    assert float(likelihood.log_prob(raw.view(1, 6, 1, 1), x)) == pytest.approx(math.log(expected), rel=1e-5)


def _mean_density(mean, scale):
    """Of the logistic N(mean, scale) over the bin of level 0 of 17, times the scale."""
    upper, lower = (1 / (1 + math.exp(-(side / 16 - mean) / scale)) for side in (1, -1))
    return (upper - lower) * 8 * scale


def test_a_mixture_of_levels_is_exactly_uniform():
    """Seventeen narrow components, one on each level: log2(17) bits for every level."""
    likelihood = DiscretizedLogisticMixture(17, num_mixtures=17)
    places = (torch.arange(17) + 0.5) * 2 / 17 - 1
    raw = torch.cat([torch.zeros(17), torch.linspace(-1, 1, 17) - places, torch.full((17,), -100.0)])
    bits = -likelihood.log_prob(raw.view(1, -1, 1, 1).expand(17, -1, 1, 1), levels(17)) / math.log(2)
    torch.testing.assert_close(bits, torch.full_like(bits, math.log2(17)), rtol=1e-6, atol=0)


def test_a_fresh_decoder_is_nearly_uniform():
    likelihood = DiscretizedLogisticMixture(17)
    bits = -likelihood.log_prob(torch.zeros(17, 15, 1, 1), levels(17)).mean() / math.log(2)
    assert math.log2(17) <= float(bits) < math.log2(17) + 0.1


@pytest.mark.parametrize("kind", [DiscretizedLogisticMixture, GaussianLikelihood])
@pytest.mark.parametrize("value", [1e4, -1e4])
def test_gradients_are_finite_at_extreme_parameters(kind, value):
    likelihood = kind(17)
    for parameter in range(likelihood.outputs_per_channel):
        output = torch.zeros(17, likelihood.outputs_per_channel, 1, 1)
        output[:, parameter] = value
        output.requires_grad_()
        log_prob = likelihood.log_prob(output, levels(17))
        log_prob.sum().backward()
        assert log_prob.isfinite().all()
        assert output.grad.isfinite().all()


def test_channels_have_mixtures_of_their_own():
    likelihood = DiscretizedLogisticMixture(17)
    output, x = outputs(likelihood, 1.0, channels=3), torch.zeros(1, 3, 5, 5)
    whole = likelihood.log_prob(output, x)
    for channel in range(3):
        alone = output.unflatten(1, (-1, 3))[:, :, channel]
        torch.testing.assert_close(likelihood.log_prob(alone, x[:, :1])[:, 0], whole[:, channel])


@pytest.mark.parametrize(("num_levels", "spread"), [(17, 0.0), (17, 2.0), (256, 1.0), (2, 1.0)])
def test_the_mean_is_of_the_levels_to_half_a_level(num_levels, spread):
    likelihood = DiscretizedLogisticMixture(num_levels)
    output = outputs(likelihood, spread)
    exact = (masses(likelihood, output) * levels(num_levels).double()).sum(0)
    assert float((likelihood.mean(output)[0].double() - exact).abs().max()) <= 1 / (num_levels - 1) + 1e-5


@pytest.mark.parametrize("kind", [DiscretizedLogisticMixture, GaussianLikelihood])
def test_draws_have_the_frequencies_of_the_masses(kind):
    likelihood, size = kind(5), 40_000
    output = outputs(likelihood, 0.7, channels=1)[:, :, :1, :1]
    drawn = likelihood.draw(output.expand(size, -1, -1, -1), SampleNoise(0, torch.arange(size))).flatten()
    for level, mass in zip(levels(5).flatten(), masses(likelihood, output, 1)[:, 0, 0, 0], strict=True):
        share = float((drawn == level).double().mean())
        assert abs(share - float(mass)) < 4 * math.sqrt(float(mass * (1 - mass)) / size) + 1e-12


def test_a_draw_depends_on_its_index_alone():
    likelihood = DiscretizedLogisticMixture(17)
    output = outputs(likelihood, 1.0).expand(6, -1, -1, -1)
    whole = likelihood.draw(output, SampleNoise(3, torch.arange(6)))
    assert torch.equal(likelihood.draw(output[4:], SampleNoise(3, torch.arange(4, 6))), whole[4:])
    assert not torch.equal(whole[0], whole[1])


def test_a_density_is_the_gaussians_and_draws_from_it():
    likelihood = GaussianLikelihood(None)
    output = torch.tensor([[0.5, -1.0, 2.0, 0.1]])  # two means, then two raw standard deviations
    std = 1e-3 + torch.nn.functional.softplus(output[:, 2:])
    x = torch.tensor([[0.2, 0.7]])
    expected = torch.distributions.Normal(output[:, :2], std).log_prob(x)
    torch.testing.assert_close(likelihood.log_prob(output, x), expected)
    drawn = likelihood.draw(output.expand(20_000, -1), SampleNoise(0, torch.arange(20_000)))
    torch.testing.assert_close(drawn.mean(0), output[0, :2], rtol=0, atol=0.08)
    torch.testing.assert_close(drawn.std(0), std[0], rtol=0.03, atol=0)
    assert torch.equal(likelihood.mean(output), output[:, :2])


def test_a_gaussian_on_levels_is_the_discretized_one():
    output, x = outputs(GaussianLikelihood(17), 1.0), torch.zeros(1, 2, 5, 5)
    log_variance = 2 * (1e-3 + torch.nn.functional.softplus(output[:, 2:])).log()
    expected = Gaussian(output[:, :2], log_variance).discretized_log_prob(x, 17)
    torch.testing.assert_close(GaussianLikelihood(17).log_prob(output, x), expected)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_levels": None}, "decoder_likelihood=gaussian"),
        ({"num_levels": 1}, "num_levels=1"),
        ({"num_levels": 17, "num_mixtures": 0}, "num_mixtures=0"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(options, said):
    with pytest.raises(ValueError, match=said):
        DiscretizedLogisticMixture(**options)
