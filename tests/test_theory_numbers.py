"""The numbers that docs/theory states are those of the code."""

import pytest
import torch

from diffusion_lab.commands.schedule import prior_bits
from diffusion_lab.data.digits import Digits
from diffusion_lab.diffusion import CosineSchedule, GaussianDiffusion, LinearSchedule
from diffusion_lab.sampling import EvenSpacing

DIGITS_CLEAN_END = 5.545  # σ at t = 1 is half of a seventeenth of the range


def from_two(process):
    """β̃_t/β_t without the first step, where β̃ is 0."""
    t = torch.arange(2, process.num_timesteps + 1)
    return process.beta_tilde(t) / process.beta(t)


@pytest.mark.parametrize(
    ("schedule", "signal", "below_a_hundredth", "bits"),
    [(LinearSchedule, 0.0064, 670, 2.1e-5), (CosineSchedule, 0.000049, 934, 1.3e-9)],
)
def test_how_near_the_end_of_a_chain_is_to_noise(schedule, signal, below_a_hundredth, bits):
    data = Digits(batch_size=16, seed=0)
    data.prepare()
    process = GaussianDiffusion(schedule(1000, log_snr_max=DIGITS_CLEAN_END))
    alpha_bar = process.alpha_bar(torch.arange(1, 1001))
    assert float(alpha_bar[-1]) ** 0.5 == pytest.approx(signal, rel=0.01)
    assert int((alpha_bar >= 0.01).sum()) + 1 == below_a_hundredth
    x_0, _ = next(data.batches("train", 256, limit=256))
    assert prior_bits(process, x_0) == pytest.approx(bits, rel=0.05)
    about = 0.5 * alpha_bar[-1].double() * x_0.double().square().mean() / torch.tensor(2.0).log()
    assert float(about) == pytest.approx(bits, rel=0.05)


@pytest.mark.parametrize(("steps", "least", "median"), [(1000, 0.95, 0.997), (50, 0.45, 0.94), (10, 0.074, 0.73)])
def test_how_far_apart_the_two_fixed_variances_are(steps, least, median):
    process = GaussianDiffusion(CosineSchedule(1000, log_snr_max=DIGITS_CLEAN_END))
    ratio = from_two(process.respace(EvenSpacing(steps)(1000)))
    assert float(ratio.min()) == pytest.approx(least, rel=0.01)
    assert float(ratio.median()) == pytest.approx(median, rel=0.01)


def test_the_weight_of_the_bound_that_l_simple_leaves_out():
    process = GaussianDiffusion(LinearSchedule(1000))
    t = torch.tensor([1, 10, 100, 500])
    beta = process.beta(t).double()
    weight = beta / (2 * (1 - beta) * (1 - process.alpha_bar(t).double()))  # σ_t² = β_t
    assert weight.tolist() == pytest.approx([0.50, 0.074, 0.010, 0.0055], rel=0.02)
