import pytest

from diffusion_lab.networks import UNet
from diffusion_lab.networks.flops import network_cost

DERIVED = dict.fromkeys(
    ("base_channels", "channel_multipliers", "attention_resolutions", "head_channels", "patch_size")
)


@pytest.mark.parametrize("sides", [(1, 1), (5, 5), (28, 28), (48, 64), (100, 150), (7, 300), (513,), (16, 16, 16)])
def test_derived_sizes_fit_any_image(sides):
    layout = UNet(1, 1, sides, **DERIVED).layout
    assert max(layout.sides[-1]) <= 8
    assert layout.attending == [*[False] * (len(layout.widths) - 1), True]


def test_larger_images_cost_no_more_arithmetic():
    costs = [network_cost(UNet(3, 3, side, **DERIVED), (3, side, side)).forward_flops for side in (32, 64, 128, 256)]
    assert max(costs) < 1.5 * min(costs)


def test_patches_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"network.patch_size=4 must divide .*\[6, 8\]; use 2 or a divisor"):
        UNet(1, 1, (6, 8), **{**DERIVED, "patch_size": 4})
