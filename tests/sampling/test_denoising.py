import pytest
import torch

from diffusion_lab.diffusion import (
    CosineSchedule,
    FixedLarge,
    GaussianDiffusion,
    PredictVelocity,
    ReverseProcess,
    SampleNoise,
)
from diffusion_lab.sampling import (
    AncestralSampler,
    DDIMSampler,
    DPMSolverSampler,
    EvenSpacing,
    LogSNRSpacing,
    denoise_from,
)

from ..diffusion.oracles import ExactNetwork, GaussianData

DATA, PROCESS = GaussianData(0.2, 0.4), GaussianDiffusion(CosineSchedule(60))
NOISE = SampleNoise(3, torch.arange(50))
X_0 = DATA.mean + DATA.std * SampleNoise(0, torch.arange(50)).initial((4,)).double()
SAMPLERS = [AncestralSampler(EvenSpacing(10)), DDIMSampler(EvenSpacing(10)), AncestralSampler()]
SAMPLERS += [DPMSolverSampler(LogSNRSpacing(10), stochastic=True)]


def reverse():
    return ReverseProcess(
        ExactNetwork(DATA, PROCESS, PredictVelocity()), PredictVelocity(), FixedLarge(), clip_x_0=False
    )


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_from_t_0_it_is_the_identity(sampler):
    assert torch.equal(denoise_from(sampler, PROCESS, reverse(), X_0, 0, NOISE), X_0)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_from_the_last_t_it_is_the_sampler(sampler):
    """From the last t it is the sampler from a noisy image."""
    T = PROCESS.num_timesteps
    x_T = PROCESS.q_sample(X_0, torch.full((50,), T), NOISE.fork(1)(T, X_0))
    expected = sampler(PROCESS, reverse(), x_T, noise=NOISE)
    assert torch.equal(denoise_from(sampler, PROCESS, reverse(), X_0, T, NOISE), expected)


def test_it_goes_down_through_the_samplers_steps():
    """It goes down through t and the samplers own steps below."""
    looker = reverse()
    denoise_from(AncestralSampler(EvenSpacing(10)), PROCESS, looker, X_0, 25, NOISE)
    assert looker.network.seen == [24, *[t - 1 for t in reversed(EvenSpacing(10)(60).tolist()) if t < 25]]


def test_the_more_noise_the_less_is_left_of_the_image():
    distances = [
        float((denoise_from(DDIMSampler(), PROCESS, reverse(), X_0, t, NOISE) - X_0).square().mean())
        for t in (1, 10, 30, 60)
    ]
    assert distances == sorted(distances)
    assert distances[0] < 0.01 < distances[-1]


@pytest.mark.parametrize("t", [-1, 61])
def test_a_step_that_the_chain_does_not_have_is_refused(t):
    with pytest.raises(ValueError, match=rf"t = {t}: choose a step from 0 to 60"):
        denoise_from(AncestralSampler(), PROCESS, reverse(), X_0, t, NOISE)
