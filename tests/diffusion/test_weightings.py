import pytest
import torch

from diffusion_lab.diffusion import (
    CosineSchedule,
    EDMSchedule,
    ErrorOf,
    FixedSmall,
    GaussianDiffusion,
    LinearSchedule,
    MinSNR,
    PredictEDM,
    PredictFlow,
    PredictNoise,
    PredictStart,
    PredictVelocity,
    RectifiedSchedule,
    ReverseProcess,
    SigmoidWeighting,
    Simple,
)


@pytest.mark.parametrize(
    "prediction", [PredictNoise(), PredictStart(), PredictVelocity()], ids=lambda p: type(p).__name__
)
def test_min_snr_weighs_the_error_of_x_0(prediction):
    """Min snr weighs the error of x 0 the same for every prediction."""
    process = GaussianDiffusion(LinearSchedule(100))
    t = torch.arange(1, 101)
    x_0_weight = MinSNR(gamma=5.0).weight(process, prediction, t) * prediction.error_scale(process, t)
    torch.testing.assert_close(x_0_weight, process.snr(t).clamp(max=5.0))
    assert process.snr(t)[0] > 5 > process.snr(t)[-1]


def test_min_snr_of_a_noise_network():
    """Min snr of a noise network is one where there is more noise than gamma."""
    process = GaussianDiffusion(LinearSchedule(100))
    weight = MinSNR(gamma=5.0).weight(process, PredictNoise(), torch.tensor([1, 100]))
    assert float(weight[0]) == pytest.approx(5 / float(process.snr(torch.tensor([1]))))
    assert float(weight[1]) == 1.0


def test_edms_weighting_is_its_lambda():
    """Edms weighting is its lambda and one for its own prediction."""
    process, t = EDMSchedule(100), torch.linspace(1, 100, 30, dtype=torch.float64)
    sigma, weighting = process.sigma(t), ErrorOf(PredictEDM(0.5))
    expected = (sigma.square() + 0.25) / (0.5 * sigma).square()
    torch.testing.assert_close(weighting.weight(process, PredictStart(), t), expected)
    torch.testing.assert_close(weighting.weight(process, PredictEDM(0.5), t), torch.ones_like(sigma))


def test_the_sigmoid_weighting_is_on_the_error_of_eps():
    process, t = GaussianDiffusion(LinearSchedule(100)), torch.arange(1, 101)
    weight = SigmoidWeighting(bias=2.0).weight(process, PredictNoise(), t)
    torch.testing.assert_close(weight, 1 / (1 + (process.log_snr(t) - 2).exp()))


EVERY_PREDICTION = [PredictNoise(), PredictStart(), PredictVelocity(), PredictFlow(), PredictEDM(0.7)]


@pytest.mark.parametrize("schedule", [CosineSchedule(20), RectifiedSchedule(20), EDMSchedule(20)], ids=str)
@pytest.mark.parametrize("weighting", [MinSNR(), SigmoidWeighting(), ErrorOf(PredictEDM())], ids=str)
def test_networks_that_say_the_same_in_other_words(weighting, schedule):
    """Networks that say the same in other words have the same weighted loss.

    At whole and at real t: the network knows x_0 up to the same error and states it as what is asked of it.
    """
    x_0, eps = torch.randn(2, 8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind()
    whole = torch.arange(1, 9)
    for process, t in ((GaussianDiffusion(schedule), whole), (schedule, whole.double().clamp(max=19) + 0.3)):
        guess = x_0 + 0.1 * x_0.roll(1, 0)
        x_t = process.q_sample(x_0, t, eps)
        signal, noise = (part[:, None] for part in process.pair(t))
        implied = (x_t - signal * guess) / noise
        losses = []
        for prediction in EVERY_PREDICTION:
            said = prediction.target(process, guess, implied, t)
            reverse = ReverseProcess(lambda image, timesteps, y, said=said: said, prediction, FixedSmall())
            losses.append(Simple(weighting)(process, reverse, x_0, t, eps)["loss"])
        expected = weighting.of_x_0(process, t) * (guess - x_0).square().mean(dim=1)
        for loss in losses:
            torch.testing.assert_close(loss, expected)
