"""Counted FLOPs are those one counts by hand."""

import torch

from diffusion_lab.networks import UNet
from diffusion_lab.networks.flops import network_cost


def conv(channels_in, channels_out, side):
    return 2 * 9 * channels_in * channels_out * side * side


def linear(features_in, features_out, rows=1):
    return 2 * features_in * features_out * rows


def test_flops_of_a_tiny_unet_by_hand():
    network = UNet(
        1,
        2,
        image_size=4,
        base_channels=4,
        channel_multipliers=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(),
        head_channels=8,
    )
    modulation = {channels: linear(16, 2 * channels) for channels in (4, 8)}

    def block(channels_in, channels_out, side):
        skip = linear(channels_in, channels_out, side * side) if channels_in != channels_out else 0
        return (
            conv(channels_in, channels_out, side)
            + modulation[channels_out]
            + conv(channels_out, channels_out, side)
            + skip
        )

    attention = linear(8, 24, 4) + 2 * (2 * 4 * 4 * 8) + linear(8, 8, 4)
    expected = linear(4, 16) + linear(16, 16)
    expected += conv(1, 4, 4) + block(4, 4, 4) + conv(4, 4, 2) + block(4, 8, 2)
    expected += block(8, 8, 2) + attention + block(8, 8, 2)
    expected += block(8 + 8, 8, 2) + block(8 + 4, 8, 2)
    expected += 2 * 16 * 8 * 8 * 2 * 2  # upsampling: a 4x4 kernel at every pixel of the small image
    expected += block(8 + 4, 4, 4) + block(4 + 4, 4, 4) + conv(4, 2, 4)
    assert network_cost(network, (1, 4, 4)).forward_flops == expected


def test_counting_leaves_no_trace():
    network = UNet(
        1,
        1,
        image_size=4,
        base_channels=4,
        channel_multipliers=(1,),
        num_res_blocks=1,
        attention_resolutions=(),
        head_channels=4,
        dropout=0.5,
    )
    state = torch.get_rng_state()
    network_cost(network, (1, 4, 4))
    assert torch.equal(state, torch.get_rng_state())
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
