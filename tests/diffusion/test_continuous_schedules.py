import pytest
import torch

from diffusion_lab.diffusion import EDMSchedule, GaussianDiffusion, LogSNRSchedule, RectifiedSchedule


def test_log_snr_is_a_line_and_its_variance_is_one():
    process, t = GaussianDiffusion(LogSNRSchedule(101, log_snr_max=8.0, log_snr_min=-2.0)), torch.arange(1, 102)
    torch.testing.assert_close(process.log_snr(t), torch.linspace(8, -2, 101, dtype=torch.float64))
    assert process.has_unit_variance


def test_rectified_is_the_straight_path():
    """Rectified is the straight path to where there is still a log snr."""
    process, t = GaussianDiffusion(RectifiedSchedule(100)), torch.arange(0, 101)
    torch.testing.assert_close(process.signal(t) + process.sigma(t), torch.ones(101, dtype=torch.float64))
    torch.testing.assert_close(process.sigma(t).diff(), process.sigma(t)[1].expand(100))
    assert float(process.log_snr(t)[-1]) == pytest.approx(-10)
    assert not process.has_unit_variance
    cut = GaussianDiffusion(RectifiedSchedule(100, log_snr_max=6.0)).log_snr(t)
    assert float(cut[1]) == pytest.approx(6)


def test_edm_keeps_the_signal_and_its_noise_levels():
    """Edm keeps the signal and its noise levels are the papers."""
    process = GaussianDiffusion(EDMSchedule(18))
    noise = process.sigma(torch.arange(1, 19))
    i = torch.arange(18, dtype=torch.float64)
    papers = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7  # Karras et al. 2022, eq. 5
    torch.testing.assert_close(noise.flip(0), papers)
    assert (process.signal(torch.arange(0, 19)) == 1).all()
