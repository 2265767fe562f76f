"""A flow of images, coarse to fine: splines for the coarsest image, and at every size affine couplings for the details of the next.

    logits of the pixels -> Haar -> details | coarse -> Haar -> details | coarse -> … -> the coarsest image

Details go through `num_steps` steps of actnorm -> 1×1 convolution -> affine coupling, the steps of Glow (Kingma & Dhariwal 2018,
figure 2), here given the coarse image (Yu et al. 2020, "Wavelet Flow"), and end in a coupling that moves all of them, Glow's
learned prior. The shape of what is drawn is so decided in few numbers, by couplings that see all of them, and not pixel by pixel.
The coarsest image goes through spline couplings (`splines.py`). The theory stands in `couplings.py`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusion_lab.families.flow.couplings import (
    ActNorm,
    AffineCoupling,
    Chain,
    Flatten,
    Haar,
    InvertibleConv,
    Logit,
    Multiscale,
    OnRemainingChannels,
    Transform,
)
from diffusion_lab.families.flow.network import Flow
from diffusion_lab.families.flow.splines import spline_steps
from diffusion_lab.networks.blocks import zero
from diffusion_lab.networks.sizes import Sides, check_counts, check_dropout, height_and_width

SMALLEST_SIDE = 4  # of what is halved, where the number of halvings is not set
MOST_NUMBERS = 1024  # of the coarsest image: the splines' matrices have the square of it
SPLINE_BOUND = 5.0  # where the splines of the coarsest image end, in standard deviations
COARSE_LAYERS = 2  # of their networks


class WaveletFlow(Flow):
    """Images in_channels × H × W in [−1, 1], halved `num_scales` times, `num_steps` steps at each size.

    image_size: the side, or H and W. margin: α of the logits, which come first. num_scales: None halves as long as 4 pixels or
    more can be halved. hidden: channels of the networks in the couplings of the finest scale, twice as many in the
    next; num_blocks, dropout: residual blocks of each.
    log_scale_bound: of the affine couplings. coarse_steps, coarse_hidden, num_bins: spline couplings of the coarsest image, width
    of their networks, pieces of a spline.
    Raises ValueError where image_size cannot be halved as often, or too much is left.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: Sides,
        num_classes: int | None = None,
        margin: float = 1 / 256,
        num_scales: int | None = None,
        num_steps: int = 8,
        hidden: int = 32,
        num_blocks: int = 1,
        dropout: float = 0.0,
        log_scale_bound: float = 1.0,
        coarse_steps: int = 6,
        coarse_hidden: int = 128,
        num_bins: int = 8,
        embedding_dim: int = 64,
    ):
        check_counts(in_channels=in_channels, num_steps=num_steps, hidden=hidden)
        height, width = height_and_width(image_size)
        check_counts(coarse_steps=coarse_steps, coarse_hidden=coarse_hidden, embedding_dim=embedding_dim)
        if num_scales is not None:
            check_counts(num_scales=num_scales)
        check_dropout(dropout)
        if num_blocks < 0 or log_scale_bound <= 0 or num_bins < 2:
            raise ValueError(
                f"network.num_blocks={num_blocks} must not be negative, network.log_scale_bound={log_scale_bound} must be above 0, "
                f"and network.num_bins={num_bins} at least 2"
            )
        num_scales = num_scales or min(_halvings(height), _halvings(width))
        if num_scales == 0 or height % 2**num_scales or width % 2**num_scales:
            raise ValueError(
                f"images of {height}x{width} pixels cannot be halved {max(num_scales, 1)} times, as this "
                f"flow does: choose sides of at least {SMALLEST_SIDE} that are multiples of {2 ** max(num_scales, 1)}, or "
                "set network.num_scales"
            )
        label_dim = embedding_dim if num_classes is not None else None
        coarse, details = in_channels, 3 * in_channels  # channels at every size

        def coupling(kept: int, scale: int) -> AffineCoupling:
            network = CouplingNetwork(
                kept, 2 * (coarse + details - kept), hidden * 2**scale, num_blocks, dropout, label_dim
            )
            return AffineCoupling(network, log_scale_bound, kept)

        whole = f"{height}x{width}"
        scales: list[Transform] = []
        shapes: list[tuple[int, ...]] = []
        for scale in range(num_scales):
            height, width = height // 2, width // 2
            steps = []
            for _ in range(num_steps):
                mixed = Chain([ActNorm(details), InvertibleConv(details)])
                steps += [OnRemainingChannels(mixed, coarse), coupling(coarse + details // 2, scale)]
            scales.append(Chain([Haar(), ActNorm(coarse + details), *steps, coupling(coarse, scale)]))
            shapes.append((coarse + details, height, width))
        size = coarse * height * width
        if size > MOST_NUMBERS:
            raise ValueError(
                f"images of {whole} pixels, halved {num_scales} times, leave {coarse}x{height}x{width} numbers, and "
                f"the coarsest flow takes at most {MOST_NUMBERS}: choose a size with more factors of two"
            )
        splines = spline_steps(size, coarse_steps, num_bins, SPLINE_BOUND, coarse_hidden, COARSE_LAYERS, label_dim or 0)
        scales.append(Chain([Flatten((coarse, height, width)), *splines]))
        shapes.append((size,))
        super().__init__(Chain([Logit(margin), Multiscale(scales, shapes, coarse)]), num_classes, embedding_dim)


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
