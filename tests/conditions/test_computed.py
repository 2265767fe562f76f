"""Conditions that are computed from the image."""

import pytest
import torch

from diffusion_lab.conditions.computed import BrightnessArea, LowResolution


class Shown:
    """Data of one shape, as a condition is prepared with."""

    name, num_classes, class_names, num_trained_on = "shown", None, None, 4

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def shown(self, count):
        return torch.zeros(count, *self.shape), {}


@pytest.mark.parametrize("shape", [(2, 8), (1, 4, 6), (1, 4, 4, 8)], ids=str)
def test_low_resolution_is_the_mean_of_blocks(shape):
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    condition = LowResolution(factor=2)
    condition.prepare(Shown(*shape))
    low = condition.of(x, {})
    assert tuple(low.shape[1:]) == condition.size == (shape[0], *(side // 2 for side in shape[1:]))
    pool = getattr(torch.nn.functional, f"avg_pool{len(shape) - 1}d")
    torch.testing.assert_close(low, pool(x, 2))


@pytest.mark.parametrize(("shape", "size"), [((1, 28, 15), "28×15"), ((2,), "points")])
def test_a_factor_that_does_not_divide_is_refused(shape, size):
    with pytest.raises(ValueError, match=f"factor=2 must divide each side of the data, which are {size}"):
        LowResolution(factor=2).prepare(Shown(*shape))


def test_brightness_and_area_of_a_known_image():
    x = torch.full((1, 1, 4, 5), -1.0)
    x[..., :2] = 1.0
    condition = BrightnessArea(threshold=-0.8)
    condition.prepare(Shown(1, 4, 5))
    assert condition.size == (2,)
    assert condition.of(x, {})[0].tolist() == pytest.approx([-0.2, 0.4])
    x[..., 0] = torch.nan
    assert condition.of(x, {})[0].tolist() == pytest.approx([-0.5, 0.25])
