"""Fields and Fourier features beside x_t."""

import pytest
import torch

from diffusion_lab.networks.input_channels import FourierFeatures, field_channels, with_fields


@pytest.mark.parametrize("sides", [(28, 28), (5, 9), (14, 30)])
def test_a_field_of_any_resolution_has_its_mean(sides):
    """Averages and interpolation keep a constant, and a mask says where the field is known."""
    sizes = [[2, *sides]]
    field = torch.ones(3, 2, *sides) * torch.tensor([1.0, 2.0])[:, None, None]
    field[1] = torch.nan
    seen = with_fields(torch.zeros(3, 1, 14, 14), field, sizes)
    assert seen.shape == (3, 1 + field_channels(sizes, num_axes=2), 14, 14) == (3, 4, 14, 14)
    torch.testing.assert_close(seen[0], torch.tensor([0.0, 1, 2, 1])[:, None, None].expand(4, 14, 14))
    assert not seen[1].any()


def test_fourier_features_put_every_level_at_one_phase():
    """Fourier features put every level at one phase and tell what lies between."""
    features = FourierFeatures([1, 2], num_levels=17)
    levels = torch.linspace(-1, 1, 17)[None, :, None, None]
    seen = features(levels)
    assert seen.shape == (1, 5 * 17, 1, 1)
    x, sin_1, cos_1, sin_2, cos_2 = seen.unflatten(1, (5, 17))[0, ..., 0, 0]
    torch.testing.assert_close(x, levels.flatten())
    ones = torch.ones(17)
    for wave, expected in ((sin_1, 0 * ones), (cos_1, ones), (sin_2, 0 * ones), (cos_2, (-1.0) ** torch.arange(17))):
        torch.testing.assert_close(wave, expected, atol=1e-4, rtol=0)
    quarter = features(torch.full((1, 1), -1 + 0.25 * 2 / 16))[0]
    torch.testing.assert_close(quarter[1:3], torch.tensor([1.0, 0.0]), atol=1e-5, rtol=0)


def test_fourier_features_need_levels_and_positive_periods():
    with pytest.raises(ValueError, match=r"network\.fourier_periods=\[1\].*continuous data have none"):
        FourierFeatures([1], None)
    with pytest.raises(ValueError, match=r"network\.fourier_periods=\[0\].*greater than 0"):
        FourierFeatures([0], 256)
    x = torch.randn(2, 3, 4, 4)
    assert FourierFeatures([], None)(x) is x
