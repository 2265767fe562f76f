"""The sliced Wasserstein distance of patches of Laplacian pyramids, which needs no network (Karras et al. 2018, section 5).

An image becomes a pyramid of frequency bands (Burt & Adelson 1983): the whole, less what is left of it at half the size, and so on,
until a side would fall below 16 pixels. From each band of each image come 128 patches of 7×7 pixels. Patches of one band are
normalised, channel by channel, by the mean and the standard deviation of their own set. Two sets are then compared by

    SWD(A, B) = mean over directions θ of W_1(A·θ, B·θ),    W_1 of two sets of as many numbers = mean |a_(i) − b_(i)|, both sorted

over 4 × 128 random directions. Numbers are given times 10³, as in table 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from diffusion_lab.metrics.statistics import UnmeasurableError

SMALLEST = 16  # pixels of the shorter side of the coarsest band, where an image has as many
PATCH = 7
SCALE = 1000.0
_BINOMIAL = (1, 4, 6, 4, 1)  # over 16: the filter of the pyramid, along each side
_REPEATS, _DIRECTIONS = 4, 128


def sliced_wasserstein(x: Tensor, y: Tensor, patches: int, seed: int) -> dict[str, float]:
    """10³·SWD of two sets of images (n, C, H, W), as many of each, band by band: "32x32" -> distance, the finest first.

    patches: of each image and band. Raises UnmeasurableError for images smaller than a patch.
    """
    if x.shape != y.shape:
        raise ValueError(
            f"both sets must have the same number of images of the same shape, got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if min(x.shape[-2:]) < PATCH:
        raise UnmeasurableError(
            f"patches of {PATCH}×{PATCH} pixels do not fit into images of {x.shape[-1]}×{x.shape[-2]}"
        )
    generator = torch.Generator().manual_seed(seed % 2**63)
    found = {}
    for ours, theirs in zip(laplacian_pyramid(x), laplacian_pyramid(y), strict=True):
        sets = [normalised(sampled_patches(band, patches, generator)) for band in (ours, theirs)]
        found[f"{ours.shape[-2]}x{ours.shape[-1]}"] = SCALE * _distance(*sets, generator)
    return found


def projections(shape: Sequence[int]) -> int:
    """How many directions a patch of images of this shape, (C, H, W), is projected on, over all bands."""
    return _REPEATS * _DIRECTIONS * len(laplacian_pyramid(torch.zeros(1, *shape)))


def laplacian_pyramid(x: Tensor) -> list[Tensor]:
    """Bands of x (n, C, H, W), the finest first; their sum, each brought up to the size of the one before, is x again."""
    bands = []
    while min(x.shape[-2:]) >= 2 * SMALLEST:
        smaller = _filtered(x)[..., ::2, ::2]
        bands.append(x - enlarged(smaller, x.shape[-2:]))
        x = smaller
    return [*bands, x]


def enlarged(x: Tensor, size: Sequence[int]) -> Tensor:
    """x (n, C, ⌈H/2⌉, ⌈W/2⌉) at every second pixel of (H, W), zeros between, filtered; times 4, so that a constant stays one."""
    wide = x.new_zeros(*x.shape[:2], *size)
    wide[..., ::2, ::2] = x
    return 4 * _filtered(wide)


def _filtered(x: Tensor) -> Tensor:
    row = torch.tensor(_BINOMIAL, dtype=x.dtype, device=x.device) / 16
    channels = x.shape[1]
    x = functional.pad(x, (2, 2, 2, 2), mode="reflect")
    for kernel in (row.view(1, 1, 1, 5), row.view(1, 1, 5, 1)):
        x = functional.conv2d(x, kernel.expand(channels, -1, -1, -1), groups=channels)
    return x


def sampled_patches(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(n, C, H, W) -> (n·count, C, 7, 7), at places drawn evenly in each image."""
    height, width = x.shape[-2:]
    top = torch.randint(height - PATCH + 1, (len(x), count), generator=generator)
    left = torch.randint(width - PATCH + 1, (len(x), count), generator=generator)
    offset = torch.arange(PATCH)
    rows = (top[..., None] + offset)[..., :, None]
    columns = (left[..., None] + offset)[..., None, :]
    image = torch.arange(len(x))[:, None, None, None]
    return x.permute(0, 2, 3, 1)[image, rows, columns].permute(0, 1, 4, 2, 3).flatten(0, 1)


def normalised(patches: Tensor) -> Tensor:
    """(n, C, 7, 7) -> (n, C·49): each channel with mean 0 and standard deviation 1 over the set; one that never varies with 0."""
    mean = patches.mean((0, 2, 3), keepdim=True)
    std = (patches - mean).square().mean((0, 2, 3), keepdim=True).sqrt()
    return torch.where(std > 0, (patches - mean) / std, torch.zeros_like(patches)).flatten(1)


def _distance(x: Tensor, y: Tensor, generator: torch.Generator) -> float:
    found = []
    for _ in range(_REPEATS):
        directions = torch.randn(x.shape[1], _DIRECTIONS, generator=generator)
        directions = (directions / directions.norm(dim=0)).to(x)
        projected = [(part @ directions).T.contiguous().sort(dim=1).values for part in (x, y)]
        found.append((projected[0] - projected[1]).abs().mean())
    return float(torch.stack(found).double().mean())
