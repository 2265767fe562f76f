"""A flow of vectors: actnorms, invertible matrices and rational-quadratic spline couplings.

z_a = x_a,  z_b = g(x_b; x_a): in every dimension g is a rising spline of `num_bins` pieces on [−bound, bound] and the identity
beyond. Source: Durkan et al. 2019, "Neural spline flows", section 3; the splines are zuko's.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from zuko.transforms import MonotonicRQSTransform

from diffusion_lab.families.flow.couplings import ActNorm, Chain, InvertibleConv, Transform, split
from diffusion_lab.families.flow.network import Flow
from diffusion_lab.networks.blocks import zero
from diffusion_lab.networks.sizes import check_counts


class SplineFlow(Flow):
    """Points (B, in_channels), `num_steps` steps of actnorm -> matrix -> spline coupling.

    hidden, num_layers: of the networks in the couplings. Raises ValueError where a size is not a positive whole number.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int | None = None,
        num_steps: int = 6,
        num_bins: int = 16,
        bound: float = 5.0,
        hidden: int = 64,
        num_layers: int = 2,
        embedding_dim: int = 64,
    ):
        check_counts(in_channels=in_channels, num_steps=num_steps, hidden=hidden, num_layers=num_layers)
        check_counts(embedding_dim=embedding_dim)
        if num_bins < 2 or bound <= 0:
            raise ValueError(f"network.num_bins={num_bins} must be at least 2, and network.bound={bound} above 0")
        label_dim = embedding_dim if num_classes is not None else 0
        steps = spline_steps(in_channels, num_steps, num_bins, bound, hidden, num_layers, label_dim)
        super().__init__(Chain(steps), num_classes, embedding_dim)


def spline_steps(
    dims: int, num_steps: int, num_bins: int, bound: float, hidden: int, num_layers: int, embedding_dim: int
) -> list[Transform]:
    """Of vectors (B, dims): `num_steps` times actnorm -> matrix -> spline coupling, then actnorm. embedding_dim 0: told nothing."""
    kept = dims // 2
    steps: list[Transform] = []
    for _ in range(num_steps):
        conditioner = PointNetwork(kept, (dims - kept) * (3 * num_bins - 1), hidden, num_layers, embedding_dim)
        mixing = [InvertibleConv(dims)] if dims > 1 else []
        steps += [ActNorm(dims), *mixing, SplineCoupling(conditioner, num_bins, bound)]
    return [*steps, ActNorm(dims)]


class SplineCoupling(Transform):
    """x (B, D): the first ⌊D/2⌋ numbers stay, each other goes through a spline that they choose; D = 1: one that nothing chooses.

    conditioner(x_a, e) -> (B, (D − ⌊D/2⌋)·(3·num_bins − 1)): widths, heights and inner slopes; zeros are the identity.
    """

    def __init__(self, conditioner: nn.Module, num_bins: int, bound: float):
        super().__init__()
        self.conditioner, self.num_bins, self.bound = conditioner, num_bins, bound

    def forward(self, x: Tensor, e: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x_a, x_b = split(x)
        z_b, log_slope = self._spline(x_a, x_b, e).call_and_ladj(x_b)
        return torch.cat([x_a, z_b], 1), log_slope.sum(1)

    def inverse(self, z: Tensor, e: Tensor | None = None) -> Tensor:
        z_a, z_b = split(z)
        return torch.cat([z_a, self._spline(z_a, z_b, e).inv(z_b)], 1)

    def _spline(self, x_a: Tensor, x_b: Tensor, e: Tensor | None) -> MonotonicRQSTransform:
        chosen = self.conditioner(x_a, e).to(x_b.dtype).unflatten(1, (x_b.shape[1], -1))
        widths, heights, slopes = chosen.split([self.num_bins, self.num_bins, self.num_bins - 1], 2)
        return MonotonicRQSTransform(widths, heights, slopes, bound=self.bound)


class PointNetwork(nn.Module):
    """(B, in_features), e (B, embedding_dim) | None -> (B, out_features), zeros at first; in_features = 0 leaves e alone."""

    def __init__(self, in_features: int, out_features: int, hidden: int, num_layers: int, embedding_dim: int):
        super().__init__()
        self.start = nn.Parameter(torch.zeros(hidden))
        self.inputs = nn.Linear(in_features, hidden, bias=False) if in_features else None
        self.modulation = nn.Linear(embedding_dim, hidden, bias=False) if embedding_dim else None
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(num_layers))
        self.output = zero(nn.Linear(hidden, out_features))

    def forward(self, x: Tensor, e: Tensor | None) -> Tensor:
        h = self.start.expand(len(x), -1)
        if self.inputs is not None:
            h = h + self.inputs(x)
        if self.modulation is not None:
            h = h + self.modulation(e)
        for layer in self.layers:
            h = h + layer(functional.silu(h))
        return self.output(functional.silu(h))
