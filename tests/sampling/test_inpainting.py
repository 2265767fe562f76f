import math

import pytest
import torch

from diffusion_lab.diffusion import (
    CosineSchedule,
    FixedSmall,
    GaussianDiffusion,
    PredictNoise,
    ReverseProcess,
    SampleNoise,
)
from diffusion_lab.sampling import AncestralSampler, DPMSolverSampler, EvenSpacing, LogSNRSpacing, inpaint

PROCESS = GaussianDiffusion(CosineSchedule(100))
INDICES = torch.arange(400)
SAMPLERS = [AncestralSampler(EvenSpacing(10)), DPMSolverSampler(EvenSpacing(10))]
RHO, STD = 0.9, 0.4
COVARIANCE = STD**2 * torch.tensor([[1.0, RHO], [RHO, 1.0]], dtype=torch.float64)


def network(x_t, timesteps, y):
    """E[ε|x_t] of two correlated Gaussian pixels."""
    alpha_bar = PROCESS.alpha_bar(timesteps + 1)[0]
    covariance = alpha_bar * COVARIANCE + (1 - alpha_bar) * torch.eye(2, dtype=torch.float64)
    return (1 - alpha_bar).sqrt() * x_t @ covariance.inverse()


def reverse():
    return ReverseProcess(network, PredictNoise(), FixedSmall(), clip_x_0=False)


def filled(sampler, left, repeats, known=(True, False)):
    x_0 = torch.tensor([[left, 7.0]], dtype=torch.float64).expand(len(INDICES), 2)
    noise = SampleNoise(2, INDICES)
    return inpaint(sampler, PROCESS, reverse(), x_0, torch.tensor([known]), noise, repeats=repeats)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_known_pixels_stay_exactly(sampler):
    """Known pixels stay exactly and unknown ones are never looked at."""
    x = filled(sampler, 0.3, repeats=2)
    assert (x[:, 0] == 0.3).all()
    assert (x[:, 1] < 3).all()  # the 7 below the mask leaves no trace
    assert torch.equal(filled(sampler, 0.3, repeats=2, known=(True, True))[:, 1], torch.full((400,), 7.0).double())


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_with_nothing_known_and_no_way_back(sampler):
    """With nothing known and no way back it is the sampler."""
    noise = SampleNoise(2, INDICES)
    plain = sampler(PROCESS, reverse(), noise.initial((2,)).double(), noise=noise)
    assert torch.equal(filled(sampler, 0.3, repeats=1, known=(False, False)), plain)


def test_going_back_makes_both_parts_fit():
    """The hole should be N(ρ·x, s²·(1 − ρ²)) given its neighbour x; one pass hardly listens to it."""
    left = 0.6
    errors = []
    for repeats in (1, 10):
        hole = filled(AncestralSampler(EvenSpacing(20)), left, repeats)[:, 1]
        errors.append(abs(float(hole.mean()) - RHO * left))
    assert errors[1] < 0.06
    assert errors[1] < errors[0] / 2
    assert float(hole.std()) == pytest.approx(STD * (1 - RHO**2) ** 0.5, rel=0.3)


@pytest.mark.thorough
def test_far_modes_need_more_than_ten_repeats():
    """Two pixels of N((½, ½), s²) or N((−½, −½), s²): how often the hole is in the mode that its neighbour indicates."""
    means, std, left = torch.tensor([0.5, -0.5]).double(), 0.2, 0.082

    def denoise(x_t, timesteps, y):
        alpha_bar = PROCESS.alpha_bar(timesteps + 1)[:, None]
        signal, variance = alpha_bar.sqrt(), alpha_bar * std**2 + 1 - alpha_bar
        mode = (x_t.sum(1, keepdim=True) * signal * means / variance).softmax(1) @ means
        x_0 = mode[:, None] + signal * std**2 / variance * (x_t - signal * mode[:, None])
        return (x_t - signal * x_0) / (1 - alpha_bar).sqrt()

    model = ReverseProcess(denoise, PredictNoise(), FixedSmall(), clip_x_0=False)
    x_0 = torch.tensor([[left, 0.0]]).double().expand(len(INDICES), 2)
    sampler = DPMSolverSampler(LogSNRSpacing(25), stochastic=True)
    once, default = (
        inpaint(sampler, PROCESS, model, x_0, torch.tensor([[True, False]]), SampleNoise(2, INDICES), repeats=repeats)
        for repeats in (1, 10)
    )
    share = 1 / (1 + math.exp(-2 * 0.5 * left / std**2))
    above = [float((x[:, 1] > 0).double().mean()) for x in (once, default)]
    assert above[0] + 0.05 < above[1] < share


def test_a_filling_depends_on_its_index():
    """A filling depends on its index and not on its batch."""
    x_0, known = torch.zeros(6, 2).double(), torch.tensor([[True, False]])
    sampler = AncestralSampler(EvenSpacing(5))
    draw = lambda i: inpaint(sampler, PROCESS, reverse(), x_0[i], known, SampleNoise(0, i), repeats=3)  # noqa: E731
    whole = draw(torch.arange(6))
    torch.testing.assert_close(torch.cat([draw(i) for i in torch.arange(6).split(4)]), whole)
    assert len(whole[:, 1].unique()) == 6


def test_no_step_at_all_is_refused():
    with pytest.raises(ValueError, match="repeats = 0"):
        filled(AncestralSampler(), 0.0, repeats=0)
