"""Power spectra of fields whose spectrum is known, on one, two and three axes."""

import math

import pytest
import torch

from diffusion_lab.metrics.power_spectrum import PowerSpectrum, decibels, log_spectral_distance, power_spectrum
from tests.metrics.test_score import scored

SHAPES = [(2, 64), (1, 16, 16), (3, 12, 20), (1, 8, 8, 8)]


def noise(n: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_white_noise_has_its_variance_at_every_frequency(shape):
    frequency, power = power_spectrum(0.5 * noise(2000, shape))
    assert power.shape == (shape[0], max(shape[1:]) // 2)
    assert frequency[-1] == 0.5
    torch.testing.assert_close(power, torch.full_like(power, 0.25), rtol=0.1, atol=0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_wave_is_one_band(shape):
    """A wave of amplitude 1 along the longest axis has mean square 1/2, which is ΣP/N over its two frequencies."""
    axis = 1 + shape[1:].index(max(shape[1:]))
    phase = torch.arange(shape[axis]).reshape(-1, *[1] * (len(shape) - axis - 1)) * (2 * torch.pi * 3 / shape[axis])
    power = power_spectrum(phase.cos().expand(1, *shape))[1]
    assert power[:, 2].min() > 0
    assert power.sum(1) == pytest.approx(power[:, 2], rel=1e-9)


def test_a_filter_multiplies_the_spectrum():
    """x_i + x_{i+1} has |1 + e^{iω}|² = 4 cos²(ω/2) times the power of x, exactly where a band is one frequency."""
    x = noise(5, (1, 32))
    frequency, before = power_spectrum(x)
    after = power_spectrum(x + x.roll(-1, -1))[1]
    torch.testing.assert_close(after, before * 4 * (torch.pi * frequency).cos().square(), atol=1e-9, rtol=1e-9)
    assert log_spectral_distance(power_spectrum(2 * x)[1], before) == pytest.approx(20 * math.log10(2))
    assert float(decibels(after[:, 8:].sum(), before[:, 8:].sum())) < float(decibels(after.sum(), before.sum()))


def test_its_score_has_a_floor_and_a_curve(tmp_path):
    scores = scored(tmp_path, metrics=[PowerSpectrum()])
    assert set(scores.values) == {"spectral_distance", "spectral_distance_floor", "fine_power"}
    assert set(scores.curves["power_spectrum"]) == {"frequency", "samples", "test", "ratio"}
