"""The numbers that docs/theory states are those of the code."""

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from diffusion_lab.commands.schedule import prior_bits
from diffusion_lab.conf_dir import CONF
from diffusion_lab.data.digits import Digits
from diffusion_lab.diffusion import (
    CosineSchedule,
    GaussianDiffusion,
    LinearSchedule,
    PredictFlow,
    PredictStart,
    RectifiedSchedule,
)
from diffusion_lab.networks import Transformer
from diffusion_lab.networks.flops import network_cost
from diffusion_lab.networks.transformer import SIZES
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


def transformer(size, side, patch_size, **options):
    with torch.device("meta"):
        return Transformer(3, 3, side, size=size, patch_size=patch_size, **options)


@pytest.mark.parametrize(
    ("size", "million", "giga", "attention"),
    [
        ("XXS", 0.73, (0.068, 0.332, 2.52), 0.30),
        ("XS", 4.18, (0.371, 1.67, 10.3), 0.18),
        ("S", 32.5, (2.84, 12.1, 62.9), 0.10),
        pytest.param("B", 130, (11.1, 46.0, 213), 0.052, marks=pytest.mark.thorough),
        pytest.param("L", 457, (39.4, 161, 722), 0.040, marks=pytest.mark.thorough),
        pytest.param("XL", 674, (58.1, 237, 1049), 0.036, marks=pytest.mark.thorough),
    ],
)
def test_what_transformers_cost(size, million, giga, attention):
    costs = [network_cost(transformer(size, 64, patch), (3, 64, 64)) for patch in (8, 4, 2)]
    assert costs[1].parameters / 1e6 == pytest.approx(million, rel=0.01)
    assert [cost.forward_flops / 1e9 for cost in costs] == pytest.approx(giga, rel=0.006)
    width, num_blocks, _ = SIZES[size]
    assert num_blocks * 4 * 256**2 * width / costs[1].forward_flops == pytest.approx(attention, rel=0.02)


@pytest.mark.parametrize("size", SIZES)
def test_modulations_are_a_third_of_the_parameters_and_little_of_the_operations(size):
    network = transformer(size, 64, 4)
    modulations = sum(p.numel() for name, p in network.named_parameters() if ".modulation." in name)
    cost = network_cost(network, (3, 64, 64))
    assert modulations / cost.parameters == pytest.approx(1 / 3, rel=0.02)
    assert 2 * modulations / cost.forward_flops == pytest.approx(0.002, abs=0.0006)


def test_jit_costs_little_more_than_dit():
    recipe = OmegaConf.load(CONF / "network/diffusion/jit.yaml")
    options = {name: value for name, value in recipe.items() if name != "defaults"}
    jit, dit = (network_cost(transformer("B", 256, 16, **more), (3, 256, 256)) for more in (options, {}))
    assert jit.forward_flops / dit.forward_flops == pytest.approx(1.08, abs=0.005)


def test_digits_vary_in_fewer_directions_than_noise_and_velocity():
    data = Digits(batch_size=16, seed=0)
    data.prepare()
    x_0 = next(data.batches("train", 2000, limit=2000))[0].flatten(1).double()
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def components(z):
        variances = torch.linalg.svdvals(z - z.mean(0)).square()
        return int((variances.cumsum(0) < 0.95 * variances.sum()).sum()) + 1

    assert [components(z) for z in (x_0, eps, eps - x_0)] == [28, 60, 59]


def test_the_error_of_the_velocity_is_one_of_x_0_over_u_squared():
    process, t = GaussianDiffusion(RectifiedSchedule(1000)), torch.tensor([50, 500, 999])
    u = process.sigma(t)[:, None]
    x_0, eps, guess = torch.randn(3, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    implied = (process.q_sample(x_0, t, eps) - (1 - u) * guess) / u
    velocity, guessed = (PredictFlow().target(process, *pair, t) for pair in ((x_0, eps), (guess, implied)))
    torch.testing.assert_close((guessed - velocity).square(), (guess - x_0).square() / u**2)
    weighting = instantiate(OmegaConf.load(CONF / "weighting/flow.yaml"))
    torch.testing.assert_close(weighting.weight(process, PredictStart(), t), 1 / u[:, 0] ** 2)
