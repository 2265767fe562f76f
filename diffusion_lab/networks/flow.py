"""Glow: a multiscale flow of images, of actnorms, invertible 1×1 convolutions and affine couplings.

One scale squeezes and then takes `num_steps` steps of actnorm -> 1×1 convolution -> affine coupling; a coupling of its own ends
all scales but the last, as the prior of the half that is done. Source: Kingma & Dhariwal 2018, figure 2; the theory stands in
`baselines/couplings.py`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusion_lab.baselines.couplings import (
    ActNorm,
    AffineCoupling,
    Chain,
    InvertibleConv,
    Logit,
    Multiscale,
    Squeeze,
    Transform,
    fit_actnorms,
)
from diffusion_lab.networks.blocks import zero

SMALLEST_SIDE = 4  # of what is squeezed, where nobody says how often


class Flow(nn.Module):
    """network(x (B, *shape) float32, y int64 (B,) | None) -> z (B, D), log|det ∂z/∂x| (B,); inverse(z, y) -> x.

    transform: the map. num_classes: None for a flow that is told nothing; embedding_dim: of what its couplings are told.
    `initialised` is a buffer: what `initialise` did is saved with the weights, and is not done again.
    """

    def __init__(self, transform: Transform, num_classes: int | None, embedding_dim: int):
        super().__init__()
        self.transform = transform
        self.classes = nn.Embedding(num_classes, embedding_dim) if num_classes is not None else None
        self.register_buffer("initialised", torch.tensor(False))

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.transform(x, self._embedded(y))

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.transform.inverse(z, self._embedded(y))

    @torch.no_grad()
    def initialise(self, x: Tensor, y: Tensor | None = None) -> None:
        """Fit every actnorm to the batch x, which must be that of all ranks together."""
        fit_actnorms(self.transform, x, self._embedded(y))
        self.initialised.fill_(True)

    def _embedded(self, y: Tensor | None) -> Tensor | None:
        if (y is None) != (self.classes is None):
            raise ValueError(
                "a flow with num_classes is told y, one without is not: the density of neither is known otherwise"
            )
        return None if y is None else self.classes(y)


class Glow(Flow):
    """Images in_channels × image_size² in [−1, 1], halved `num_scales` times, `num_steps` steps at each size.

    margin: α of the logits, which come first. num_scales: None halves as long as 4 pixels or more can be halved. hidden: channels
    of the networks in the couplings of the finest scale, twice as many in the next; num_blocks, dropout: residual blocks of each.
    log_scale_bound: of the couplings.
    Raises ValueError where image_size cannot be halved as often.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: int,
        num_classes: int | None = None,
        margin: float = 1 / 256,
        num_scales: int | None = None,
        num_steps: int = 8,
        hidden: int = 32,
        num_blocks: int = 1,
        dropout: float = 0.0,
        log_scale_bound: float = 2.0,
        embedding_dim: int = 64,
    ):
        counts = {"in_channels": in_channels, "image_size": image_size, "num_steps": num_steps, "hidden": hidden}
        counts |= {"num_scales": 1 if num_scales is None else num_scales, "embedding_dim": embedding_dim}
        for name, count in counts.items():
            if count < 1 or count != int(count):
                raise ValueError(f"network.{name}={count} must be a whole number of at least 1")
        if num_blocks < 0 or log_scale_bound <= 0 or not 0 <= dropout < 1:
            raise ValueError(
                f"network.num_blocks={num_blocks} must not be negative, network.log_scale_bound={log_scale_bound} must be above 0, "
                f"and network.dropout={dropout} at least 0 and below 1"
            )
        num_scales = num_scales or _halvings(image_size)
        if num_scales == 0 or image_size % 2**num_scales:
            raise ValueError(
                f"images of {image_size}x{image_size} pixels cannot be halved {max(num_scales, 1)} times, as a flow must that "
                f"couples their pixels: choose a size that is a multiple of {2 ** max(num_scales, 1)}, or network.num_scales"
            )
        told = embedding_dim if num_classes is not None else None

        def coupling(channels: int, scale: int) -> AffineCoupling:
            moved = channels - channels // 2
            network = CouplingNetwork(channels // 2, 2 * moved, hidden * 2**scale, num_blocks, dropout, told)
            return AffineCoupling(network, log_scale_bound)

        scales, shapes, channels = [], [], in_channels
        for scale in range(num_scales):
            channels, side = 4 * channels, image_size // 2 ** (scale + 1)
            steps = []
            for _ in range(num_steps):
                steps += [ActNorm(channels), InvertibleConv(channels), coupling(channels, scale)]
            prior = [coupling(channels, scale)] if scale < num_scales - 1 else []
            scales.append(Chain([Squeeze(), *steps, *prior]))
            shapes.append((channels, side, side))
            channels //= 2
        super().__init__(Chain([Logit(margin), Multiscale(scales, shapes)]), num_classes, embedding_dim)


class CouplingNetwork(nn.Module):
    """t and s of a coupling: a 3×3 convolution, residual blocks, a 3×3 convolution that starts at zero: the identity.

    (B, in_channels, H, W), e (B, embedding_dim) | None -> (B, out_channels, H, W).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden: int,
        num_blocks: int,
        dropout: float,
        embedding_dim: int | None,
    ):
        super().__init__()
        self.input = nn.Conv2d(in_channels, hidden, 3, padding=1)
        self.blocks = nn.ModuleList(CouplingBlock(hidden, dropout, embedding_dim) for _ in range(num_blocks))
        self.output = zero(nn.Conv2d(hidden, out_channels, 3, padding=1))

    def forward(self, x: Tensor, e: Tensor | None) -> Tensor:
        h = self.input(x.contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            h = block(h, e)
        return self.output(functional.silu(h))


class CouplingBlock(nn.Module):
    """h + W_2 dropout(SiLU((1 + scale(e))·W_1 SiLU(h) + shift(e))): W_1 a 3×3 convolution, W_2 a 1×1 one that starts at zero."""

    def __init__(self, hidden: int, dropout: float, embedding_dim: int | None):
        super().__init__()
        self.first = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.modulation = nn.Linear(embedding_dim, 2 * hidden) if embedding_dim is not None else None
        self.dropout = nn.Dropout(dropout)
        self.last = zero(nn.Conv2d(hidden, hidden, 1))

    def forward(self, h: Tensor, e: Tensor | None) -> Tensor:
        z = self.first(functional.silu(h))
        if self.modulation is not None:
            scale, shift = self.modulation(e)[..., None, None].chunk(2, 1)
            z = (1 + scale) * z + shift
        return h + self.last(self.dropout(functional.silu(z)))


def _halvings(side: int) -> int:
    """How often a side can be halved while it has 4 pixels or more."""
    return 0 if side % 2 or side < SMALLEST_SIDE else 1 + _halvings(side // 2)
