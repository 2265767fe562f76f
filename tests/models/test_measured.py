"""What is measured of a network, and what its bounds are."""

import pytest
import torch

from diffusion_lab.diffusion import (
    AncestralSampler,
    EvenSpacing,
    FixedLarge,
    FixedSmall,
    LogSNRSpacing,
    NetworkStatistics,
    RectifiedSchedule,
    SampleNoise,
    Simple,
    UniformTimesteps,
    derive_seed,
    variational_bound,
)
from diffusion_lab.diffusion.streams import STATISTICS

from .test_diffusion import digits, evaluated, model, step


def measured(variance):
    """A model after a few steps of training, measured on eight images."""
    diffusion = model(variance=variance, objective=Simple(), sampler=AncestralSampler(EvenSpacing(5)))
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=3e-3)
    for k in range(10):
        optimizer.zero_grad()
        step(diffusion, digits(8), k)["loss"].backward()
        optimizer.step()
    diffusion.double()
    x_0, indices = digits(8).double(), torch.arange(8)
    with torch.no_grad():
        statistics = {name: rows.mean(dim=0) for name, rows in diffusion.measure(x_0, None, 0, indices).items()}
        last_steps = diffusion.measure_last_steps(x_0, None, 0, indices)["bits"].mean(dim=0)
    diffusion.use_measured(NetworkStatistics(**statistics), last_steps, None)
    return diffusion, x_0


def test_the_advised_gain_of_a_trained_model_comes_true():
    diffusion, x_0 = measured(FixedSmall())
    advice = diffusion.advise(x_0, None)
    noise = SampleNoise(derive_seed(0, STATISTICS), torch.arange(8))
    for times, expected in ((EvenSpacing(5)(30), advice.own), (advice.times, advice.bits)):
        chain = diffusion.process.respace(times)
        bound = variational_bound(chain, diffusion.reverse, x_0, num_levels=17, noise=noise, decoder=diffusion.decoder)
        assert float(bound.bits_per_dim.mean()) == pytest.approx(expected, abs=1e-6)
    assert advice.gain > 0
    assert len(advice.times) == 5


@pytest.mark.parametrize("num_steps", [50, 100, 200])
def test_the_bound_of_so_many_steps_at_real_times_has_so_many_terms(num_steps):
    diffusion = model(FixedLarge(), Simple(), UniformTimesteps(1000), schedule=RectifiedSchedule(1000))
    evaluations = evaluated(diffusion)
    diffusion.chain_bits(digits(1), None, 0, torch.arange(1), [LogSNRSpacing(num_steps)])
    assert len(evaluations) == num_steps
