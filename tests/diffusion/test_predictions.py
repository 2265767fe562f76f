import math

import pytest
import torch

from diffusion_lab.diffusion import (
    CosineSchedule,
    EDMSchedule,
    FixedSmall,
    GaussianDiffusion,
    PredictEDM,
    PredictFlow,
    PredictNoise,
    PredictStart,
    PredictVelocity,
    ReverseProcess,
)

from .oracles import ExactNetwork, GaussianData, steps

PROCESS = GaussianDiffusion(CosineSchedule(100))
PREDICTIONS = [PredictNoise(), PredictStart(), PredictVelocity(), PredictFlow()]


def pair(t: int, dtype=torch.float64):
    generator = torch.Generator().manual_seed(t)
    x_0, eps = (torch.randn(4, 3, dtype=dtype, generator=generator) for _ in range(2))
    return x_0, eps, steps(t, 4), PROCESS.q_sample(x_0, steps(t, 4), eps)


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("t", [1, 2, 50, 99, 100])
def test_the_target_round_trips_to_x_0_and_eps(prediction, t):
    x_0, eps, t, x_t = pair(t)
    output = prediction.target(PROCESS, x_0, eps, t)
    torch.testing.assert_close(prediction.to_x_0(PROCESS, output, x_t, t), x_0, rtol=0, atol=1e-9)
    torch.testing.assert_close(prediction.to_eps(PROCESS, output, x_t, t), eps, rtol=0, atol=1e-9)


@pytest.mark.parametrize("t", [1, 100])
def test_velocity_is_stable_at_both_ends_in_float32(t):
    x_0, eps, t, x_t = pair(t, torch.float32)
    velocity = PredictVelocity()
    output = velocity.target(PROCESS, x_0, eps, t)
    torch.testing.assert_close(velocity.to_x_0(PROCESS, output, x_t, t), x_0, rtol=0, atol=1e-6)
    torch.testing.assert_close(velocity.to_eps(PROCESS, output, x_t, t), eps, rtol=0, atol=1e-6)


def test_velocity_is_the_definition():
    x_0, eps, t, _ = pair(30)
    alpha_bar = PROCESS.alpha_bar(t)[:, None]
    expected = alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x_0
    torch.testing.assert_close(PredictVelocity().target(PROCESS, x_0, eps, t), expected)


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("t", [2, 50, 100])
def test_error_scale_converts_the_error_of_the_output(prediction, t):
    """Error scale converts the error of the output to that of x 0."""
    x_0, eps, t, x_t = pair(t)
    output = prediction.target(PROCESS, x_0, eps, t)
    wrong = prediction.to_x_0(PROCESS, output + 0.01, x_t, t)
    scale = 0.01**2 / (wrong - x_0).square()
    torch.testing.assert_close(scale, prediction.error_scale(PROCESS, t)[:, None].expand(4, 3), rtol=1e-5, atol=0)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("t", [1, 2, 50, 100])
def test_a_start_or_velocity_network_made_from_a_noise(clip, t):
    """A start or velocity network made from a noise network gives the same reverse step."""
    x_t = 2 * torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    looks = []
    for prediction in PREDICTIONS:
        network = ExactNetwork(GaussianData(0.3, 0.5), PROCESS, prediction)
        looks.append(ReverseProcess(network, prediction, FixedSmall(), clip_x_0=clip)(PROCESS, x_t, steps(t, 4)))
    for look in looks[1:]:
        torch.testing.assert_close(look.distribution.mean, looks[0].distribution.mean, rtol=0, atol=1e-8)
        torch.testing.assert_close(look.x_0, looks[0].x_0, rtol=0, atol=1e-8)
        torch.testing.assert_close(look.eps, looks[0].eps, rtol=0, atol=1e-8)


EDM = GaussianDiffusion(EDMSchedule(40))


def test_edms_prediction_is_the_papers_preconditioning():
    """D(x; σ) = c_skip·x + c_out·F(c_in·x; c_noise) (Karras et al. 2022, eq. 7 and table 1)."""
    t, s = torch.tensor([1, 17, 40]), 0.4
    sigma = EDM.sigma(t)[:, None]
    x, output = (torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    prediction = PredictEDM(s)
    c_skip, c_out = s**2 / (sigma**2 + s**2), sigma * s / (sigma**2 + s**2).sqrt()
    torch.testing.assert_close(prediction.to_x_0(EDM, output, x, t), c_skip * x + c_out * output)
    torch.testing.assert_close(prediction.error_scale(EDM, t), c_out[:, 0] ** -2)  # λ(σ), so that its loss is L_simple
    image, shown = prediction.inputs(EDM, x, t)
    torch.testing.assert_close(image, x / (sigma**2 + s**2).sqrt())
    torch.testing.assert_close(shown, sigma[:, 0].log() / 4)


def test_for_unit_variance_edms_target_is_the_velocity():
    """For unit variance edms target is the velocity turned around."""
    x_0, eps, t, _ = pair(30)
    expected = -PredictVelocity().target(PROCESS, x_0, eps, t)
    torch.testing.assert_close(PredictEDM(1.0).target(PROCESS, x_0, eps, t), expected)


def test_what_the_network_sees_is_decided_in_one_place():
    seen = []
    network = lambda image, timesteps, y: (seen.append((image, timesteps)), torch.zeros_like(image))[1]  # noqa: E731
    x_t, t = 80 * torch.ones(2, 3, dtype=torch.float64), torch.tensor([40, 40])
    for prediction in (PredictEDM(0.5), PredictNoise()):
        ReverseProcess(network, prediction, FixedSmall(), clip_x_0=False)(EDM, x_t, t)
    assert float(seen[0][0].max()) == pytest.approx(1, abs=1e-3)
    assert seen[0][1].tolist() == pytest.approx([math.log(80) / 4] * 2)
    assert float(seen[1][0].max()) == 80
    assert seen[1][1].tolist() == [39, 39]
