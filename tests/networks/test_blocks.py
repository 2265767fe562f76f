"""Each block against the plain formula it stands for."""

import pytest
import torch
from torch.nn import functional

from diffusion_lab.networks.blocks import (
    AttentionBlock,
    Downsample,
    PixelLinear,
    ResidualBlock,
    Upsample,
    attend,
    from_patches,
    to_patches,
)


def image(channels, size, batch=2):
    x = torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(0))
    return x.to(memory_format=torch.channels_last).requires_grad_()


def randomise(module):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module.to(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("size", "target"), [((4, 4), (8, 8)), ((8, 8), (15, 15)), ((4, 3), (7, 6)), ((1, 1), (2, 2)), ((1, 1), (1, 1))]
)
def test_upsample_is_nearest_neighbour_then_convolution(size, target):
    x, block = image(6, size), randomise(Upsample(6))
    doubled = functional.interpolate(x, scale_factor=2, mode="nearest")
    expected = functional.conv2d(doubled, block.weight, block.bias, padding=1)[..., : target[0], : target[1]]
    actual = block(x, torch.Size(target))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)

    direction = torch.randn_like(expected)
    leaves = [x, block.weight, block.bias]
    for ours, theirs in zip(
        torch.autograd.grad(actual, leaves, direction), torch.autograd.grad(expected, leaves, direction), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["zeros", "circular"])
@pytest.mark.parametrize(
    ("convolve", "size"), [(functional.conv1d, (5,)), (functional.conv2d, (2, 3)), (functional.conv3d, (3, 2, 4))]
)
def test_upsample_along_any_number_of_axes(convolve, size, mode):
    x, block = torch.randn(2, 6, *size), Upsample(6, padding=[mode] * len(size))
    doubled = functional.interpolate(x, scale_factor=2, mode="nearest")
    edges = functional.pad(doubled, (1, 1) * len(size), mode="constant" if mode == "zeros" else mode)
    expected = convolve(edges, block.weight, block.bias)
    torch.testing.assert_close(block(x, expected.shape[2:]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("size", "half"), [(8, 4), (15, 8), (7, 4), (1, 1)])
def test_downsample_halves_rounding_up(size, half):
    assert Downsample(4)(image(4, (size, size))).shape == (2, 4, half, half)


def test_pixel_linear_is_the_1x1_convolution_without_a_copy():
    x, block = image(6, (5, 3)), PixelLinear(6, 4)
    y = block(x)
    torch.testing.assert_close(y, functional.conv2d(x, block.weight[..., None, None], block.bias))
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_residual_block_is_its_formula():
    block, x, e = randomise(ResidualBlock(8, 12, 16, dropout=0.0)), image(8, (5, 5)), torch.randn(2, 16)
    scale, shift = block.modulation(e)[..., None, None].chunk(2, dim=1)
    h = block.conv_1(functional.silu(functional.group_norm(x, 2, block.norm_1.weight, block.norm_1.bias)))
    h = (1 + scale) * functional.group_norm(h, 3, block.norm_2.weight, block.norm_2.bias) + shift
    expected = block.conv_2(functional.silu(h)) + block.skip(x)
    torch.testing.assert_close(block(x, e), expected, rtol=1e-4, atol=1e-4)


def test_attention_is_softmax_of_products_per_head():
    block, x = randomise(AttentionBlock(8, head_channels=4)), image(8, (3, 2))
    pixels = functional.group_norm(x, 2, block.norm.weight, block.norm.bias).flatten(2).transpose(1, 2)
    query, key, value = block.qkv(pixels).split(8, dim=2)
    heads = []
    for h in (slice(0, 4), slice(4, 8)):
        weights = torch.softmax(query[..., h] @ key[..., h].transpose(1, 2) / 4**0.5, dim=2)
        heads.append(weights @ value[..., h])
    expected = x + block.project(torch.cat(heads, dim=2)).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pixels", [1, 16, 49])
def test_attention_in_bfloat16_is_that_in_float32_rounded(pixels):
    query, key, value = torch.randn(3, 2, 4, pixels, 16, generator=torch.Generator().manual_seed(0))
    precise = functional.scaled_dot_product_attention(query, key, value)
    rounded = attend(query.bfloat16(), key.bfloat16(), value.bfloat16())
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), precise, rtol=0, atol=0.05)


@pytest.mark.parametrize("sides", [(6,), (4, 6), (2, 4, 6)])
def test_patches_hold_the_values_of_their_places(sides):
    x = torch.arange(2 * 3 * torch.tensor(sides).prod()).view(2, 3, *sides)
    patches = to_patches(x, 2)
    assert patches.shape == (2, 3 * 2 ** len(sides), *(side // 2 for side in sides))
    assert torch.equal(from_patches(patches, 2), x)
    corner = x[(slice(None), slice(None), *[slice(2)] * len(sides))].flatten(1)
    assert torch.equal(patches[(..., *[0] * len(sides))], corner)
