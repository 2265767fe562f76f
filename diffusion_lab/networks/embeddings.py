"""The inputs of a network: features of x_t, embeddings of the timestep, of classes and vectors, and fields beside x_t.

    e = MLP(sinusoid(t)) + table[class] + MLP(vector)

Every residual block uses the same e. The timestep is the 0-based index of the *original* chain, kept through
respacing: a network trained at T = 1000 and sampled in 50 steps is given 0, 20, 41, ..., 999, never 0, 1, 2,
..., 49.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffusion_lab.conditions.condition import Size, has_field, nothing
from diffusion_lab.diffusion.parts import parts
from diffusion_lab.diffusion.shapes import Conditions

MAX_PERIOD = 10_000.0


def sinusoidal_embedding(timesteps: Tensor, dim: int) -> Tensor:
    """[cos(t·ω_0), …, cos(t·ω_{d/2−1}), sin(t·ω_0), …], ω_i = 10000^{−2i/d}.

    timesteps: int64 or float (B,), values 0..T−1. Returns float32 (B, dim), in [−1, 1]; an odd dim ends in a zero column. The
    sinusoids are float32 under any autocast and for any parameter dtype: bfloat16 has eight bits and could not distinguish t =
    3999 from t = 3998. Source: Vaswani et al. 2017, section 3.5, in the column order of Dhariwal & Nichol's guided
    diffusion.
    """
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps.to(torch.float32)[:, None] * torch.exp(-math.log(MAX_PERIOD) * exponents)
    embedding = torch.cat([angles.cos(), angles.sin()], dim=1)
    return nn.functional.pad(embedding, (0, dim % 2))


def check_labels(y: Conditions, has_classes: bool) -> None:
    """ValueError for a network with classes without labels, or labels for a network without classes."""
    if y is None and has_classes:
        raise ValueError("this model is conditional and no class was given: set condition=…")
    if y is not None and not has_classes:
        raise ValueError("y was given to a network that has no classes and no other condition; pass y=None")


def class_vectors(table: nn.Embedding | None, y: Conditions) -> Tensor | None:
    """table[y] (B, dim), y int64 (B,); None in a network without classes. ValueError as in `check_labels`."""
    check_labels(y, table is not None)
    return None if table is None else table(y)


class Conditioning(nn.Module):
    """e = W_2 SiLU(W_1 sinusoid(t)) + table[y], the vector used by every block of a network.

    timesteps int64 or float (B,), y int64 (B,) in 0..num_classes or None -> (B, dim). The table has num_classes + 1 rows: the
    last row is the null class, "no label", used in label dropping, guidance and for y = None. With
    null_class=False that row is missing, and every sample needs a label. timestep_scale: multiplies t. ValueError
    if y is given to a network without classes, or missing in one without a null class.

    conditions: in place of num_classes, the sizes of the parts of y: K of classes, (D,) of a vector, (C, …) of a field. Each set of
    classes has a table, each vector a `VectorEmbedding`, and fields are `field_channels` channels beside those of x_t.
    """

    def __init__(
        self,
        sinusoid_dim: int,
        dim: int,
        num_classes: int | None = None,
        timestep_scale: float = 1.0,
        null_class: bool = True,
        conditions: Sequence[Size] = (),
    ):
        super().__init__()
        self.sinusoid_dim = sinusoid_dim
        self.timestep_scale, self.null_class = timestep_scale, null_class
        self.time = nn.Sequential(nn.Linear(sinusoid_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.classes = nn.Embedding(num_classes + null_class, dim) if num_classes is not None else None
        self.sizes = tuple(conditions)
        self.parts = nn.ModuleList(_embedding(size, dim) for size in self.sizes if not has_field(size))
        self.field_channels = sum(size[0] + 1 for size in self.sizes if has_field(size))

    def forward(self, timesteps: Tensor, y: Conditions) -> Tensor:
        sinusoid = sinusoidal_embedding(timesteps * self.timestep_scale, self.sinusoid_dim)
        embedding = self.time(sinusoid.to(self.time[0].weight.dtype))  # type: ignore[arg-type]  # of a Linear
        if self.classes is not None and self.null_class and y is None:
            y = torch.full_like(timesteps, self.classes.num_embeddings - 1, dtype=torch.int64)
        if self.sizes:
            known = [
                part for part, size in zip(self._parts_of(y, timesteps), self.sizes, strict=True) if not has_field(size)
            ]
            return sum((embed(value) for embed, value in zip(self.parts, known, strict=True)), embedding)
        of_class = class_vectors(self.classes, y)
        return embedding if of_class is None else embedding + of_class

    def beside_fields(self, x_t: Tensor, y: Conditions) -> Tensor:
        """x_t (B, C, *spatial) and, at its resolution, the channels of each field and a mask, 1 where the field is known.

        A field is averaged where it has more pixels and interpolated where it has fewer. Where it is NaN, field and mask are 0.
        """
        channels = [x_t]
        for field, size in zip(self._parts_of(y, x_t), self.sizes, strict=True):
            if has_field(size):
                known = ~field.isnan().any(1, keepdim=True)
                seen = torch.cat([torch.where(known, field, 0), known.to(field.dtype)], dim=1)
                channels.append(_resized(seen, x_t.shape[2:]).to(x_t.dtype))
        return torch.cat(channels, dim=1) if len(channels) > 1 else x_t

    def _parts_of(self, y: Conditions, like: Tensor) -> tuple[Tensor, ...]:
        if not self.sizes:
            return ()
        return parts(nothing(self.sizes, len(like), like.device) if y is None else y)


class VectorEmbedding(nn.Module):
    """W_2 SiLU(W_1 v), v (B, D) -> (B, dim), as the timestep is embedded; a learned vector where v is NaN."""

    def __init__(self, size: int, dim: int):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(size, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.nothing = nn.Parameter(torch.zeros(dim))

    def forward(self, v: Tensor) -> Tensor:
        known = ~v.isnan().any(1, keepdim=True)
        embedded = self.embed(torch.where(known, v, 0).to(self.nothing.dtype))
        return torch.where(known, embedded, self.nothing.to(embedded.dtype))


def _embedding(size: Size, dim: int) -> nn.Module:
    return nn.Embedding(size + 1, dim) if isinstance(size, int) else VectorEmbedding(size[0], dim)


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
