"""Networks of flows: an invertible map, the embedding of the class, and initialisation from data.

For points: actnorms, invertible matrices and rational-quadratic spline couplings,

    z_a = x_a,  z_b = g(x_b; x_a): in every dimension g is an increasing spline of `num_bins` pieces on [−bound, bound] and the
    identity beyond (Durkan et al. 2019, "Neural spline flows", section 3; the splines are zuko's).

For images, from coarse to fine: splines for the coarsest image, and at every size affine couplings for the next details,

    logits of the pixels -> Haar -> details | coarse -> Haar -> details | coarse -> … -> the coarsest image

Details pass `num_steps` steps of actnorm -> 1×1 convolution -> affine coupling, the steps of Glow (Kingma & Dhariwal 2018,
figure 2), here given the coarse image (Yu et al. 2020, "Wavelet Flow"), and end in a coupling of all details, Glow's
learned prior. The shape of an object is thus determined by few numbers, through couplings that depend on all of them.
The theory is in `couplings.py`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from zuko.transforms import MonotonicRQSTransform

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
    fit_actnorms,
    split,
)
from diffusion_lab.networks.blocks import zero
from diffusion_lab.networks.embeddings import class_vectors
from diffusion_lab.networks.sizes import Sides, check_counts, check_dropout, height_and_width


class Flow(nn.Module):
    """network(x (B, *shape) float32, y int64 (B,) | None) -> z (B, D), log|det ∂z/∂x| (B,); inverse(z, y) -> x.

    transform: the map. num_classes: None for an unconditional flow; embedding_dim: size of the class embedding of its couplings.
    `initialised` is a buffer, so initialisation is saved with the weights and not repeated.
    """

    initialised: Tensor

    def __init__(self, transform: Transform, num_classes: int | None, embedding_dim: int):
        super().__init__()
        self.transform = transform
        self.classes = nn.Embedding(num_classes, embedding_dim) if num_classes is not None else None
        self.register_buffer("initialised", torch.tensor(False))
        self._known_as_initialised = False

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.transform(x, self._embedded(y))

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.transform.inverse(z, self._embedded(y))

    @property
    def has_started(self) -> bool:
        """`initialised`, which is read from a GPU only until it is true."""
        self._known_as_initialised = self._known_as_initialised or bool(self.initialised)
        return self._known_as_initialised

    @torch.no_grad()
    def initialise(self, x: Tensor, y: Tensor | None = None) -> None:
        """Fit every actnorm to the batch x, the global batch of all ranks."""
        fit_actnorms(self.transform, x, self._embedded(y))
        self.initialised.fill_(True)

    def _embedded(self, y: Tensor | None) -> Tensor | None:
        return class_vectors(self.classes, y)


class SplineFlow(Flow):
    """Points (B, in_channels), `num_steps` steps of actnorm -> matrix -> spline coupling.

    hidden, num_layers: of the networks in the couplings. ValueError if a size is not a positive whole number.
    """

    takes_points = True

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
    """For vectors (B, dims): `num_steps` times actnorm -> matrix -> spline coupling, then actnorm. embedding_dim 0: no classes."""
    kept = dims // 2
    steps: list[Transform] = []
    for _ in range(num_steps):
        conditioner = PointNetwork(kept, (dims - kept) * (3 * num_bins - 1), hidden, num_layers, embedding_dim)
        mixing = [InvertibleConv(dims)] if dims > 1 else []
        steps += [ActNorm(dims), *mixing, SplineCoupling(conditioner, num_bins, bound)]
    return [*steps, ActNorm(dims)]


class SplineCoupling(Transform):
    """x (B, D): the first ⌊D/2⌋ numbers are unchanged and determine splines for the others; D = 1: one unconditional spline.

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
    """(B, in_features), e (B, embedding_dim) | None -> (B, out_features), initially zero; in_features = 0 uses e alone."""

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


SMALLEST_SIDE = 4  # smallest side that is halved, if the number of halvings is not set
MOST_NUMBERS = 1024  # of the coarsest image; the matrices of the splines have their square
SPLINE_BOUND = 5.0  # ends of the splines of the coarsest image, in standard deviations
COARSE_LAYERS = 2  # of the networks in its couplings


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
    """t and s of a coupling: a 3×3 convolution, residual blocks, and a 3×3 convolution initialised to zero (the identity).

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
    """h + W_2 dropout(SiLU((1 + scale(e))·W_1 SiLU(h) + shift(e))): W_1 a 3×3 convolution, W_2 a 1×1 one initialised to zero."""

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
    """The number of halvings of a side while it has 4 pixels or more."""
    return 0 if side % 2 or side < SMALLEST_SIDE else 1 + _halvings(side // 2)
