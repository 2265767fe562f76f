import pytest
import torch

from diffusion_lab.analysis import ideal_denoiser
from diffusion_lab.diffusion.continuous_schedules import of_log_snr
from tests.diffusion.oracles import posterior_mean


@pytest.mark.parametrize("by_class", [False, True])
def test_it_weighs_all_images_by_likelihood_in_one_pass(by_class):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(50, 6, generator=generator).double() * 2 - 1, torch.arange(50) % 3
    signal, noise = of_log_snr(torch.tensor([6.0, 2.0, -2.0, -6.0]).double())
    pairs = zip(signal, noise, strict=True)
    x_t = torch.stack([a * x[:7] + s * torch.randn(7, 6, generator=generator) for a, s in pairs])
    found = ideal_denoiser(x_t, signal, noise, y[:7] if by_class else None, zip(x.split(8), y.split(8), strict=True))
    for row, a, s, got in zip(x_t, signal, noise, found, strict=True):
        for i in range(7):
            among = x[y == y[i]] if by_class else x
            torch.testing.assert_close(got[i], posterior_mean(row[i : i + 1], a, s, among)[0])
