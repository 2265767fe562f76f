import torch

from diffusion_lab.analysis import network_statistics
from diffusion_lab.diffusion import CosineSchedule, GaussianDiffusion, SampleNoise

from ..diffusion.oracles import OFF_CENTRE, exact_reverse, exact_statistics, steps


def test_each_t_has_the_noise_of_its_key():
    """Each t has the noise of its key whatever else is in the batch."""
    process = GaussianDiffusion(CosineSchedule(12))
    x_0 = OFF_CENTRE.std * SampleNoise(1, torch.arange(6)).initial((3,)).double()
    at_once = network_statistics(process, exact_reverse(process), x_0, None, SampleNoise(0, torch.arange(6)))
    for i in (0, 5):
        alone = network_statistics(
            process, exact_reverse(process), x_0[i : i + 1], None, SampleNoise(0, torch.tensor([i]))
        )
        for name, values in alone.items():
            torch.testing.assert_close(values[0], at_once[name][i], rtol=1e-12, atol=1e-15)
    eps = SampleNoise(0, torch.arange(6))(7, x_0)
    look = exact_reverse(process)(process, process.q_sample(x_0, steps(7, 6), eps), steps(7, 6))
    torch.testing.assert_close(at_once["x_0_mse"][:, 6], (x_0 - look.x_0).square().mean(1))


def test_the_known_size_of_the_noise_steadies():
    """The known size of the noise steadies the second moment and leaves its mean."""
    process = GaussianDiffusion(CosineSchedule(50))
    x_0 = OFF_CENTRE.mean + OFF_CENTRE.std * SampleNoise(1, torch.arange(4000)).initial((1,)).double()
    found = network_statistics(process, exact_reverse(process), x_0, None, SampleNoise(0, torch.arange(4000)))
    spread = found["eps_square"].std(dim=0) / 4000**0.5
    exact = exact_statistics(process).eps_square
    assert ((found["eps_square"].mean(dim=0) - exact).abs() < 4 * spread).all()
    assert float(spread[-5:].max()) < 0.1 * (2 / 4000) ** 0.5  # that of ‖ε‖² alone
