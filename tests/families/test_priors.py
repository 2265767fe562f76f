"""Priors against what is known: a flow that is the identity is the standard normal, one that scales is another Gaussian."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from diffusion_lab.diffusion import Gaussian
from diffusion_lab.families.vae.elbo import FlowPrior, StandardNormal

DIM, SCALE, SHIFT = 3, 2.5, 0.7


class Affine(nn.Module):
    """u = (z − shift)/scale: p(z) = N(shift, scale²)."""

    def __init__(self, in_channels, num_classes=None):
        super().__init__()
        self.log_det = -in_channels * math.log(SCALE)

    def forward(self, z, y=None):
        return (z - SHIFT) / SCALE, torch.full_like(z[:, 0], self.log_det)

    def inverse(self, u, y=None):
        return SCALE * u + SHIFT


class Identity(Affine):
    def forward(self, z, y=None):
        return z, torch.zeros_like(z[:, 0])


def posterior(n=4):
    generator = torch.Generator().manual_seed(0)
    return Gaussian(*(torch.randn(n, DIM, generator=generator, dtype=torch.float64) for _ in range(2)))


def draws_of(prior, q, num_draws=20_000):
    """The mean of the rate over draws of z, and its standard error."""
    generator = torch.Generator().manual_seed(1)
    eps = torch.randn(num_draws, *q.mean.shape, generator=generator, dtype=torch.float64)
    rates = torch.stack([prior.rate(q, prior.log_prob(q.sample(one))).sum(1) for one in eps])
    return rates.mean(0), rates.std(0) / math.sqrt(num_draws)


def closed_form(q, mean, std):
    return kl_divergence(Normal(q.mean, (0.5 * q.log_variance).exp()), Normal(mean, std)).sum(1)


def test_the_standard_rate_is_the_kl_at_any_draw():
    q, prior = posterior(), StandardNormal(DIM)
    assert prior.by_dimension
    for z in (q.mean, q.mean + 9):
        rate = prior.rate(q, prior.log_prob(z))
        assert rate.shape == (4, DIM)
        torch.testing.assert_close(rate.sum(1), closed_form(q, 0.0, 1.0))
    assert torch.equal(prior.from_noise(q.mean), q.mean)
    assert torch.equal(prior.to_noise(q.mean), q.mean)


@pytest.mark.parametrize(
    ("flow", "mean", "std"), [pytest.param(Identity, 0.0, 1.0, marks=pytest.mark.thorough), (Affine, SHIFT, SCALE)]
)
def test_the_learned_rate_is_the_kl_on_average_over_draws(flow, mean, std):
    q, prior = posterior(), FlowPrior(DIM, None, flow)
    assert not prior.by_dimension
    estimate, error = draws_of(prior, q)
    assert ((estimate - closed_form(q, mean, std)).abs() < 4 * error).all()


def test_the_learned_log_density_counts_the_volume():
    q, prior = posterior(), FlowPrior(DIM, None, Affine)
    torch.testing.assert_close(prior.log_prob(q.mean), Normal(SHIFT, SCALE).log_prob(q.mean).sum(1))
    torch.testing.assert_close(prior.from_noise(prior.to_noise(q.mean)), q.mean)
    assert prior.log_prob(q.mean.float()).dtype == torch.float64


def test_a_posterior_that_is_the_prior_costs_nothing():
    """On average; and under an identical Gaussian the rate at a draw is the difference of two chi-squares, of mean zero."""
    q = Gaussian(torch.full((1, DIM), SHIFT).double(), torch.full((1, DIM), 2 * math.log(SCALE)).double())
    estimate, error = draws_of(FlowPrior(DIM, None, Affine), q)
    assert float(estimate.abs()) < 4 * float(error)
