"""The channels at the network's input: x_t, its Fourier features, and the fields it is conditioned on, each with a mask."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffusion_lab.conditions.condition import Size, has_field
from diffusion_lab.diffusion.shapes import Conditions
from diffusion_lab.networks.embeddings import parts_of


def field_channels(sizes: Sequence[Size], num_axes: int) -> int:
    """The channels of all fields among conditions of these sizes, and of their masks. ValueError for a field of other axes."""
    fields = list(filter(has_field, sizes))
    for size in fields:
        if len(size) - 1 != num_axes:
            axes = list(size[1:])
            raise ValueError(
                f"condition: the field has the spatial axes {axes}, but x has {num_axes} spatial axes; they need equally many"
            )
    return sum(size[0] + 1 for size in fields)


def with_fields(x_t: Tensor, y: Conditions, sizes: Sequence[Size]) -> Tensor:
    """x_t (B, C, *spatial) and, at its resolution, the channels of each field and a mask, 1 where the field is known.

    A field is averaged where it has more pixels and interpolated where it has fewer. Where it is NaN, field and mask are 0.
    sizes: of the conditions y.
    """
    channels = [x_t]
    for field, size in zip(parts_of(y, sizes, x_t), sizes, strict=True):
        if has_field(size):
            known = ~field.isnan().any(1, keepdim=True)
            seen = torch.cat([torch.where(known, field, 0), known.to(field.dtype)], dim=1)
            channels.append(_resized(seen, x_t.shape[2:]).to(x_t.dtype))
    return torch.cat(channels, dim=1) if len(channels) > 1 else x_t


def _resized(field: Tensor, sides: Sequence[int]) -> Tensor:
    """(B, C, *spatial) -> (B, C, *sides): means along an axis that becomes shorter, linear along one that becomes longer."""
    smaller = tuple(min(pair) for pair in zip(field.shape[2:], sides, strict=True))
    if smaller != tuple(field.shape[2:]):
        field = nn.functional.interpolate(field, smaller, mode="area")
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(sides)]
    return field if smaller == tuple(sides) else nn.functional.interpolate(field, tuple(sides), mode=mode)


class FourierFeatures(nn.Module):
    """x -> [x, sin(2π(x + 1)/p), cos(2π(x + 1)/p) for every period p]: x (B, C, …) -> (B, C·(1 + 2·len(periods)), …).

    periods: in bins of the data, whose levels lie 2/(num_levels − 1) apart from −1 to 1. At period 1 every level has the same
    phase, so a network can resolve the distance from the grid of levels, which a smooth function of x cannot. Float32,
    because a phase needs all digits. Source: Kingma et al. 2021 (VDM), whose sin(2ⁿπx), n = 7 and 8, have periods of 2 and 1 bins.
    Raises ValueError for periods without levels, or a period that is not positive.
    """

    def __init__(self, periods: Sequence[float], num_levels: int | None):
        super().__init__()
        if periods and num_levels is None:
            raise ValueError(
                f"network.fourier_periods={list(periods)} are counted in bins, but continuous data have none; use "
                "network.fourier_periods=[]"
            )
        if any(period <= 0 for period in periods):
            raise ValueError(f"network.fourier_periods={list(periods)}: every period must be greater than 0")
        self.num_features = 1 + 2 * len(periods)
        self.frequencies = [] if num_levels is None else [math.pi * (num_levels - 1) / period for period in periods]

    def forward(self, x: Tensor) -> Tensor:
        phases = [(x.float() + 1) * frequency for frequency in self.frequencies]
        waves = [wave(phase).to(x.dtype) for phase in phases for wave in (torch.sin, torch.cos)]
        return torch.cat([x, *waves], dim=1) if waves else x
