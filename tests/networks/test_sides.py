"""Images whose height and width differ, through every network of images."""

import pytest
import torch
from torch import nn

from diffusion_lab.families.flow.networks import WaveletFlow
from diffusion_lab.families.gan.networks import Discriminator, Generator
from diffusion_lab.families.vae.networks import ConvAutoencoder
from diffusion_lab.networks import UNet
from diffusion_lab.networks.sizes import halved, height_and_width

SMALL = {"base_channels": 8, "channel_multipliers": [1, 2]}


@pytest.mark.parametrize(("height", "width"), [(4, 16), (16, 4), (7, 10), (1, 12)])
def test_the_unet_takes_any_height_and_width(height, width):
    network = UNet(2, 4, [height, width], attention_resolutions=[-(-max(height, width) // 2)], head_channels=8, **SMALL)
    assert sum(len(block) == 2 for blocks in network.encoder.down for block in blocks) == 2  # attention at one level
    nn.init.normal_(network.output.weight)
    out = network(torch.randn(3, 2, height, width), torch.arange(3))
    assert out.shape == (3, 4, height, width)
    assert out.isfinite().all()


def test_a_square_is_a_height_and_a_width_that_are_equal():
    x, t = torch.randn(2, 1, 8, 8), torch.arange(2)
    outputs = []
    for size in (8, [8, 8]):
        torch.manual_seed(0)
        network = UNet(1, 1, size, attention_resolutions=[4], head_channels=8, **SMALL)
        nn.init.ones_(network.output.weight)
        outputs.append(network(x, t))
    assert torch.equal(*outputs)


def test_generator_and_discriminator_take_a_height():
    """Generator and discriminator take a height and a width."""
    x = Generator(2, [12, 20], **SMALL)(torch.randn(3, 64))
    assert x.shape == (3, 2, 12, 20)
    assert Discriminator(2, [12, 20], **SMALL)(x).shape == (3,)


def test_the_autoencoder_takes_a_height_and_a_width():
    network = ConvAutoencoder(2, 5, [12, 20], **SMALL)
    mean, _ = network.encode(torch.randn(3, 2, 12, 20))
    assert network.decode(mean).shape == (3, 5, 12, 20)


def test_the_wavelet_flow_takes_a_height():
    """The wavelet flow takes a height and a width back and forth."""
    torch.manual_seed(0)
    flow = WaveletFlow(2, [8, 12], num_steps=1, hidden=8, coarse_steps=1, coarse_hidden=8).eval()
    x = torch.rand(4, 2, 8, 12) * 1.8 - 0.9
    with torch.no_grad():
        flow(x)  # actnorm looks at its first batch
        z, _ = flow(x)
        assert (flow.inverse(z) - x).abs().max() < 1e-3


def test_levels_halve_both_sides_rounding_up():
    assert halved([5, 12], 3) == [(5, 12), (3, 6), (2, 3)]
    assert height_and_width(7) == (7, 7)


@pytest.mark.parametrize("size", [0, [8, 0], [8], [8, 8, 8], 8.5])
def test_sizes_of_no_image_are_named(size):
    with pytest.raises(ValueError, match=r"network\.image_size="):
        UNet(1, 1, size, attention_resolutions=[], head_channels=8, **SMALL)
