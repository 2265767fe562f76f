"""What is measured of a network, and what its bounds are."""

from dataclasses import replace

import pytest
import torch

from diffusion_lab.analysis import Analytic, NetworkStatistics, OptimalSpacing
from diffusion_lab.diffusion import (
    DataMoments,
    FixedLarge,
    FixedSmall,
    MomentsStart,
    RectifiedSchedule,
    SampleNoise,
    Simple,
    UniformTimesteps,
    derive_seed,
    variational_bound,
)
from diffusion_lab.diffusion.streams import BOUND, STATISTICS
from diffusion_lab.models.measured import (
    chain_bits,
    last_step_means,
    network_means,
    schedule_advice,
    with_data_moments,
    with_step_costs,
    with_variance,
)
from diffusion_lab.sampling import AncestralSampler, ClassifierGuidance, EvenSpacing, LogSNRSpacing

from .stand_ins import digits, inputs_of, of_digits, step

# Of a network without classes, beside a classifier that has three.
MEANS = torch.tensor([[-0.5], [0.0], [0.5]]).expand(3, 64).double()
BY_CLASS = {
    "guidance": ClassifierGuidance(lambda x, timesteps: x.flatten(1)[:, :3], num_classes=3),
    "start": MomentsStart(DataMoments(MEANS, torch.ones(64).double(), torch.eye(64).double())),
}
Y = torch.tensor([2, 0, 1, 1, 0, 2, 2, 1])


def measured(variance, dtype=torch.float64, **parts):
    """A generator after a few steps of training, measured on eight images."""
    diffusion = of_digits(variance=variance, objective=Simple(), sampler=AncestralSampler(EvenSpacing(5)), **parts)
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=3e-3)
    for k in range(10):
        optimizer.zero_grad()
        step(diffusion, digits(8), k)["loss"].backward()
        optimizer.step()
    generator = diffusion.to(dtype).generator()
    x_0, indices = digits(8).to(dtype), torch.arange(8)
    statistics = {name: rows.mean(dim=0) for name, rows in network_means(generator, x_0, None, 0, indices).items()}
    last_steps = last_step_means(generator, x_0, None, 0, indices)["bits"].mean(dim=0)
    return with_step_costs(generator, NetworkStatistics(**statistics), last_steps), x_0


@pytest.mark.parametrize(
    "spacing", [EvenSpacing(5), pytest.param(OptimalSpacing(5), marks=pytest.mark.thorough)], ids=str
)
def test_measurements_make_another_generator(spacing):
    """The one that was measured keeps its start, its variance, its steps and its samples."""
    before, x_0 = measured(FixedSmall(), torch.float32)
    before = replace(before, steps=None)
    facts, samples = dict(vars(before)), before.sample(torch.arange(3), 0)
    statistics = NetworkStatistics(
        **{name: rows.mean(dim=0) for name, rows in network_means(before, x_0, None, 0, torch.arange(8)).items()}
    )
    last_steps = last_step_means(before, x_0, None, 0, torch.arange(8))["bits"].mean(dim=0)
    chosen = replace(before, sampler=AncestralSampler(spacing), start=MomentsStart())
    moments = DataMoments(torch.zeros(1, 64).double(), torch.ones(64).double(), torch.eye(64).double())
    after = with_step_costs(with_data_moments(chosen, moments), statistics, last_steps)
    after = with_variance(after, statistics, Analytic)
    assert isinstance(after.reverse.variance, Analytic)
    assert after.start.moments is moments
    assert len(after.sampler.spacing(after.process)) == 5
    assert after.sample(torch.arange(3), 0).isfinite().all()
    assert {name: vars(before)[name] for name in facts} == facts
    assert torch.equal(before.sample(torch.arange(3), 0), samples)


def bits(diffusion, x_0, y, times, stream):
    """The bound of one chain, of each image."""
    return variational_bound(
        diffusion.process.respace(times),
        lambda process, x_t, t, y: diffusion.reverse(process, x_t, t),
        *(x_0, y, 17),
        noise=SampleNoise(derive_seed(0, stream), torch.arange(len(x_0))),
        decoder=diffusion.decoder,
        start=diffusion.start,
    ).bits_per_dim


@pytest.mark.parametrize(("parts", "y"), [({}, None), (BY_CLASS, Y)], ids=["no classes", "a start by class"])
def test_the_advised_gain_of_a_trained_model_comes_true(parts, y):
    diffusion, x_0 = measured(FixedSmall(), **parts)
    advice = schedule_advice(diffusion, x_0, y)
    for times, expected in ((EvenSpacing(5)(30), advice.own), (advice.times, advice.bits)):
        assert float(bits(diffusion, x_0, y, times, STATISTICS).mean()) == pytest.approx(expected, abs=1e-6)
    assert advice.gain > 0
    assert len(advice.times) == 5


@torch.no_grad()
@pytest.mark.parametrize("size", [3, 4])  # as many images as classes, and more
def test_bits_of_chains_by_class_are_those_of_each(size):
    x_0, y = digits(size).double(), Y[:size]
    diffusion = of_digits(FixedSmall(), Simple(), **BY_CLASS).double().generator()
    chains = [EvenSpacing(5), LogSNRSpacing(5, log_snr_min=-2)]
    found = chain_bits(diffusion, x_0, y, 0, torch.arange(size), chains)
    alone = [bits(diffusion, x_0, y, spacing(diffusion.process), BOUND) for spacing in chains]
    torch.testing.assert_close(found, torch.stack(alone, dim=1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_steps", [50, 200])
def test_a_bound_at_real_times_has_so_many_terms(num_steps):
    diffusion = of_digits(FixedLarge(), Simple(), UniformTimesteps(1000), schedule=RectifiedSchedule(1000)).generator()
    evaluations = inputs_of(diffusion.reverse.network)
    chain_bits(diffusion, digits(1), None, 0, torch.arange(1), [LogSNRSpacing(num_steps)])
    assert len(evaluations) == num_steps
