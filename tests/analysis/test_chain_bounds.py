"""One pass gives the bound of every chain that `variational_bound` gives chain by chain, and asks the network once a time."""

import pytest
import torch

from diffusion_lab.analysis import (
    Analytic,
    AnalyticDiagonal,
    NetworkStatistics,
    chain_bounds,
    dimension_statistics,
    network_statistics,
)
from diffusion_lab.diffusion import (
    CosineSchedule,
    FixedLarge,
    FixedSmall,
    GaussianDecoder,
    GaussianDiffusion,
    LearnedRange,
    LevelDecoder,
    LogSNRSchedule,
    PredictNoise,
    ReverseProcess,
    SampleNoise,
    variational_bound,
)
from diffusion_lab.sampling import EvenSpacing, QuadraticSpacing

SHAPE, T = (2, 4), 20
NOISE = SampleNoise(5, torch.arange(3))
CHAINS = [torch.tensor([T]), EvenSpacing(4)(T), QuadraticSpacing(9)(T), torch.arange(1, T + 1), torch.tensor([2, 17])]


class Network:
    """Some function of x_t and t, with a variance part where one is asked for; `seen` lists the t of its calls."""

    def __init__(self, parts):
        self.parts, self.seen = parts, []

    def __call__(self, image, timesteps, y):
        self.seen.append(int(timesteps[0]))
        mean = 0.7 * image + 0.1 * (timesteps.double()[:, None, None] / T)
        return torch.cat([mean, image.sin()], dim=1) if self.parts == 2 else mean


def reverse_of(variance, network):
    return ReverseProcess(network, PredictNoise(), variance, clip_x_0=True)


def images():
    return (SampleNoise(1, torch.arange(3)).initial(SHAPE).double() * 8).round().clamp(-8, 8) / 8


def variances(process):
    rows = network_statistics(process, reverse_of(FixedSmall(), Network(1)), images(), None, NOISE.fork(0))
    means = {name: values.mean(dim=0) for name, values in rows.items()}
    by_dimension = dimension_statistics(process, reverse_of(FixedSmall(), Network(1)), images(), None, NOISE.fork(0))
    both = means | {name: values.sum(dim=0) / 3 for name, values in by_dimension.items()}
    found = [FixedSmall(), Analytic(NetworkStatistics(**means)), AnalyticDiagonal(NetworkStatistics(**both))]
    return [*found, *([FixedLarge(), LearnedRange()] if process.has_unit_variance else [])]


@pytest.mark.parametrize(
    ("schedule", "decoder"), [(CosineSchedule(T), LevelDecoder()), (LogSNRSchedule(T), GaussianDecoder())], ids=str
)
def test_it_is_the_variational_bound_of_every_chain(schedule, decoder):
    process = GaussianDiffusion(schedule)
    for variance in variances(process):
        network = Network(1 + variance.outputs_per_channel)
        found = chain_bounds(process, reverse_of(variance, network), images(), None, CHAINS, NOISE, 17, decoder)
        assert sorted(network.seen) == list(range(T)), "one evaluation a time"
        for column, times in zip(found.unbind(dim=1), CHAINS, strict=True):
            chain, reverse = process.respace(times), reverse_of(variance, Network(1 + variance.outputs_per_channel))
            alone = variational_bound(chain, reverse, images(), num_levels=17, noise=NOISE, decoder=decoder)
            torch.testing.assert_close(column, alone.bits_per_dim, rtol=0, atol=1e-6)


def test_only_the_times_that_a_chain_visits_are_evaluated():
    process, network = GaussianDiffusion(CosineSchedule(T)), Network(1)
    some = [torch.tensor([3, 8, T]), torch.tensor([8, 15])]
    chain_bounds(process, reverse_of(FixedSmall(), network), images(), None, some, NOISE, 17)
    assert network.seen == [2, 7, 14, T - 1]
