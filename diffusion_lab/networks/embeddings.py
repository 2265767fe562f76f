"""Embeddings of the timestep, of a second time s, of classes and of vectors. (Fields lie beside x_t, see `input_channels`.)

    e = MLP(sinusoid(t)) + MLP(sinusoid(s)) + table[class] + MLP(vector)

Every residual block uses the same e. The timestep is the 0-based index of the *original* chain, kept through
respacing: a network trained at T = 1000 and sampled in 50 steps is given 0, 20, 41, ..., 999, never 0, 1, 2,
..., 49.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffusion_lab.conditions.condition import Size, has_field, nothing
from diffusion_lab.diffusion.condition_parts import parts
from diffusion_lab.diffusion.shapes import Conditions
from diffusion_lab.networks.blocks import zero
from diffusion_lab.networks.fitting import Names, Origin, Weights, null_embedding

MAX_PERIOD = 10_000.0
SECOND_TIME = ".second_time."  # in the names of weights that only networks of two times have


def sinusoidal_embedding(timesteps: Tensor, dim: int, max_period: float = MAX_PERIOD) -> Tensor:
    """[cos(t·ω_0), …, cos(t·ω_{d/2−1}), sin(t·ω_0), …], ω_i = P^{−2i/d}, P = `max_period`.

    timesteps: int64 or float (B,), values 0..T−1. Returns float32 (B, dim), in [−1, 1]; an odd dim ends in a zero column. The
    sinusoids are float32 under any autocast and for any parameter dtype: bfloat16 has eight bits and could not distinguish t =
    3999 from t = 3998. Source: Vaswani et al. 2017, section 3.5, in the column order of Dhariwal & Nichol's guided
    diffusion.
    """
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps.to(torch.float32)[:, None] * torch.exp(-math.log(max_period) * exponents)
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


def parts_of(y: Conditions, sizes: Sequence[Size], like: Tensor) -> tuple[Tensor, ...]:
    """One tensor per condition; for y = None the nulls, for as many samples as `like` has."""
    if not sizes:
        return ()
    return parts(nothing(sizes, len(like), like.device) if y is None else y)


class Conditioning(nn.Module):
    """e = W_2 SiLU(W_1 sinusoid(t)) + table[y], the vector used by every block of a network.

    timesteps int64 or float (B,), y int64 (B,) in 0..num_classes or None -> (B, dim). The table has num_classes + 1 rows: the
    last row is the null class, "no label", used in label dropping, guidance and for y = None. With
    null_class=False that row is missing, and every sample needs a label. timestep_scale: multiplies t; max_period: of the
    sinusoids. ValueError if y is given to a network without classes, or missing in one without a null class.

    conditions: in place of num_classes, the sizes of the parts of y: K of classes, (D,) of a vector, (C, …) of a field. Each set of
    classes has a table, each vector a `VectorEmbedding`; fields are left to `input_channels`.

    two_times: adds W_4 SiLU(W_3 sinusoid(s)) to e, for a network of a step from t to s. s, float or int64 (B,), is counted as
    timesteps are; None: s = t. W_4 starts at zero, so the network is at first that of one time, whatever s. ValueError if s is
    given without two_times.
    """

    def __init__(
        self,
        sinusoid_dim: int,
        dim: int,
        num_classes: int | None = None,
        timestep_scale: float = 1.0,
        null_class: bool = True,
        conditions: Sequence[Size] = (),
        max_period: float = MAX_PERIOD,
        two_times: bool = False,
    ):
        super().__init__()
        self.sinusoid_dim, self.max_period = sinusoid_dim, max_period
        self.timestep_scale, self.null_class = timestep_scale, null_class
        self.time = _time_embedding(sinusoid_dim, dim)
        self.classes = nn.Embedding(num_classes + null_class, dim) if num_classes is not None else None
        self.sizes = tuple(conditions)
        self.parts = nn.ModuleList(_embedding(size, dim) for size in self.sizes if not has_field(size))
        self.second_time = _time_embedding(sinusoid_dim, dim) if two_times else None
        self.start_with_one_time()

    def start_with_one_time(self) -> None:
        """Set the last layer of the second time's embedding to zero, so that e is that of a network of one time."""
        if self.second_time is not None:
            zero(self.second_time[-1])

    def forward(self, timesteps: Tensor, y: Conditions, s: Tensor | None = None) -> Tensor:
        of_time, of_condition = self.of_time_and_condition(timesteps, y, s)
        return of_time if of_condition is None else of_time + of_condition

    def of_time_and_condition(
        self, timesteps: Tensor, y: Conditions, s: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The terms of e of both times, and of y, (B, dim); None without a condition, or where all of them are fields."""
        embedding = self._embedded(timesteps, self.time)
        if self.second_time is not None:
            embedding = embedding + self._embedded(timesteps if s is None else s, self.second_time)
        elif s is not None:
            raise ValueError("this network takes one time, and a second was given: build it with two_times=True")
        if self.classes is not None and self.null_class and y is None:
            y = torch.full_like(timesteps, self.classes.num_embeddings - 1, dtype=torch.int64)
        if self.sizes:
            known = [
                part
                for part, size in zip(parts_of(y, self.sizes, timesteps), self.sizes, strict=True)
                if not has_field(size)
            ]
            embedded = [embed(value) for embed, value in zip(self.parts, known, strict=True)]
            return embedding, sum(embedded[1:], embedded[0]) if embedded else None
        return embedding, class_vectors(self.classes, y)

    def fit_weights(self, weights: Weights, origin: Origin) -> tuple[Weights, Names]:
        """Embeddings of another condition begin at zero; the null of the old one is added to every e."""
        own = {key: tensor.detach() for key, tensor in self.state_dict().items() if is_of_condition(key)}
        there = {key: tensor for key, tensor in weights.items() if is_of_condition(key)}
        if {key: tensor.shape for key, tensor in own.items()} == {key: tensor.shape for key, tensor in there.items()}:
            return weights, ()
        first = {key: tensor if ".embed.0." in key else torch.zeros_like(tensor) for key, tensor in own.items()}
        others = {key: tensor for key, tensor in weights.items() if key not in there}
        if there:
            others["time.2.bias"] = others["time.2.bias"] + null_embedding(there, origin)
        return {**others, **first}, [*first]

    def _embedded(self, times: Tensor, layers: nn.Module) -> Tensor:
        sinusoid = sinusoidal_embedding(times * self.timestep_scale, self.sinusoid_dim, self.max_period)
        return layers(sinusoid.to(next(layers.parameters()).dtype))


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


def is_of_condition(name: str) -> bool:
    """Whether a parameter of `Conditioning` belongs to the embedding of a condition."""
    return name.startswith(("classes.", "parts."))


def _time_embedding(sinusoid_dim: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(sinusoid_dim, dim), nn.SiLU(), nn.Linear(dim, dim))


def _embedding(size: Size, dim: int) -> nn.Module:
    return nn.Embedding(size + 1, dim) if isinstance(size, int) else VectorEmbedding(size[0], dim)
