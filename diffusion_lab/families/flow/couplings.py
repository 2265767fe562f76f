"""Invertible maps, and the density of data mapped to noise: that of the noise times the change of volume.

    log p(x) = log p(z) + log|det ∂z/∂x|,   z = f(x),   p(z) = N(0, I)                   change of variables      (1)
    f = f_n ∘ … ∘ f_1   ⇒   log|det ∂z/∂x| = Σ_i log|det ∂f_i|                                                   (2)

Every map here has a triangular, diagonal or channel-wise Jacobian, so its log-determinant is a cheap sum, and its
inverse is as cheap as the map:

    actnorm        z = (x − m)·e^{−s}, a number each a channel          −N·Σ_c s_c          Kingma & Dhariwal 2018, section 3.1
    invertible 1×1 z = W x at each of N pixels, W = P L (U + diag d)     N·Σ_c log|d_c|      ibid., section 3.2 and eq. 10
    affine coupling  z_a = x_a,  z_b = (x_b − t(x_a))·e^{−s(x_a)}        −Σ s                Dinh et al. 2017, eq. 7 and 8
    logit          z = log s/(1 − s),  s = α + (1 − 2α)(x + 1)/2     −Σ log(2s(1 − s)/(1 − 2α))  ibid., section 4.1
    Haar           each 2×2 square becomes twice its mean and details    0                  Yu et al. 2020
    multiscale     details are final, the coarse image is mapped further    the sum over scales  ibid.

If details are mapped given the coarse image, log p is the conditional log p(details | coarse), so every scale is a density
of its own. A coupling that moves all details given the coarse image alone makes them Gaussian, N(t(coarse), e^{2s(coarse)}).
Maps are modules: forward(x, e) -> (z, log_det (B,)), inverse(z, e) -> x; e (B, E) is the embedding of the class, or None.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

Batch = Float[Tensor, "b ..."]  # (B, C, H, W) or (B, D)
LogDet = Float[Tensor, " b"]
Embedding = Float[Tensor, "b e"] | None
LEAST_STD = 1e-6  # a channel of the first batch below this is taken as constant


class Transform(nn.Module, ABC):
    """An invertible map z = f(x) with its log|det ∂z/∂x| in nats per sample, and its inverse."""

    @abstractmethod
    def forward(self, x: Batch, e: Embedding = None) -> tuple[Batch, LogDet]:
        """(z, log|det ∂z/∂x|)."""

    @abstractmethod
    def inverse(self, z: Batch, e: Embedding = None) -> Batch:
        """x with f(x) = z."""


class Chain(Transform):
    """f_n ∘ … ∘ f_1, equation (2)."""

    def __init__(self, transforms: Iterable[Transform]) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(transforms)

    def forward(self, x: Batch, e: Embedding = None) -> tuple[Batch, LogDet]:
        log_det = x.new_zeros(len(x))
        for transform in self.transforms:
            x, more = transform(x, e)
            log_det = log_det + more
        return x, log_det

    def inverse(self, z: Batch, e: Embedding = None) -> Batch:
        for transform in reversed(_maps(self.transforms)):
            z = transform.inverse(z, e)
        return z


class ActNorm(Transform):
    """z = (x − m)·e^{−s}, m and s (C,) learned; `fit` initialises them so that the first batch has mean 0 and variance 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(channels))
        self.log_std = nn.Parameter(torch.zeros(channels))

    @torch.no_grad()
    def fit(self, x: Batch) -> None:
        """Set m and e^s to the mean and the standard deviation of each channel over samples and pixels, computed in float64."""
        values = x.double().transpose(0, 1).flatten(1)
        self.mean.copy_(values.mean(1))
        self.log_std.copy_(values.std(1, correction=0).clamp(min=LEAST_STD).log())

    def forward(self, x: Batch, e: Embedding = None) -> tuple[Batch, LogDet]:
        z = (x - _by_channel(self.mean, x)) * _by_channel((-self.log_std).exp(), x)
        return z, (-self.log_std.sum() * _pixels(x)).expand(len(x))

    def inverse(self, z: Batch, e: Embedding = None) -> Batch:
        return z * _by_channel(self.log_std.exp(), z) + _by_channel(self.mean, z)


class InvertibleConv(Transform):
    """z = W x at every pixel, W = P·L·(U + diag d) (C, C), initially a random rotation.

    P, a permutation, and the signs of d stay fixed; L has ones on its diagonal, so |det W| = Π|d| and the inverse
    solves two triangular systems. Drawn from torch's global generator.
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        rotation, _ = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64))
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        self.register_buffer("permutation", permutation.float())
        self.register_buffer("sign", diagonal.sign().float())
        self.lower = nn.Parameter(lower.tril(-1).float())
        self.upper = nn.Parameter(upper.triu(1).float())
        self.log_diagonal = nn.Parameter(diagonal.abs().log().float())

    def forward(self, x: Batch, e: Embedding = None) -> tuple[Batch, LogDet]:
        with _exact(x):
            lower, upper = self._factors()
            z = torch.einsum("ij,bj...->bi...", self.permutation @ lower @ upper, x)
        return z, (self.log_diagonal.sum() * _pixels(x)).expand(len(x))

    def inverse(self, z: Batch, e: Embedding = None) -> Batch:
        with _exact(z):
            lower, upper = self._factors()
            columns = self.permutation.T @ z.transpose(0, 1).flatten(1)  # P⁻¹ = Pᵀ
            columns = torch.linalg.solve_triangular(lower, columns, upper=False, unitriangular=True)
            columns = torch.linalg.solve_triangular(upper, columns, upper=True)
        return columns.unflatten(1, (len(z), *z.shape[2:])).transpose(0, 1)

    def _factors(self) -> tuple[Tensor, Tensor]:
        """(L with unit diagonal, U with d = sign·e^{log|d|} on the diagonal)."""
        one = torch.eye(len(self.sign), dtype=self.lower.dtype, device=self.lower.device)
        return self.lower.tril(-1) + one, self.upper.triu(1) + torch.diag(self.sign * self.log_diagonal.exp())


class AffineCoupling(Transform):
    """z_a = x_a,  z_b = (x_b − t)·e^{−s}, with t and s computed from x_a by any network, which is never inverted.

    conditioner(x_a, e) -> [t, raw s] along the channels, twice as many as x_b has; x_a are the first `kept` channels, None: ⌊C/2⌋.
    s = bound·tanh(raw/bound) keeps factors within e^{±bound}, which also bounds the growth of rounding errors.
    """

    def __init__(
        self, conditioner: Callable[[Batch, Embedding], Batch], bound: float = 2.0, kept: int | None = None
    ) -> None:
        super().__init__()
        self.conditioner, self.bound, self.kept = conditioner, bound, kept

    def forward(self, x: Batch, e: Embedding = None) -> tuple[Batch, LogDet]:
        x_a, x_b = split(x, self.kept)
        shift, log_scale = self._affine(x_a, e)
        z_b = (x_b - shift) * (-log_scale).exp()
        return torch.cat([x_a, z_b], 1), -log_scale.flatten(1).sum(1)

    def inverse(self, z: Batch, e: Embedding = None) -> Batch:
        z_a, z_b = split(z, self.kept)
        shift, log_scale = self._affine(z_a, e)
        return torch.cat([z_a, z_b * log_scale.exp() + shift], 1)

    def _affine(self, x_a: Batch, e: Embedding) -> tuple[Batch, Batch]:
        shift, raw = self.conditioner(x_a, e).to(x_a.dtype).chunk(2, 1)
        return shift, self.bound * torch.tanh(raw / self.bound)


class OnRemainingChannels(Transform):
    """z_a = x_a,  z_b = f(x_b): the first `kept` channels are unchanged, and f does not depend on them."""

    def __init__(self, transform: Transform, kept: int) -> None:
        super().__init__()
        self.transform, self.kept = transform, kept

    def forward(self, x: Batch, e: Embedding = None) -> tuple[Batch, LogDet]:
        x_a, x_b = split(x, self.kept)
        z_b, log_det = self.transform(x_b, e)
        return torch.cat([x_a, z_b], 1), log_det

    def inverse(self, z: Batch, e: Embedding = None) -> Batch:
        z_a, z_b = split(z, self.kept)
        return torch.cat([z_a, self.transform.inverse(z_b, e)], 1)


class Logit(Transform):
    """z = log s/(1 − s), s = α + (1 − 2α)·(x + 1)/2, for x in [−1, 1]: stretches the ends, where most pixels of images lie.

    margin: α in (0, ½). With α = 1/L the bin of the first of L levels becomes log 2 wide instead of 2/L, so that a flow need not
    compress the rest to resolve it. Samples lie in [−1, 1] up to 2α/(1 − 2α) on both sides.
    """

    def __init__(self, margin: float) -> None:
        super().__init__()
        if not 0 < margin < 0.5:
            raise ValueError(f"network.margin={margin} must lie between 0 and 0.5")
        self.margin = margin

    def forward(self, x: Batch, e: Embedding = None) -> tuple[Batch, LogDet]:
        share = self.margin + (1 - 2 * self.margin) * (x + 1) / 2
        z = share.log() - (-share).log1p()
        slope = math.log((1 - 2 * self.margin) / 2) - share.log() - (-share).log1p()
        return z, slope.flatten(1).sum(1)

    def inverse(self, z: Batch, e: Embedding = None) -> Batch:
        return 2 * (z.sigmoid() - self.margin) / (1 - 2 * self.margin) - 1


class Haar(Transform):
    """(B, C, H, W) -> (B, 4C, H/2, W/2) = [coarse, details]: an orthonormal change of basis in every 2×2 square of pixels.

    The first C channels are twice the means of the squares, an image of half the size; the others, a third each, are the
    differences from left to right, from top to bottom, and along the diagonals. H and W are even.
    """

    basis: Tensor

    def __init__(self) -> None:
        super().__init__()
        signs = [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]
        self.register_buffer("basis", torch.tensor(signs) / 2, persistent=False)

    def forward(self, x: Batch, e: Embedding = None) -> tuple[Batch, LogDet]:
        squares = nn.functional.pixel_unshuffle(x, 2).unflatten(1, (-1, 4))
        with _exact(x):
            z = torch.einsum("ij,bcjhw->bichw", self.basis, squares).flatten(1, 2)
        return z, x.new_zeros(len(x))

    def inverse(self, z: Batch, e: Embedding = None) -> Batch:
        with _exact(z):
            squares = torch.einsum("ij,bichw->bcjhw", self.basis, z.unflatten(1, (4, -1)))  # H⁻¹ = Hᵀ
        return nn.functional.pixel_shuffle(squares.flatten(1, 2), 2)


class Flatten(Transform):
    """(B, *shape) -> (B, D)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Batch, e: Embedding = None) -> tuple[Batch, LogDet]:
        return x.flatten(1), x.new_zeros(len(x))

    def inverse(self, z: Batch, e: Embedding = None) -> Batch:
        return z.unflatten(1, self.shape)


class Multiscale(Transform):
    """z (B, D) = [z_n, …, z_1]: after each scale the first `kept` channels are mapped further, the others are final.

    scales: n maps; shapes: of their outputs, (C, H, W), or (D,) for the last.
    """

    def __init__(self, scales: Sequence[Transform], shapes: Sequence[tuple[int, ...]], kept: int) -> None:
        super().__init__()
        self.scales, self.shapes, self.kept = nn.ModuleList(scales), list(shapes), kept

    def forward(self, x: Batch, e: Embedding = None) -> tuple[Batch, LogDet]:
        log_det = x.new_zeros(len(x))
        done: list[Tensor] = []
        for scale in self.scales:
            x, more = scale(x, e)
            log_det = log_det + more
            if scale is not self.scales[-1]:
                x, rest = split(x, self.kept)
                done.insert(0, rest.flatten(1))
        return torch.cat([x.flatten(1), *done], 1), log_det

    def inverse(self, z: Batch, e: Embedding = None) -> Batch:
        *finer, coarsest = _maps(self.scales)
        shapes = [self.shapes[-1], *((channels - self.kept, *side) for channels, *side in self.shapes[-2::-1])]
        first, *rest = z.split([math.prod(shape) for shape in shapes], 1)
        x = coarsest.inverse(first.unflatten(1, shapes[0]), e)
        for scale, part, shape in zip(reversed(finer), rest, shapes[1:], strict=True):
            x = scale.inverse(torch.cat([x, part.unflatten(1, shape)], 1), e)
        return x


def split(x: Batch, kept: int | None = None) -> tuple[Batch, Batch]:
    """(the first `kept` channels, None: ⌊C/2⌋; the others)."""
    kept = x.shape[1] // 2 if kept is None else kept
    return x[:, :kept], x[:, kept:]


def standard_normal_log_prob(z: Batch) -> Float64[Tensor, " b"]:
    """log p(z) of (1), nats, summed over the dimensions in float64."""
    z = z.double().flatten(1)
    return -0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi))


@torch.no_grad()
def fit_actnorms(transform: Transform, x: Batch, e: Embedding = None) -> None:
    """Data-dependent initialisation: each actnorm is fitted to the output of the maps before it, already fitted, on the batch x."""
    hooks = [
        module.register_forward_pre_hook(lambda norm, given: norm.fit(given[0]))
        for module in transform.modules()
        if isinstance(module, ActNorm)
    ]
    try:
        transform(x, e)
    finally:
        for hook in hooks:
            hook.remove()


def _maps(modules: nn.ModuleList) -> list[Transform]:
    return [module for module in modules if isinstance(module, Transform)]


def _by_channel(values: Float[Tensor, " c"], like: Batch) -> Tensor:
    return values.reshape(1, -1, *[1] * (like.ndim - 2))


def _pixels(x: Batch) -> int:
    return x[0, 0].numel()


def _exact(x: Batch) -> torch.autocast:
    """Disable autocast inside, because the inverse of a rounded map is another map."""
    return torch.autocast(x.device.type, enabled=False)
