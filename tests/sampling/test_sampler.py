"""The loop: what a step rule is given, and that a sample depends on its seed and index only."""

import pytest
import torch

from diffusion_lab.diffusion import (
    CosineSchedule,
    FixedLarge,
    FixedSmall,
    GaussianDiffusion,
    PredictVelocity,
    ReverseProcess,
    SampleNoise,
)
from diffusion_lab.sampling import AncestralSampler, DDIMSampler, EvenSpacing, IPNDMSampler, QuadraticSpacing

from .test_steps import exact


@pytest.mark.parametrize("sampler", [AncestralSampler(EvenSpacing(9)), DDIMSampler(EvenSpacing(9), eta=0.3)], ids=str)
def test_samples_are_the_same_in_batches_of_16_7_and_1(sampler):
    process, reverse = exact(CosineSchedule(50), FixedLarge(), clip=True)

    def draw(batch_size):
        parts = []
        for indices in torch.arange(16).split(batch_size):
            noise = SampleNoise(3, indices)
            parts.append(sampler(process, reverse, noise.initial((2, 4, 4)), noise=noise))
        return torch.cat(parts)

    whole = draw(16)
    assert torch.equal(draw(7), whole)
    assert torch.equal(draw(1), whole)
    assert len(whole.flatten(1).unique(dim=0)) == 16


def test_the_network_is_asked_once_a_step():
    """The network is asked once a step at the original indices of the spacing."""
    process, reverse = exact(CosineSchedule(1000), FixedLarge())
    for sampler in (AncestralSampler(QuadraticSpacing(6)), DDIMSampler(QuadraticSpacing(6))):
        reverse.network.seen.clear()
        sampler(process, reverse, torch.zeros(1, 1, dtype=torch.float64))
        assert reverse.network.seen == (QuadraticSpacing(6)(1000) - 1).flip(0).tolist()


def test_labels_reach_the_network():
    process = GaussianDiffusion(CosineSchedule(5))
    network = lambda x_t, timesteps, y: torch.zeros_like(x_t) + y[:, None]  # noqa: E731
    reverse = ReverseProcess(network, PredictVelocity(), FixedSmall(), clip_x_0=False)
    x_T = torch.zeros(2, 1, dtype=torch.float64)
    samples = DDIMSampler()(process, reverse, x_T, y=torch.tensor([0, 1]))
    assert float(samples[0]) == 0
    assert float(samples[1]) != 0


def test_only_what_a_rule_remembers_is_kept():
    """A prediction changes nothing by itself; a multistep rule keeps its own, newest first, and no more than it uses."""
    process, reverse = exact(CosineSchedule(50), FixedLarge())
    x, noise = torch.ones(2, 1, dtype=torch.float64), SampleNoise(0, torch.arange(2))
    for sampler, kept in ((DDIMSampler(), 0), (IPNDMSampler(), 4)):
        walk = sampler.begin(process, reverse, None, noise)
        for t in range(50, 44, -1):
            predicted = walk.predict(x, t)
            assert len(walk.memory) == min(50 - t, kept)
            memory = walk.remember(t, predicted)
            assert [point.t for point in memory] == list(range(t, min(t + kept, 51)))
        walk.forget()
        assert len(walk.memory) == 0
