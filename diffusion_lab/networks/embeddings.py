"""The inputs of a network: features of x_t, and an embedding of the timestep and, where there are classes, of the class.

    e = MLP(sinusoid(t)) + table[y]

Every residual block reads the same e. The timestep is the 0-based index of the *original* chain, kept through
respacing: a network that was trained at T = 1000 and is sampled in 50 steps sees 0, 20, 41, ..., 999, never 0, 1, 2,
..., 49.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

MAX_PERIOD = 10_000.0


def sinusoidal_embedding(timesteps: Tensor, dim: int) -> Tensor:
    """[cos(t·ω_0), …, cos(t·ω_{d/2−1}), sin(t·ω_0), …], ω_i = 10000^{−2i/d}.

    timesteps: int64 or float (B,), values 0..T−1. Returns float32 (B, dim), in [−1, 1]; an odd dim ends in a zero column. The
    sinusoids are float32 under any autocast and for any parameter dtype: bfloat16 has eight bits and could not tell t =
    3999 from t = 3998. Source: Vaswani et al. 2017, section 3.5, in the column order of Dhariwal & Nichol's guided
    diffusion.
    """
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps.to(torch.float32)[:, None] * torch.exp(-math.log(MAX_PERIOD) * exponents)
    embedding = torch.cat([angles.cos(), angles.sin()], dim=1)
    return nn.functional.pad(embedding, (0, dim % 2))


def check_labels(y: Tensor | None, has_classes: bool) -> None:
    """ValueError where a network with classes is given no labels, or one without classes is given some."""
    if y is None and has_classes:
        raise ValueError("this model is conditional and no class was given: set label=…")
    if y is not None and not has_classes:
        raise ValueError("class labels y were given to a network that has no classes; pass y=None")


def class_vectors(table: nn.Embedding | None, y: Tensor | None) -> Tensor | None:
    """table[y] (B, dim), y int64 (B,); None in a network without classes. ValueError as in `check_labels`."""
    check_labels(y, table is not None)
    return None if table is None else table(y)


class Conditioning(nn.Module):
    """e = W_2 SiLU(W_1 sinusoid(t)) + table[y], the vector that every block of a network reads.

    timesteps int64 or float (B,), y int64 (B,) in 0..num_classes or None -> (B, dim). The table has num_classes + 1 rows: the
    last row is the null class, "no label", which label dropping trains, guidance uses and y = None means. With
    null_class=False that row is missing, and every sample needs a label. timestep_scale: multiplies t. Raises ValueError
    where y is given to a network without classes, or is not given to one without a null class.
    """

    def __init__(
        self,
        sinusoid_dim: int,
        dim: int,
        num_classes: int | None = None,
        timestep_scale: float = 1.0,
        null_class: bool = True,
    ):
        super().__init__()
        self.sinusoid_dim = sinusoid_dim
        self.timestep_scale, self.null_class = timestep_scale, null_class
        self.time = nn.Sequential(nn.Linear(sinusoid_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.classes = nn.Embedding(num_classes + null_class, dim) if num_classes is not None else None

    def forward(self, timesteps: Tensor, y: Tensor | None) -> Tensor:
        sinusoid = sinusoidal_embedding(timesteps * self.timestep_scale, self.sinusoid_dim)
        embedding = self.time(sinusoid.to(self.time[0].weight.dtype))  # type: ignore[arg-type]  # of a Linear
        if self.classes is not None and self.null_class and y is None:
            y = torch.full_like(timesteps, self.classes.num_embeddings - 1, dtype=torch.int64)
        of_class = class_vectors(self.classes, y)
        return embedding if of_class is None else embedding + of_class


class FourierFeatures(nn.Module):
    """x -> [x, sin(2π(x + 1)/p), cos(2π(x + 1)/p) for every period p]: x (B, C, …) -> (B, C·(1 + 2·len(periods)), …).

    periods: in bins of the data, whose levels lie 2/(num_levels − 1) apart from −1 to 1. At period 1 every level has the same
    phase, so a network can see how far a value is from the grid of levels, which a smooth function of x cannot resolve. Float32,
    as a phase needs all its digits. Source: Kingma et al. 2021 (VDM), whose sin(2ⁿπx), n = 7 and 8, have periods of 2 and 1 bins.
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
