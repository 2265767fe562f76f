"""Group norm, modulation and SiLU in one pass over a channels-last image.

    h = SiLU((1 + scale) · (w · (x − μ_g) / σ_g + b) + shift)

is, pixel by pixel, h = SiLU(α·x + β) with one α and one β per sample and channel. So the work splits in two: a small table (B, C) that
holds everything one can know about the group moments, and passes over the pixels that only sum, multiply and add. PyTorch's own group norm
runs several times slower in channels-last than in NCHW, while convolutions run up to three times faster there.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

EPS = 1e-5


def num_groups_for(channels: int) -> int:
    """The number of groups: the largest divisor of `channels` up to 32 that leaves at least four channels in a group (or one group)."""
    return max(g for g in range(1, min(32, max(channels // 4, 1)) + 1) if channels % g == 0)


class _ScaleShiftGroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, scale, shift, num_groups, silu):
        batch, channels, height, width = x.shape
        pixels = x.permute(0, 2, 3, 1).reshape(batch, height * width, channels)

        count = height * width * (channels // num_groups)
        total = pixels.sum(1, dtype=torch.float32)
        square = (pixels * pixels).sum(1, dtype=torch.float32)
        mean = _over_groups(total, num_groups) / count
        variance = (_over_groups(square, num_groups) / count - mean * mean).clamp_min(0)
        inverse_std = torch.rsqrt(variance + EPS)

        gain = weight if scale is None else weight * (1 + scale)
        offset = bias if scale is None else bias * (1 + scale) + shift
        alpha = gain * inverse_std
        beta = offset - alpha * mean
        alpha, beta = alpha.to(x.dtype), beta.to(x.dtype)

        out = torch.addcmul(beta[:, None], alpha[:, None], pixels)
        if silu:
            out = nn.functional.silu(out, inplace=True)
        ctx.save_for_backward(pixels, weight, bias, scale, mean, inverse_std, alpha, beta)
        ctx.num_groups, ctx.silu, ctx.count = num_groups, silu, count
        return out.view(batch, height, width, channels).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        pixels, weight, bias, scale, mean, inverse_std, alpha, beta = ctx.saved_tensors
        batch, channels, height, width = grad.shape
        grad = grad.permute(0, 2, 3, 1).reshape(pixels.shape)
        if ctx.silu:
            z = torch.addcmul(beta[:, None], alpha[:, None], pixels)
            grad = torch.ops.aten.silu_backward(grad, z)

        # Every gradient below is a combination of these two sums over pixels.
        d_beta = grad.sum(1, dtype=torch.float32)
        d_alpha = (grad * pixels).sum(1, dtype=torch.float32)

        d_normed = (d_alpha - mean * d_beta) * inverse_std
        gain = weight if scale is None else weight * (1 + scale)
        d_x_normed = _over_groups(gain * d_normed, ctx.num_groups) / ctx.count
        d_x_offset = _over_groups(gain * d_beta, ctx.num_groups) / ctx.count
        slope = -inverse_std * inverse_std * d_x_normed
        intercept = -inverse_std * d_x_offset - slope * mean
        d_pixels = torch.addcmul(intercept.to(grad.dtype)[:, None], slope.to(grad.dtype)[:, None], pixels)
        d_pixels.addcmul_(grad, alpha[:, None])

        d_scale = d_shift = None
        if scale is not None:
            d_scale = d_normed * weight + d_beta * bias
            d_shift = d_beta
            d_normed, d_beta = d_normed * (1 + scale), d_beta * (1 + scale)
        d_weight, d_bias = d_normed.sum(0), d_beta.sum(0)
        d_x = d_pixels.view(batch, height, width, channels).permute(0, 3, 1, 2)
        return d_x, d_weight, d_bias, d_scale, d_shift, None, None


def _over_groups(table, num_groups):
    batch, channels = table.shape
    sums = table.view(batch, num_groups, -1).sum(2, keepdim=True)
    return sums.expand(batch, num_groups, channels // num_groups).reshape(batch, channels)


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

    x (B, C, H, W) in any floating dtype; weight, bias (C,); scale, shift (B, C) or both None. Returns x's shape and dtype, channels-last.
    """
    return _ScaleShiftGroupNorm.apply(x, weight, bias, scale, shift, num_groups, silu)


class GroupNorm(nn.Module):
    """Group norm over (B, C, H, W), then optionally (1 + scale)·h + shift, then optionally SiLU; the parameters of `nn.GroupNorm`.

    The moments are taken in float32 at least, also where x is bfloat16; the output has x's dtype and is channels-last.
    """

    def __init__(self, channels: int, silu: bool = True):
        super().__init__()
        self.num_groups = num_groups_for(channels)
        self.silu = silu
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        return scale_shift_group_norm(x, self.num_groups, self.weight, self.bias, scale, shift, self.silu)

    def extra_repr(self) -> str:
        return f"{len(self.weight)} channels, {self.num_groups} groups, silu={self.silu}"
