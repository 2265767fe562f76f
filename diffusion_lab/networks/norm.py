"""Group norm, modulation and SiLU in one operation that is fast for channels-last images.

    h = SiLU((1 + scale) · (w · (x − μ_g) / σ_g + b) + shift)

is, pixel by pixel, h = SiLU(α·x + β) with one α and one β per sample and channel. So the work splits in two: a small
table (B, C) with the group moments, and passes over the pixels that only sum, multiply and
add; the gradient folds the same way. Convolutions are fastest in channels-last, where PyTorch's own group norm is up to three
times slower than in NCHW (bfloat16, CPU; `benchmarks/group_norm.py`).

Arithmetic is at least float32, whatever the type of x, and the result is rounded once.
"""

from math import prod

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from diffusion_lab.networks.forward_mode import in_forward_mode

EPS = 1e-5


def num_groups_for(channels: int) -> int:
    """The largest divisor of `channels` up to 32 that leaves at least four channels in a group, or 1."""
    return max(g for g in range(1, min(32, max(channels // 4, 1)) + 1) if channels % g == 0)


class _ScaleShiftGroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, scale, shift, num_groups, silu):
        batch, channels, *sides = x.shape
        groups, positions = (num_groups, channels // num_groups), prod(sides)
        count = positions * groups[1]
        precise = torch.promote_types(x.dtype, torch.float32)
        saved = x.movedim(1, -1).reshape(batch, positions, channels)
        pixels = saved.to(precise)

        # Around the mean, in one pass: E[x²] − E[x]² would lose all digits where the mean is 1000 σ.
        mean = _sum_groups(pixels.sum(1), groups).div_(count)
        squares = nn.functional.mse_loss(pixels, _by_channel(mean, groups).expand_as(pixels), reduction="none")
        inverse_std = _sum_groups(squares.sum(1), groups).div_(count).add_(EPS).rsqrt_()

        weight, bias = weight.to(precise), bias.to(precise)
        gain, offset = weight.expand(batch, -1), bias
        if scale is not None:
            scale, shift = scale.to(precise), shift.to(precise)
            gain, offset = torch.addcmul(weight, weight, scale), torch.addcmul(shift, bias, scale).add_(bias)
        alpha = (gain.unflatten(1, groups) * inverse_std).flatten(1)
        beta = offset - (alpha.unflatten(1, groups) * mean).flatten(1)

        # In place in the buffer of the squares, which is still in the cache.
        out = torch.addcmul(beta[:, None], alpha[:, None], pixels, out=squares)
        if silu:
            out = nn.functional.silu(out, inplace=True)
        ctx.save_for_backward(saved, weight, bias, scale, gain, mean, inverse_std, alpha, beta)
        ctx.groups, ctx.count, ctx.silu = groups, count, silu
        return out.to(x.dtype).view(batch, *sides, channels).movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        saved, weight, bias, scale, gain, mean, inverse_std, alpha, beta = ctx.saved_tensors
        batch, channels, *sides = grad.shape
        groups = ctx.groups
        pixels = saved.to(mean.dtype)
        grad = grad.movedim(1, -1).reshape(pixels.shape).to(mean.dtype)
        if ctx.silu:
            z = torch.addcmul(beta[:, None], alpha[:, None], pixels)
            grad = torch.ops.aten.silu_backward.grad_input(grad, z, grad_input=z)

        # Two sums over the pixels, dL/dβ and dL/dα, give every gradient below.
        d_beta = grad.sum(1)
        products = grad * pixels
        d_alpha = products.sum(1).unflatten(1, groups)
        d_gain = d_alpha.addcmul_(d_beta.unflatten(1, groups), mean, value=-1).mul_(inverse_std).flatten(1)

        # x acts directly (through α·x), through σ (a slope in x) and through μ (a constant of the group).
        slope = _sum_groups(gain * d_gain, groups).mul_(inverse_std).mul_(inverse_std).div_(-ctx.count)
        constant = _sum_groups(gain * d_beta, groups).mul_(inverse_std).div_(-ctx.count)
        constant.addcmul_(slope, mean, value=-1)
        slope, constant = _by_channel(slope, groups), _by_channel(constant, groups)
        d_pixels = torch.addcmul(constant, slope, pixels, out=products).addcmul_(grad, alpha[:, None])
        d_x = d_pixels.to(saved.dtype).view(batch, *sides, channels).movedim(-1, 1)

        d_weight, d_bias, d_scale, d_shift = d_gain, d_beta, None, None
        if scale is not None:
            d_weight, d_bias = torch.addcmul(d_gain, d_gain, scale), torch.addcmul(d_beta, d_beta, scale)
            d_scale, d_shift = torch.addcmul(d_beta * bias, d_gain, weight), d_beta
        return d_x, d_weight.sum(0), d_bias.sum(0), d_scale, d_shift, None, None


def _sum_groups(table, groups):
    """(B, C) -> (B, G, 1): the sum over the channels of each group; groups = (G, C / G)."""
    return table.unflatten(1, groups).sum(2, keepdim=True)


def _by_channel(table, groups):
    """(B, G, 1) -> (B, 1, C): the value of each group, for each of its channels; groups = (G, C / G)."""
    return table.expand(-1, *groups).flatten(1)[:, None]


def _by_plain_operations(x, num_groups, weight, bias, scale, shift, silu):
    """The same, by operations that have forward derivatives: torch's group norm has none for channels-last images."""
    batch, channels, *sides = x.shape
    groups, precise = (num_groups, channels // num_groups), torch.promote_types(x.dtype, torch.float32)
    pixels = x.movedim(1, -1).reshape(batch, -1, channels).to(precise)
    count = pixels.shape[1] * groups[1]
    gain, offset = weight.to(precise).expand(batch, -1), bias.to(precise)
    if scale is not None:
        scale, shift = scale.to(precise), shift.to(precise)
        gain, offset = torch.addcmul(gain, gain, scale), torch.addcmul(shift, offset, scale) + offset
    centred = pixels - _by_channel(_sum_groups(pixels.sum(1), groups) / count, groups)
    inverse_std = (_sum_groups(centred.square().sum(1), groups) / count + EPS).rsqrt()
    alpha = (gain.unflatten(1, groups) * inverse_std).flatten(1)
    out = torch.addcmul(offset.expand(batch, -1)[:, None], alpha[:, None], centred)
    out = nn.functional.silu(out) if silu else out
    return out.to(x.dtype).view(batch, *sides, channels).movedim(-1, 1)


def scale_shift_group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = False,
) -> Tensor:
    """(1 + scale) · (w · (x − μ_g) / √(σ_g² + 10⁻⁵) + b) + shift, followed by SiLU if `silu`.

    x (B, C, *spatial) in any floating dtype; weight, bias (C,); scale, shift (B, C) or both None. Returns x's shape,
    dtype and memory format. Differentiable once; in forward mode as often as torch's operations are.
    """
    if in_forward_mode():
        return _by_plain_operations(x, num_groups, weight, bias, scale, shift, silu)
    return _ScaleShiftGroupNorm.apply(x, weight, bias, scale, shift, num_groups, silu)


class GroupNorm(nn.Module):
    """`nn.GroupNorm` with its parameters, then (1 + scale)·h + shift if these are given, then SiLU if `silu`.

    x (B, C, *spatial), scale, shift (B, C) -> x's shape, dtype and memory format. num_groups None: that of `num_groups_for`.
    """

    def __init__(self, channels: int, silu: bool = True, num_groups: int | None = None):
        super().__init__()
        self.num_groups = num_groups_for(channels) if num_groups is None else num_groups
        self.silu = silu
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        return scale_shift_group_norm(x, self.num_groups, self.weight, self.bias, scale, shift, self.silu)

    def extra_repr(self) -> str:
        return f"{len(self.weight)} channels, {self.num_groups} groups, silu={self.silu}"
