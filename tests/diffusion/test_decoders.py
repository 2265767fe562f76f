import math

import pytest
import torch

from diffusion_lab.diffusion import (
    EndLevelDecoder,
    FixedSmall,
    Gaussian,
    GaussianDecoder,
    GaussianDiffusion,
    LevelDecoder,
    LogSNRSchedule,
    PredictNoise,
    ReverseProcess,
    SampleNoise,
    variational_bound,
)

from .oracles import ExactNetwork, GaussianData


class Noise(SampleNoise):
    """ε = 1 at every step."""

    def __init__(self) -> None:
        super().__init__(0, torch.arange(17))

    def fork(self, key):
        return self

    def __call__(self, t, like):
        return torch.ones_like(like)


def process(log_snr_max):
    return GaussianDiffusion(LogSNRSchedule(10, log_snr_max, log_snr_max - 15))


def levels(num_levels):
    return torch.linspace(-1, 1, num_levels, dtype=torch.float64)


def log_prob(chain, x_0, x_1, num_levels, decoder=LevelDecoder()):  # noqa: B008 - frozen
    return decoder.log_prob(chain, None, x_0, x_1, num_levels)


def bits(chain, num_levels, draws=200):
    """L_0 of data that is uniform over its levels."""
    x_0 = levels(num_levels).repeat(draws)[:, None]
    eps = torch.randn(x_0.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x_1 = chain.q_sample(x_0, torch.ones(len(x_0), dtype=torch.int64), eps)
    return -float(log_prob(chain, x_0, x_1, num_levels).mean()) / math.log(2)


@pytest.mark.parametrize("log_snr", [-60.0, -3.0, 2.0, 7.0, 14.0])
@pytest.mark.parametrize("num_levels", [2, 17, 256])
def test_the_masses_of_all_levels_sum_to_one(log_snr, num_levels):
    chain = process(log_snr)
    x_1 = chain.signal(torch.tensor([1])) * torch.tensor([-1.02, -0.4, 0.0, 0.7, 1.3], dtype=torch.float64)
    grid = levels(num_levels)[:, None].expand(-1, len(x_1))
    torch.testing.assert_close(
        log_prob(chain, grid, x_1.expand_as(grid), num_levels).exp().sum(0), torch.ones(5, dtype=torch.float64)
    )


@pytest.mark.parametrize("log_snr", [-3.0, 7.0, 14.0])
@pytest.mark.parametrize("shares", [(0.5, 0.1), (0.0, 0.9), (0.0, 0.0)])
@pytest.mark.parametrize("num_levels", [3, 17, 256])
def test_the_ends_have_their_shares_as_a_prior(log_snr, shares, num_levels):
    chain = process(log_snr)
    row, grid = chain.numbers(1), levels(num_levels)
    x_1 = row.signal * torch.linspace(-1.1, 1.1, 23, dtype=torch.float64)[:, None]
    between = (1 - sum(shares)) / (num_levels - 2)
    prior = torch.tensor([max(shares[0], between), *[between] * (num_levels - 2), max(shares[1], between)])
    expected = (prior.double().log() - 0.5 * ((x_1 - row.signal * grid) / row.sigma).square()).log_softmax(dim=1)
    decoder = EndLevelDecoder(shares, num_levels)
    every = log_prob(chain, grid.expand(23, -1), x_1.expand(-1, num_levels), num_levels, decoder)
    near = expected > -25
    torch.testing.assert_close(every[near], expected[near])
    torch.testing.assert_close(every.exp().sum(1), torch.ones(23, dtype=torch.float64))


def test_a_prior_costs_less_where_it_is_right():
    """A prior costs less where it is right and continuous data have no ends."""
    chain, draws = process(12.0), torch.Generator().manual_seed(0)
    black = torch.rand(20000, 1, generator=draws) < 0.5
    x_0 = torch.where(black, -1.0, levels(256)[torch.randint(0, 256, (20000, 1), generator=draws)])
    eps = torch.randn(x_0.shape, dtype=torch.float64, generator=draws)
    x_1 = chain.q_sample(x_0, torch.ones(len(x_0), dtype=torch.int64), eps)
    plain, informed = (
        log_prob(chain, x_0, x_1, 256, decoder).mean()
        for decoder in (LevelDecoder(), EndLevelDecoder((0.502, 0.002), 256))
    )
    assert informed > plain + 0.05
    continuous = EndLevelDecoder(None, None)
    assert torch.equal(log_prob(chain, x_0, x_1, None, continuous), log_prob(chain, x_0, x_1, None))
    with pytest.raises(ValueError, match="not known for this model: use decoder=levels"):
        EndLevelDecoder(None, 256)


@pytest.mark.parametrize("log_snr", [0.0, 7.0, 12.0])
def test_it_is_a_softmax_over_all_levels(log_snr):
    chain = process(log_snr)
    grid, first = levels(256), chain.numbers(1)
    x_1 = torch.randn(50, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = (-0.5 * ((x_1 - first.signal * grid) / first.sigma).square()).log_softmax(dim=1)
    every = log_prob(chain, grid.expand(50, -1), x_1.expand(-1, 256), 256)
    near = expected > -40
    torch.testing.assert_close(every[near], expected[near])


@pytest.mark.parametrize("num_levels", [2, 17, 256])
def test_in_infinite_noise_a_level_costs_the_logarithm(num_levels):
    """In infinite noise a level costs the logarithm of their number."""
    assert bits(process(-60.0), num_levels) == pytest.approx(math.log2(num_levels), abs=1e-6)


def test_without_noise_data_on_the_grid_cost_nothing():
    costs = [bits(process(log_snr), 17) for log_snr in (5.0, 7.0, 9.0, 11.0)]
    assert costs == sorted(costs, reverse=True)
    assert 0 <= costs[-1] < 1e-6


def test_many_levels_are_a_density():
    """log mass − log bin → log density as the bins get finer."""
    chain, x_0 = process(5.0), torch.tensor([[0.0, 0.25]], dtype=torch.float64)
    x_1 = x_0 + 0.03
    mass = log_prob(chain, x_0, x_1, 4001)
    torch.testing.assert_close(mass - math.log(2 / 4000), log_prob(chain, x_0, x_1, None), atol=1e-4, rtol=0)


@pytest.mark.parametrize("decoder", [LevelDecoder(), GaussianDecoder()], ids=repr)
def test_data_between_levels_have_the_mass_of_the_nearest(decoder):
    chain, x_0 = process(7.0), levels(17)[None]
    noisy = chain.q_sample(x_0, torch.tensor([1]), torch.ones_like(x_0))

    reverse = Gaussian(noisy, torch.full((1, 1), -5.0, dtype=torch.float64))
    on, off = (decoder.log_prob(chain, reverse, x, noisy, 17) for x in (x_0, x_0 + 0.03))
    torch.testing.assert_close(off, on)


def test_a_mass_needs_two_levels():
    with pytest.raises(ValueError, match="num_levels = 1 must be"):
        log_prob(process(3.0), torch.zeros(1, 1), torch.zeros(1, 1), 1)


def test_the_bound_takes_its_last_step():
    """The bound takes its last step from the decoder and its others from the reverse process."""
    chain = process(7.0)
    network = ExactNetwork(GaussianData(0.0, 0.5), chain, PredictNoise())
    reverse = ReverseProcess(network, PredictNoise(), FixedSmall(), clip_x_0=False)
    x_0 = levels(17)[:, None]
    plain, gaussian, level = (
        variational_bound(chain, reverse, x_0, num_levels=17, noise=Noise(), **chosen)
        for chosen in ({}, {"decoder": GaussianDecoder()}, {"decoder": LevelDecoder()})
    )
    torch.testing.assert_close(plain.terms, gaussian.terms)
    torch.testing.assert_close(plain.terms[:, 1:], level.terms[:, 1:])
    assert not torch.allclose(plain.terms[:, 0], level.terms[:, 0])
    x_1 = chain.q_sample(x_0, torch.ones(17, dtype=torch.int64), torch.ones_like(x_0))
    torch.testing.assert_close(level.terms[:, 0], -log_prob(chain, x_0, x_1, 17)[:, 0] / math.log(2))
