from functools import partial

import pytest

from diffusion_lab.families.flow.networks import WaveletFlow
from diffusion_lab.families.gan.networks import Discriminator, Generator
from diffusion_lab.families.vae.networks import ConvAutoencoder
from diffusion_lab.networks.sizes import halved, height_and_width, lengths, paddings, patch_of_tokens


@pytest.mark.parametrize("padding", ["reflect", ["circular"], ["zeros", "zeros", "zeros"], ["zeros", 1]])
def test_a_padding_that_does_not_fit_is_named(padding):
    with pytest.raises(ValueError, match=r"network\.padding="):
        paddings(padding, 2)


@pytest.mark.parametrize("size", [[12], [12, 12, 12]])
@pytest.mark.parametrize("network", [Generator, Discriminator, partial(ConvAutoencoder, 1), WaveletFlow])
def test_networks_of_images_refuse_other_axes(network, size):
    with pytest.raises(ValueError, match=r"image_size=.*model=diffusion takes"):
        network(1, image_size=size)


def test_levels_halve_both_sides_rounding_up():
    assert halved((5, 12), 3) == [(5, 12), (3, 6), (2, 3)]
    assert height_and_width(7) == (7, 7)


@pytest.mark.parametrize("size", [0, [8, 0], [], [8, 8, 8, 8], 8.5])
def test_sizes_of_no_image_are_named(size):
    with pytest.raises(ValueError, match=r"network\.image_size="):
        lengths(size)


@pytest.mark.parametrize(
    ("sides", "patch"),
    [
        *(((8, 8), 1), ((28, 28), 2), ((32, 32), 2), ((64, 64), 4), ((128, 128), 8), ((256, 256), 16), ((50, 200), 8)),
        *(((256,), 1), ((1000,), 4), ((6, 6, 6), 1), ((16, 16, 16), 4)),
    ],
)
def test_patches_of_a_transformer_follow_from_the_sides(sides, patch):
    """DiT's 2 at 32×32 and JiT's 16 at 256×256 are 256 patches each."""
    assert patch_of_tokens(sides) == patch
