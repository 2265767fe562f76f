"""Ensembles of draws beside the truth, against closed forms of Gaussians."""

import math

import pytest
import torch

from diffusion_lab.conditions.computed import LowResolution
from diffusion_lab.conditions.units import Units
from diffusion_lab.data.order import fixed_subset
from diffusion_lab.diffusion import SampleNoise
from diffusion_lab.metrics.pictures import DRAWS, FIELDS
from diffusion_lab.metrics.reconstruction import Reconstruction, ensemble_errors, psnr
from diffusion_lab.metrics.reference import quantise
from tests.metrics.stand_ins import GaussianModel, TinyImages
from tests.metrics.test_score import scored


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("n", [2, 3, 16])
def test_crps_is_unbiased_for_any_number_of_draws(n):
    """CRPS(N(0, σ²), y) = σ (z (2Φ(z) − 1) + 2φ(z) − 1/√π), z = y/σ (Gneiting et al. 2005)."""
    sigma, y = 0.7, 0.5
    z = torch.tensor(y / sigma, dtype=torch.float64)
    phi = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    expected = sigma * (z * torch.erf(z / math.sqrt(2)) + 2 * phi - 1 / math.sqrt(math.pi))
    crps = ensemble_errors(sigma * normal(n, 4000, n, 20), torch.full((4000, 20), y).double())[2]
    assert float(crps.mean()) == pytest.approx(float(expected), abs=4 * float(crps.std()) / math.sqrt(crps.numel()))


def test_crps_is_the_double_sum():
    x, y = normal(0, 3, 5, 4), normal(1, 3, 4)
    pairs = (x[:, :, None] - x[:, None]).abs().sum((1, 2))
    torch.testing.assert_close(ensemble_errors(x, y)[2], (x - y[:, None]).abs().mean(1) - pairs / (2 * 5 * 4))


def test_perfect_draws_have_known_errors():
    """The truth is one more draw: the mean of n has (n + 1)/n of the variance, a draw twice it, and the spread is the skill."""
    n, x = 16, 0.3 * normal(2, 400, 17, 200)
    draws, truth = x[:, :n], x[:, n]
    mean, variance, _ = ensemble_errors(draws, truth)
    draw = (draws - truth[:, None]).square().mean(1)
    assert float(mean.mean()) == pytest.approx(0.09 * 17 / 16, rel=0.02)
    assert float(draw.mean()) == pytest.approx(0.09 * 2, rel=0.02)
    assert float(((n + 1) / n * variance.mean() / mean.mean()).sqrt()) == pytest.approx(1, abs=0.02)
    better = psnr(draws.mean(1, keepdim=True), truth) - psnr(draws, truth)
    assert float(better.mean()) == pytest.approx(10 * math.log10(32 / 17), abs=0.1)
    torch.testing.assert_close(psnr(draws, truth), 10 * (4 / draw.mean(1)).log10(), rtol=1e-6, atol=0)


def test_psnr_is_of_the_range_of_the_data():
    """An error of one grey level of 256 everywhere: 20 log10 255. Of equal values it is finite."""
    truth = torch.zeros(1, 4).double()
    for error, expected in ((2 / 255, 20 * math.log10(255)), (0, 10 * math.log10(4e12))):
        assert float(psnr(truth[:, None] + error, truth)) == pytest.approx(expected, rel=1e-6)


class Blocks(GaussianModel):
    """x = the field, enlarged, + 0.3 z."""

    conditions = ((1, 1, 1),)

    def decode(self, z, y=None):
        return y.expand_as(z) + 0.3 * z


def test_draws_of_a_field_are_beside_their_image(tmp_path):
    """In the score and in the picture, whose rows are a field, its image, and draws."""
    data = TinyImages()
    data.condition_on({"low": LowResolution(factor=2)})
    scores = scored(tmp_path, Blocks(), data, metrics=[Reconstruction(num_images=6, num_draws=3, batch_size=4)])
    x = data.splits["test"][0][fixed_subset(40, 6)]
    low = x.mean((2, 3), keepdim=True).expand_as(x)
    draws = low.repeat_interleave(3, 0) + 0.3 * SampleNoise(0, torch.arange(18)).initial((1, 2, 2))
    means = quantise(draws, 17).unflatten(0, (6, 3)).mean(1)
    expected = (10 * (4 / (means - x).flatten(1).double().square().mean(1)).log10()).mean()
    assert scores.values["psnr_mean"] == pytest.approx(float(expected), rel=1e-5)
    assert scores.values["psnr_mean"] > scores.values["psnr_draw"]

    rows = scores.conditions.unflatten(0, (-1, 2 + DRAWS))
    x = data.splits["test"][0][fixed_subset(40, FIELDS)]
    torch.testing.assert_close(rows[:, 1], x)
    torch.testing.assert_close(rows[:, 0], x.mean((2, 3), keepdim=True).expand_as(x))
    assert (rows[:, 2:] - rows[:, :1]).std() == pytest.approx(0.3, rel=0.2)


def test_a_normalised_field_is_shown_from_black_to_white(tmp_path, monkeypatch):
    monkeypatch.setattr(LowResolution, "of", lambda self, x, given: 3 + 2 * x.mean((2, 3), keepdim=True))
    data = TinyImages()
    data.condition_on({"low": LowResolution(factor=2)})
    scores = scored(tmp_path, Blocks(), data, metrics=[Reconstruction(num_images=6, num_draws=3, batch_size=4)])
    fields = scores.conditions.unflatten(0, (-1, 2 + DRAWS))[:, 0]
    assert (float(fields.min()), float(fields.max())) == pytest.approx((-1, 1))


def test_errors_of_real_data_are_in_their_units_too(tmp_path):
    data = TinyImages()
    data.num_levels, data.units = None, Units([280.0], [10.0], ["kelvin"])
    data.condition_on({"low": LowResolution(factor=2)})
    values = scored(tmp_path, Blocks(), data, metrics=[Reconstruction(num_images=6, num_draws=3)]).values
    assert values["crps_kelvin"] == pytest.approx(10 * values["crps"], rel=1e-6)
    assert values["rmse_mean_kelvin"] == pytest.approx(10 * values["rmse_mean"], rel=1e-6)
    assert "psnr_mean" not in values


@pytest.mark.parametrize("model", [GaussianModel(), GaussianModel(num_classes=3)], ids=["unconditional", "classes"])
def test_many_images_share_a_class_so_none_is_the_truth(model, tmp_path):
    scores = scored(tmp_path, model, metrics=[Reconstruction()])
    assert scores.protocol["absent"].keys() == {"psnr_mean", "psnr_draw", "rmse_mean", "crps", "spread_skill"}
    assert scores.conditions is None
