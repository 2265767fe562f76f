import math
from dataclasses import dataclass
from functools import partial

import pytest
import torch

from diffusion_lab.families.flow.networks import SplineFlow
from diffusion_lab.families.vae.elbo import FlowPrior, StandardNormal
from diffusion_lab.families.vae.likelihoods import DecoderLikelihood, DiscretizedLogisticMixture, GaussianLikelihood
from diffusion_lab.families.vae.networks import ConvAutoencoder, PointAutoencoder
from diffusion_lab.families.vae.vae import VAE
from diffusion_lab.models.optimization import Constant, Optimization
from tests.models.stand_ins import digits, loss, step, woken

SHAPE = (1, 8, 8)
LEARNED = partial(FlowPrior, network=partial(SplineFlow, num_steps=2, num_bins=4, hidden=8))
PRIORS = pytest.mark.parametrize(
    "prior", [StandardNormal, pytest.param(LEARNED, marks=pytest.mark.thorough)], ids=["standard", "learned"]
)


@dataclass(frozen=True)
class Uniform(DecoderLikelihood):
    """Every level is as likely as any other."""

    outputs_per_channel = 1

    def log_prob(self, output, x):
        return torch.full_like(x, -math.log(self.num_levels))

    def mean(self, output):
        return torch.zeros_like(output)

    def draw(self, output, noise):
        return torch.zeros_like(output)


def model(likelihood=None, num_classes=None, awake=True, prior=StandardNormal, **more):
    torch.manual_seed(0)
    sizes = {"image_size": 8, "latent_dim": 4, "base_channels": 8, "channel_multipliers": [1, 2]}
    options = {"beta": 1.0, "free_bits": 0.0, "samples_are_means": True, "seed": 1} | more
    vae = VAE(
        SHAPE,
        17,
        num_classes,
        partial(ConvAutoencoder, 1, **sizes),
        likelihood or DiscretizedLogisticMixture(17, num_mixtures=2),
        prior,
        Optimization(torch.optim.AdamW, Constant()),
        **options,
    ).eval()
    return woken(vae) if awake else vae


def likelihood(vae, x_0, y=None, seed=0, first=0):
    with torch.no_grad():
        return vae.generator().likelihood(x_0, y, seed, torch.arange(first, first + len(x_0)), None)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("free_bits", [0.0, 0.72])
def test_ranks_see_the_rows_of_the_global_batch(ranks, free_bits):
    """Loss and gradient; with free bits each rank is told the mean rate over all."""
    x_0, whole = digits(8), model(free_bits=free_bits)
    step(whole, x_0)["loss"].backward()
    with torch.no_grad():
        mean, log_variance = whole.network.encode(x_0)
        rates = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(0)
    if free_bits:
        assert 0 < int((rates > free_bits * math.log(2)).sum()) < 4
    torn = model(free_bits=free_bits)
    torn.all_gather = lambda value: rates[None]
    losses = []
    for rank in range(ranks):
        part = step(torn, x_0, rank=rank, ranks=ranks)["loss"] / ranks
        part.backward()
        losses.append(float(part.detach()))
    assert len(set(losses)) == ranks
    assert sum(losses) == pytest.approx(loss(whole, x_0), rel=1e-5)
    for one, other in zip(torn.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-6)


def test_the_loss_is_distortion_plus_beta_times_rate():
    x_0, losses = digits(16), []
    for beta in (0.0, 1.0, 5.0):
        terms = step(model(beta=beta), x_0)["terms"]
        assert float(terms["loss"]) == pytest.approx(float(terms["distortion"] + beta * terms["rate"]), rel=1e-6)
        losses.append(terms)
    assert float(losses[0]["rate"]) == float(losses[2]["rate"]) > 0
    floor = model(free_bits=3.0)
    terms = step(floor, x_0)["terms"]
    assert float(terms["loss"]) == pytest.approx(float(terms["distortion"]) + 4 * 3.0 / 64, rel=1e-6)


def test_an_estimated_rate_may_be_negative():
    """At the start q = p = N(0, I): the rate of a draw is ½ Σ (z² − 1), on average 0, and the loss follows it down."""
    terms = [step(model(prior=LEARNED, awake=False), digits(2), k=k)["terms"] for k in range(8)]
    rates = [float(one["rate"]) for one in terms]
    assert min(rates) < 0 < max(rates)
    for one in terms:
        assert float(one["loss"]) == pytest.approx(float(one["distortion"] + one["rate"]), rel=1e-6)


def test_beta_and_free_bits_are_of_training_only():
    x_0 = digits(4)
    plain, other = (likelihood(model(**options), x_0) for options in ({}, {"beta": 7.0, "free_bits": 2.0}))
    assert torch.equal(plain.bits_per_dim, other.bits_per_dim)
    assert plain.kind == other.kind == "ELBO"


@PRIORS
def test_the_importance_weighted_bound_is_sharper(prior):
    stated = likelihood(model(prior=prior), digits(6))
    assert (stated.beside["importance_weighted"] < stated.bits_per_dim).all()
    assert 0 < stated.standard_error < 0.1


@PRIORS
def test_the_loss_estimates_the_likelihood(prior):
    vae, x_0 = model(prior=prior), digits(256)
    draws = torch.tensor([loss(vae, x_0, k=k) for k in range(8)])
    stated = likelihood(vae, x_0)
    spread = float(draws.std()) / math.sqrt(8) + stated.standard_error
    assert float(draws.mean()) == pytest.approx(float(stated.bits_per_dim.mean()), abs=5 * spread)


def test_a_uniform_decoder_takes_exactly_log2_levels():
    stated = likelihood(model(Uniform(17), awake=False), digits(5))
    for bits in (stated.bits_per_dim, stated.beside["importance_weighted"]):
        torch.testing.assert_close(bits, torch.full_like(bits, math.log2(17)), rtol=1e-6, atol=0)
    assert stated.standard_error == 0


def test_samples_are_decoded_latents_or_draws_around_them():
    indices = torch.arange(3)
    with torch.no_grad():
        vae = model().generator()
        decoded = vae.decode(vae.latents(indices, 3))
        assert torch.equal(vae.sample(indices, 3), decoded)
        drawn = model(samples_are_means=False).generator().sample(torch.arange(3), 3)
    levels = (drawn + 1) * 8
    torch.testing.assert_close(levels, levels.round())
    assert not torch.equal(drawn, decoded)
    assert vae.protocol() != model(samples_are_means=False).generator().protocol()


@PRIORS
def test_given_the_class_everything_hears_of_it_and_says_so(prior):
    vae, x_0 = model(num_classes=3, prior=prior), digits(3)
    one, two = torch.tensor([0, 1, 2]), torch.tensor([1, 1, 2])
    assert likelihood(vae, x_0, one).kind == "ELBO given the class"
    bits = [likelihood(vae, x_0, y).bits_per_dim for y in (one, two)]
    assert bits[0][0] != bits[1][0]
    torch.testing.assert_close(bits[0][1:], bits[1][1:])
    assert loss(vae, x_0, y=one) != loss(vae, x_0, y=two)


def test_classes_of_data_leave_an_unconditional_model_alone():
    x_0 = digits(3)
    assert loss(model(), x_0, y=torch.tensor([0, 1, 2])) == loss(model(), x_0)


@PRIORS
def test_no_bits_below_the_entropy_of_a_gaussian(prior):
    """x ~ N(0, 0.5²) in two dimensions, trained for a moment: no bound beats H(x) by more than three standard errors."""
    torch.manual_seed(0)
    network = partial(PointAutoencoder, 2, latent_dim=2, hidden=16, num_layers=1)
    parts = network, GaussianLikelihood(None), prior, Optimization(torch.optim.AdamW, Constant())
    vae = VAE((2,), None, None, *parts, beta=1.0, free_bits=0.0, samples_are_means=False, seed=1)
    optimizer, generator = torch.optim.Adam(vae.parameters(), 3e-3), torch.Generator().manual_seed(0)
    for k in range(200):
        optimizer.zero_grad()
        step(vae, 0.5 * torch.randn(128, 2, generator=generator), k=k)["loss"].backward()
        optimizer.step()
    stated = likelihood(vae.eval(), 0.5 * torch.randn(2000, 2, generator=generator))
    entropy = 0.5 * math.log2(2 * math.pi * math.e * 0.25)
    for bits in (stated.bits_per_dim, stated.beside["importance_weighted"]):
        error = float(bits.std()) / math.sqrt(len(bits))
        assert entropy - 3 * error < float(bits.mean()) < entropy + 0.1


@PRIORS
def test_latents_are_noise_that_the_prior_turns_into_z(prior):
    """A reconstruction is the image of the posterior mean. A learned prior takes operations of its own."""
    vae, x_0 = model(prior=prior).generator(), digits(3)
    with torch.no_grad():
        u, mean = vae.encode(x_0), vae.network.encode(x_0)[0]
        assert torch.allclose(u, mean) == (prior is StandardNormal)
        torch.testing.assert_close(vae.prior.from_noise(u), mean, rtol=0, atol=1e-4)
        seen = vae.decoder_likelihood.mean(vae.network.decode(mean))
        torch.testing.assert_close(vae.reconstruct(x_0, None, 0, torch.arange(3)), seen, rtol=0, atol=1e-3)
    assert (vae.cost().forward_flops > model().generator().cost().forward_flops) == (prior is LEARNED)
