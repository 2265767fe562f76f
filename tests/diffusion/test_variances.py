import pytest
import torch

from diffusion_lab.diffusion import (
    CosineSchedule,
    FixedLarge,
    FixedSmall,
    GaussianDiffusion,
    LearnedRange,
)
from diffusion_lab.sampling import EvenSpacing

from .oracles import steps

FULL = GaussianDiffusion(CosineSchedule(1000))
CHAINS = {"full": FULL, "respaced": FULL.respace(EvenSpacing(10)(1000))}


def log_variance(variance, process, t, v=None):
    x_t = torch.zeros(1, 1, dtype=torch.float64)
    v = None if v is None else torch.full((1, 1), v, dtype=torch.float64)
    return float(variance.log_variance(process, x_t, steps(t, 1), v))


@pytest.mark.parametrize("process", CHAINS.values(), ids=CHAINS)
@pytest.mark.parametrize("t", [2, 5, 10])
def test_small_is_beta_tilde_and_large_is_beta(process, t):
    """Small is beta tilde and large is beta of the chain that is asked."""
    assert log_variance(FixedSmall(), process, t) == pytest.approx(float(process.beta_tilde(steps(t, 1)).log()))
    assert log_variance(FixedLarge(), process, t) == pytest.approx(float(process.beta(steps(t, 1)).log()))


@pytest.mark.parametrize("process", CHAINS.values(), ids=CHAINS)
def test_the_first_step(process):
    beta_tilde_2, beta_1 = process.beta_tilde(steps(2, 1)).log(), process.beta(steps(1, 1)).log()
    assert log_variance(FixedSmall(), process, 1) == pytest.approx(float(beta_tilde_2))
    assert log_variance(FixedLarge(), process, 1) == pytest.approx(float(beta_tilde_2))
    assert log_variance(LearnedRange(), process, 1, v=-1.0) == pytest.approx(float(beta_tilde_2))
    assert log_variance(LearnedRange(), process, 1, v=1.0) == pytest.approx(float(beta_1))


def test_learned_range_interpolates_the_logs():
    """Learned range interpolates the logs and does not clamp."""
    small, large = log_variance(FixedSmall(), FULL, 7), log_variance(FixedLarge(), FULL, 7)
    for v, expected in ((-1.0, small), (1.0, large), (0.0, (small + large) / 2), (3.0, 2 * large - small)):
        assert log_variance(LearnedRange(), FULL, 7, v) == pytest.approx(expected)
