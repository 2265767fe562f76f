"""The fast group norm is torch's group norm, then the modulation, then SiLU: in values, in gradients, in every dtype."""

import pytest
import torch
from torch.nn import functional

from diffusion_lab.networks.norm import GroupNorm, num_groups_for, scale_shift_group_norm

NUM_GROUPS, CHANNELS, BATCH = 3, 12, 2


def arguments(modulated, size=(5, 4), dtype=torch.float64, mean=0.3):
    generator = torch.Generator().manual_seed(0)
    x = mean + torch.randn(BATCH, CHANNELS, *size, generator=generator, dtype=dtype)
    weight, bias = torch.randn(2, CHANNELS, generator=generator, dtype=dtype)
    scale, shift = torch.randn(2, BATCH, CHANNELS, generator=generator, dtype=dtype) if modulated else (None, None)
    return [None if a is None else a.requires_grad_() for a in (x, weight.clone(), bias.clone(), scale, shift)]


def reference(x, weight, bias, scale, shift, silu):
    h = functional.group_norm(x, NUM_GROUPS, weight, bias, eps=1e-5)
    if scale is not None:
        scale, shift = (a.reshape(*a.shape, *[1] * (x.ndim - 2)) for a in (scale, shift))
        h = h * (1 + scale) + shift
    return functional.silu(h) if silu else h


def fast(x, weight, bias, scale, shift, silu):
    return scale_shift_group_norm(x, NUM_GROUPS, weight, bias, scale, shift, silu)


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("modulated", [True, False])
@pytest.mark.parametrize(
    ("size", "memory_format"),
    [
        *[
            (size, format)
            for size in [(5, 4), (1, 1), (3, 1)]
            for format in (torch.contiguous_format, torch.channels_last)
        ],
        *[((5,), torch.contiguous_format), ((3, 2, 4), torch.channels_last_3d)],
    ],
)
def test_equals_torch_group_norm_in_values_and_gradients(silu, modulated, size, memory_format):
    arguments_ = arguments(modulated, size)
    arguments_[0] = arguments_[0].detach().to(memory_format=memory_format).requires_grad_()
    expected, actual = reference(*arguments_, silu), fast(*arguments_, silu)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)

    direction = torch.randn_like(expected)
    leaves = [a for a in arguments_ if a is not None]
    for ours, theirs in zip(
        torch.autograd.grad(actual, leaves, direction), torch.autograd.grad(expected, leaves, direction), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("modulated", [True, False])
def test_gradients_are_those_of_finite_differences(silu, modulated):
    leaves = [a for a in arguments(modulated, size=(2, 2)) if a is not None]

    def function(*given):
        return fast(*given, *([None] * (5 - len(given))), silu)

    assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("modulated", [True, False])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_in_forward_mode_it_is_the_same_function(silu, modulated, memory_format):
    """Values and gradients of a jvp's primal, its tangent by differences, and the memory format of both."""
    leaves = [a for a in arguments(modulated, size=(3, 2)) if a is not None]
    leaves[0] = leaves[0].detach().to(memory_format=memory_format).requires_grad_()

    def function(*given):
        return fast(*given, *([None] * (5 - len(given))), silu)

    tangents = tuple(torch.randn_like(leaf) for leaf in leaves)
    expected = function(*leaves)
    actual, tangent = torch.func.jvp(function, tuple(leaves), tangents)
    assert actual.is_contiguous(memory_format=memory_format)
    assert tangent.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    direction = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(actual, leaves, direction), torch.autograd.grad(expected, leaves, direction), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    step = 1e-5
    ahead, behind = (
        function(*(leaf + h * along for leaf, along in zip(leaves, tangents, strict=True))) for h in (step, -step)
    )
    torch.testing.assert_close(tangent, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("mean", [0.0, 8.0])
def test_in_forward_mode_bfloat16_is_rounded_once(mean):
    generator = torch.Generator().manual_seed(1)
    x = (mean + 0.1 * torch.randn(2, CHANNELS, 8, 8, generator=generator)).to(torch.bfloat16)
    weight, bias = torch.randn(2, CHANNELS, generator=generator)
    along = torch.randn(x.shape, generator=generator).to(torch.bfloat16)

    def with_tangent(dtype, of_weights):
        def function(x):
            return fast(x, weight.to(of_weights), bias.to(of_weights), None, None, True)

        return torch.func.jvp(function, (x.to(dtype),), (along.to(dtype),))

    actual, tangent = with_tangent(torch.bfloat16, torch.float32)
    expected, exact = with_tangent(torch.float64, torch.float64)
    assert actual.dtype == tangent.dtype == torch.bfloat16
    torch.testing.assert_close(actual.double(), expected, rtol=2**-8, atol=2e-3 if mean else 1e-5)
    torch.testing.assert_close(tangent.double(), exact, rtol=2**-8, atol=2e-2 if mean else 1e-4)


def test_float32_keeps_its_digits_where_the_mean_is_large():
    """σ² is taken around the mean: a mean of 1000 σ costs three of float32's seven digits, in values and gradients, not six."""
    leaves = arguments(modulated=True, size=(16, 16), mean=1000.0)
    single = [a.detach().float().requires_grad_() for a in leaves]
    leaves[0] = (
        single[0].detach().double().requires_grad_()
    )  # the same image: the rounding of x itself is not the norm's
    actual, expected = fast(*single, True), reference(*leaves, True)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-3, atol=1e-3)
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad(actual, single, direction.float()),
        torch.autograd.grad(expected, leaves, direction),
        strict=True,
    ):
        assert (ours - theirs).norm() < 1e-3 * theirs.norm()


@pytest.mark.parametrize("mean", [0.0, 8.0])
def test_bfloat16_is_float32_rounded_once(mean):
    """Moments, products and SiLU are float32: at a mean of 80 σ anything in bfloat16 would be off by far more than the last bit."""
    generator = torch.Generator().manual_seed(1)
    x = (mean + 0.1 * torch.randn(2, CHANNELS, 16, 16, generator=generator)).to(torch.bfloat16)
    weight, bias = torch.randn(2, CHANNELS, generator=generator)
    scale, shift = torch.randn(2, 2, CHANNELS, generator=generator)
    actual = fast(x, weight, bias, scale, shift, True)
    expected = reference(x.double(), *(a.double() for a in (weight, bias, scale, shift)), True)
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual.double(), expected, rtol=2**-8, atol=2e-3 if mean else 1e-5)


def test_bfloat16_gradients_are_those_of_float32_up():
    """Bfloat16 gradients are those of float32 up to rounding."""
    leaves = [a.detach().to(torch.bfloat16).requires_grad_() for a in arguments(modulated=True, size=(8, 8))]
    singles = [a.detach().float().requires_grad_() for a in leaves]
    actual, expected = fast(*leaves, True), reference(*singles, True)
    direction = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(actual, leaves, direction.bfloat16()),
        torch.autograd.grad(expected, singles, direction),
        strict=True,
    ):
        assert ours.dtype == torch.bfloat16
        error = (ours.float() - theirs).norm() / theirs.norm()
        assert error < 0.005


def test_a_constant_image_gives_the_bias():
    """A constant image gives the bias and finite gradients."""
    x = torch.full((1, 8, 4, 4), 5.0, requires_grad=True)
    h = GroupNorm(8, silu=False)(x)
    torch.testing.assert_close(h, torch.zeros_like(h), atol=1e-3, rtol=0)
    assert torch.autograd.grad(h.square().sum(), x)[0].isfinite().all()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_output_and_gradient_keep_the_memory_format(memory_format):
    x = torch.randn(2, 8, 4, 4).to(memory_format=memory_format).requires_grad_()
    h = GroupNorm(8)(x)
    assert h.is_contiguous(memory_format=memory_format)
    (gradient,) = torch.autograd.grad(h, x, torch.ones_like(h))
    assert gradient.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize(
    ("channels", "groups"), [(128, 32), (192, 32), (64, 16), (96, 24), (32, 8), (6, 1), (3, 1), (1, 1), (40, 10)]
)
def test_groups_divide_the_channels_and_hold_at_least_four(channels, groups):
    assert num_groups_for(channels) == groups
    assert channels % groups == 0
