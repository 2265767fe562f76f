"""Editing: denoising from a step, interpolation on an arc, and inpainting of two pixels whose law is known."""

import math

import pytest
import torch

from diffusion_lab.diffusion import (
    CosineSchedule,
    FixedLarge,
    FixedSmall,
    GaussianDiffusion,
    PredictNoise,
    PredictVelocity,
    ReverseProcess,
    SampleNoise,
)
from diffusion_lab.sampling import (
    AncestralSampler,
    ChurnSampler,
    DDIMSampler,
    DPMSolverSampler,
    EvenSpacing,
    LogSNRSpacing,
    denoise_from,
    inpaint,
    slerp,
)

from ..diffusion.oracles import ExactNetwork, GaussianData

# ---- denoising ---------------------------------------------------------------------------------------------------------

DATA, PROCESS = GaussianData(0.2, 0.4), GaussianDiffusion(CosineSchedule(60))
NOISE = SampleNoise(3, torch.arange(50))
X_0 = DATA.mean + DATA.std * SampleNoise(0, torch.arange(50)).initial((4,)).double()
SAMPLERS = [AncestralSampler(EvenSpacing(10)), DDIMSampler(EvenSpacing(10)), AncestralSampler()]
SAMPLERS += [DPMSolverSampler(LogSNRSpacing(10), stochastic=True), ChurnSampler(LogSNRSpacing(10), s_churn=4)]


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


# ---- interpolation -----------------------------------------------------------------------------------------------------

START = SampleNoise(0, torch.arange(3)).initial((40,)).double()
END = SampleNoise(1, torch.arange(3)).initial((40,)).double()


def weights(w):
    return torch.full((3,), w, dtype=torch.float64)


def test_the_ends_of_an_arc_are_its_points():
    torch.testing.assert_close(slerp(START, END, weights(0.0)), START)
    torch.testing.assert_close(slerp(START, END, weights(1.0)), END)
    # in float32 too, where the arc of a vector to itself has no angle
    torch.testing.assert_close(slerp(START.float(), START.float(), weights(0.3)), START.float())


def test_an_arc_keeps_lengths():
    """An arc keeps lengths where a line does not and advances evenly."""
    end = END * (START.norm(dim=1) / END.norm(dim=1))[:, None]
    middle = slerp(START, end, weights(0.5))
    torch.testing.assert_close(middle.norm(dim=1), START.norm(dim=1))
    assert (((START + end) / 2).norm(dim=1) < 0.9 * START.norm(dim=1)).all()
    angle = lambda a, b: torch.cosine_similarity(a, b).acos()  # noqa: E731
    torch.testing.assert_close(angle(START, slerp(START, end, weights(0.25))), angle(START, end) / 4)


def test_interpolation_reproduces_both_images():
    """Interpolation reproduces both images and passes between them."""
    data, process = GaussianData(0.1, 0.4), GaussianDiffusion(CosineSchedule(1000))
    reverse = ReverseProcess(ExactNetwork(data, process, PredictNoise()), PredictNoise(), FixedSmall(), clip_x_0=False)
    a, b = 0.1 + 0.4 * START[:, :8], 0.1 + 0.4 * END[:, :8]
    way = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64).repeat_interleave(3)
    sampler = DDIMSampler(EvenSpacing(100))
    latents = (sampler.encode(process, reverse, x_0).repeat(3, 1) for x_0 in (a, b))
    first, middle, last = sampler(process, reverse, slerp(*latents, way)).chunk(3)
    torch.testing.assert_close(first, a, rtol=0, atol=0.05)
    torch.testing.assert_close(last, b, rtol=0, atol=0.05)
    # For Gaussian data x_T is x_0 moved and scaled, so the middle image is the middle of the arc.
    torch.testing.assert_close(middle - 0.1, slerp(a - 0.1, b - 0.1, weights(0.5)), rtol=0, atol=0.05)


def test_only_the_deterministic_sampler_can_encode():
    process = GaussianDiffusion(CosineSchedule(10))
    with pytest.raises(ValueError, match="eta = 1"):
        DDIMSampler(eta=1.0).encode(process, lambda *_: None, START)


# ---- inpainting --------------------------------------------------------------------------------------------------------

PIXELS = GaussianDiffusion(CosineSchedule(100))
FILLED = torch.arange(400)
FILLING = [
    AncestralSampler(EvenSpacing(10)),
    DPMSolverSampler(EvenSpacing(10)),
    ChurnSampler(LogSNRSpacing(10), s_churn=4),
]
RHO, STD = 0.9, 0.4
COVARIANCE = STD**2 * torch.tensor([[1.0, RHO], [RHO, 1.0]], dtype=torch.float64)


def two_pixels(x_t, timesteps, y):
    """E[ε|x_t] of two correlated Gaussian pixels."""
    alpha_bar = PIXELS.alpha_bar(timesteps + 1)[0]
    covariance = alpha_bar * COVARIANCE + (1 - alpha_bar) * torch.eye(2, dtype=torch.float64)
    return (1 - alpha_bar).sqrt() * x_t @ covariance.inverse()


def of_two_pixels():
    return ReverseProcess(two_pixels, PredictNoise(), FixedSmall(), clip_x_0=False)


def filled(sampler, left, repeats, known=(True, False)):
    x_0 = torch.tensor([[left, 7.0]], dtype=torch.float64).expand(len(FILLED), 2)
    noise = SampleNoise(2, FILLED)
    return inpaint(sampler, PIXELS, of_two_pixels(), x_0, torch.tensor([known]), noise, repeats=repeats)


@pytest.mark.parametrize("sampler", FILLING, ids=str)
def test_known_pixels_stay_exactly(sampler):
    """Known pixels stay exactly and unknown ones are never looked at."""
    x = filled(sampler, 0.3, repeats=2)
    assert (x[:, 0] == 0.3).all()
    assert (x[:, 1] < 3).all()  # the 7 below the mask leaves no trace
    assert torch.equal(filled(sampler, 0.3, repeats=2, known=(True, True))[:, 1], torch.full((400,), 7.0).double())


@pytest.mark.parametrize("sampler", FILLING, ids=str)
def test_with_nothing_known_and_no_way_back(sampler):
    """With nothing known and no way back it is the sampler."""
    noise = SampleNoise(2, FILLED)
    plain = sampler(PIXELS, of_two_pixels(), noise.initial((2,)).double(), noise=noise)
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
        alpha_bar = PIXELS.alpha_bar(timesteps + 1)[:, None]
        signal, variance = alpha_bar.sqrt(), alpha_bar * std**2 + 1 - alpha_bar
        mode = (x_t.sum(1, keepdim=True) * signal * means / variance).softmax(1) @ means
        x_0 = mode[:, None] + signal * std**2 / variance * (x_t - signal * mode[:, None])
        return (x_t - signal * x_0) / (1 - alpha_bar).sqrt()

    model = ReverseProcess(denoise, PredictNoise(), FixedSmall(), clip_x_0=False)
    x_0 = torch.tensor([[left, 0.0]]).double().expand(len(FILLED), 2)
    sampler = DPMSolverSampler(LogSNRSpacing(25), stochastic=True)
    once, default = (
        inpaint(sampler, PIXELS, model, x_0, torch.tensor([[True, False]]), SampleNoise(2, FILLED), repeats=repeats)
        for repeats in (1, 10)
    )
    share = 1 / (1 + math.exp(-2 * 0.5 * left / std**2))
    above = [float((x[:, 1] > 0).double().mean()) for x in (once, default)]
    assert above[0] + 0.05 < above[1] < share


def test_a_filling_depends_on_its_index():
    """A filling depends on its index and not on its batch."""
    x_0, known = torch.zeros(6, 2).double(), torch.tensor([[True, False]])
    sampler = AncestralSampler(EvenSpacing(5))
    draw = lambda i: inpaint(sampler, PIXELS, of_two_pixels(), x_0[i], known, SampleNoise(0, i), repeats=3)  # noqa: E731
    whole = draw(torch.arange(6))
    torch.testing.assert_close(torch.cat([draw(i) for i in torch.arange(6).split(4)]), whole)
    assert len(whole[:, 1].unique()) == 6


def test_no_step_at_all_is_refused():
    with pytest.raises(ValueError, match="repeats = 0"):
        filled(AncestralSampler(), 0.0, repeats=0)
