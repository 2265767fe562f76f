"""Data of one, two and three spatial axes, of equal and of different lengths, through the networks of images."""

from functools import partial

import pytest
import torch
from torch import nn

from diffusion_lab.families.flow.networks import WaveletFlow
from diffusion_lab.families.gan.networks import Discriminator, Generator
from diffusion_lab.families.vae.networks import ConvAutoencoder
from diffusion_lab.networks import UNet
from diffusion_lab.networks.blocks import from_patches, to_patches
from diffusion_lab.networks.flops import network_cost
from diffusion_lab.networks.sizes import halved, height_and_width

SMALL = {"base_channels": 8, "channel_multipliers": [1, 2]}


@pytest.mark.parametrize("resampling", [False, True])
@pytest.mark.parametrize("sides", [(4, 16), (16, 4), (7, 10), (1, 12), (12,), (7,), (4, 4, 4), (3, 6, 5)])
def test_the_unet_takes_one_to_three_axes(sides, resampling):
    attended = [-(-max(sides) // 2)]
    network = UNet(
        *(2, 4, list(sides)),
        attention_resolutions=attended,
        head_channels=8,
        residual_resampling=resampling,
        **SMALL,
    )
    assert sum(len(block) == 2 for blocks in network.encoder.down for block in blocks) == 2  # attention at one level
    nn.init.normal_(network.output.weight)
    out = network(torch.randn(3, 2, *sides), torch.arange(3))
    assert out.shape == (3, 4, *sides)
    assert out.isfinite().all()
    assert network.classifier()(torch.randn(3, 2, *sides), torch.arange(3)).shape == (3, 4)


@pytest.mark.parametrize("resampling", [False, True])
@pytest.mark.parametrize(
    ("sides", "padding"),
    [
        ((8,), "circular"),
        ((4, 8), "circular"),
        ((4, 8), ["zeros", "circular"]),
        ((4, 4, 8), ["circular", "zeros", "circular"]),
    ],
)
def test_a_circular_unet_commutes_with_shifts(sides, padding, resampling):
    """Shifts by 2, the stride of two levels, along a circular axis, and not along an axis with edges."""
    torch.manual_seed(0)
    network = UNet(
        *(1, 1, list(sides)),
        attention_resolutions=[],
        head_channels=8,
        padding=padding,
        residual_resampling=resampling,
        **SMALL,
    ).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        x, t = torch.randn(2, 1, *sides, dtype=torch.float64), torch.arange(2)
        for axis, kind in enumerate([padding] * len(sides) if padding == "circular" else padding, start=2):
            shifted, expected = network(x.roll(2, axis), t), network(x, t).roll(2, axis)
            assert torch.allclose(shifted, expected, atol=1e-5) == (kind == "circular")


@pytest.mark.parametrize("padding", ["reflect", ["circular"], ["zeros", "zeros", "zeros"], ["zeros", 1]])
def test_a_padding_that_does_not_fit_is_named(padding):
    with pytest.raises(ValueError, match=r"network\.padding="):
        UNet(1, 1, 8, attention_resolutions=[], head_channels=8, padding=padding, **SMALL)


@pytest.mark.parametrize("size", [[12], [12, 12, 12]])
@pytest.mark.parametrize("network", [Generator, Discriminator, partial(ConvAutoencoder, 1), WaveletFlow])
def test_networks_of_images_refuse_other_axes(network, size):
    with pytest.raises(ValueError, match=r"image_size=.*model=diffusion takes"):
        network(1, image_size=size)


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
    assert halved((5, 12), 3) == [(5, 12), (3, 6), (2, 3)]
    assert height_and_width(7) == (7, 7)


@pytest.mark.parametrize("size", [0, [8, 0], [], [8, 8, 8, 8], 8.5])
def test_sizes_of_no_image_are_named(size):
    with pytest.raises(ValueError, match=r"network\.image_size="):
        UNet(1, 1, size, attention_resolutions=[], head_channels=8, **SMALL)


DERIVED = dict.fromkeys(
    ("base_channels", "channel_multipliers", "attention_resolutions", "head_channels", "patch_size")
)


@pytest.mark.parametrize("sides", [(6,), (4, 6), (2, 4, 6)])
def test_patches_hold_the_values_of_their_places(sides):
    x = torch.arange(2 * 3 * torch.tensor(sides).prod()).view(2, 3, *sides)
    patches = to_patches(x, 2)
    assert patches.shape == (2, 3 * 2 ** len(sides), *(side // 2 for side in sides))
    assert torch.equal(from_patches(patches, 2), x)
    corner = x[(slice(None), slice(None), *[slice(2)] * len(sides))].flatten(1)
    assert torch.equal(patches[(..., *[0] * len(sides))], corner)


def test_held_outputs_in_patches_teach_the_last_layer_only():
    network = UNet(1, 2, 8, held_channels=1, patch_size=2, attention_resolutions=[], head_channels=8, **SMALL)
    nn.init.normal_(network.output.weight)
    network(torch.randn(1, 1, 8, 8), torch.zeros(1).long())[:, 1].sum().backward()
    assert network.output.weight.grad.abs().sum() > 0
    assert not network.encoder.input.weight.grad.any()


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


def test_a_classifier_of_patches_has_as_many_logits():
    network = UNet(1, 4, 8, patch_size=2, attention_resolutions=[], head_channels=8, **SMALL)
    assert network.classifier()(torch.randn(3, 1, 8, 8), torch.arange(3)).shape == (3, 4)
    assert network(torch.randn(3, 1, 8, 8), torch.arange(3)).shape == (3, 4, 8, 8)
