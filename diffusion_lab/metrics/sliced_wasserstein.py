"""The sliced Wasserstein distance of patches of Laplacian pyramids, which needs no network (Karras et al. 2018, section 5).

An image becomes a pyramid of frequency bands (Burt & Adelson 1983): the image minus its enlarged half-size version, and so on,
until a side would fall below 16 pixels. From each band of each image come 128 patches of 7×7 pixels. Patches of one band are
normalised, channel by channel, by the mean and the standard deviation of their own set. Two sets are then compared by

    SWD(A, B) = mean over directions θ of W_1(A·θ, B·θ),    W_1 of two sets of as many numbers = mean |a_(i) − b_(i)|, both sorted

over 4 × 128 random directions. Numbers are given times 10³, as in table 1. For data with one or three spatial axes, patches have
7 or 7×7×7 numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import EllipsisType

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from diffusion_lab.metrics.metric import Metric, Naming, Need, Scores, Subject
from diffusion_lab.metrics.reference import UnmeasurableError
from diffusion_lab.store.measures import IMAGES, LOW, Measure

SMALLEST = 16  # pixels of the shorter side of the coarsest band, if an image has as many
PATCH = 7
SCALE = 1000.0
_BINOMIAL = (1, 4, 6, 4, 1)  # over 16: the filter of the pyramid along each axis
_REPEATS, _DIRECTIONS = 4, 128
_NAME = "sliced_wasserstein"
_AGREES = (*(part for part in IMAGES if part != "features"), _NAME)
_NOTE = (
    "features of a network detect more: use features=inception features.inception.download=true, or train features of your "
    "own with diffusion-lab features"
)


@dataclass(frozen=True)
class SlicedWasserstein(Metric):
    """10³ times the sliced Wasserstein distance of patches, the mean over the bands of Laplacian pyramids, and its floor.

    Uses at most num_samples images of each kind. patches: per image and band.
    """

    needs = (Need.SAMPLES, Need.REAL_IMAGES)
    least = (("num_images", 2), ("patches", 1))

    num_images: int = 512
    patches: int = 128

    def measures(self, namings: Sequence[Naming]) -> Iterable[Measure]:
        meaning, floor = "10³ times the sliced Wasserstein distance of patches, without a network", f"{_NAME}_floor"
        yield Measure(_NAME, "SWD × 10³", meaning=meaning, better=LOW, agrees=_AGREES, floor_of=floor, logs=True)
        yield Measure(
            floor, "  its floor", meaning="the same distance between real images", agrees=_AGREES, column=False
        )

    def score(self, subject: Subject) -> Scores:
        scores = Scores()
        if len(subject.data.shape) == 1:
            raise UnmeasurableError("points have no patches")
        view, settings = subject.views[0], subject.settings
        samples, floor = view.drawn.images, f"{_NAME}_floor"
        view.drawn.vectors()  # raises if samples are not finite
        size = min(self.num_images, len(samples), subject.data.size(settings.reference))
        real, as_many = subject.images(settings.reference, size), min(size, view.num_held_out)
        scores.protocol[_NAME] = {"num_images": size, "patches": self.patches}
        bands = sliced_wasserstein(samples[:size], real, self.patches, settings.seed)
        scores.record(_NAME, _mean(bands))
        by_band = ", ".join(f"{band} {value:.1f}" for band, value in bands.items())
        scores.details[_NAME] = f"n = {size} vs as many, bands {by_band}"
        if len(subject.data.shape) == 3 and subject.data.num_levels is not None:  # the data that these networks accept
            scores.details[_NAME] += f"; {_NOTE}"
        if as_many < 2:
            scores.record(floor, None, view.no_floor)
            return scores
        held_out = subject.images(settings.held_out_split, as_many)
        scores.record(floor, _mean(sliced_wasserstein(held_out, real[:as_many], self.patches, settings.seed)))
        scores.details[floor] = view.floor_detail(as_many, size, "as many")
        return scores


def _mean(bands: dict[str, float]) -> float:
    return sum(bands.values()) / len(bands)


def sliced_wasserstein(x: Tensor, y: Tensor, patches: int, seed: int) -> dict[str, float]:
    """10³·SWD of two sets of images (n, C, *spatial), as many of each, band by band: "32x32" -> distance, the finest first.

    patches: of each image and band. Raises UnmeasurableError for images smaller than a patch.
    """
    if min(x.shape[2:]) < PATCH:
        sides = "×".join(map(str, x.shape[:1:-1]))
        raise UnmeasurableError(f"patches of {PATCH}×{PATCH} pixels do not fit into images of {sides}")
    generator = torch.Generator().manual_seed(seed % 2**63)
    found = {}
    for ours, theirs in zip(laplacian_pyramid(x), laplacian_pyramid(y), strict=True):
        first, second = (normalised(sampled_patches(band, patches, generator)) for band in (ours, theirs))
        found["x".join(map(str, ours.shape[2:]))] = SCALE * _distance(first, second, generator)
    return found


def laplacian_pyramid(x: Tensor) -> list[Tensor]:
    """Bands of x (n, C, *spatial), the finest first. Enlarging each to the size of the one before and adding them up gives x."""
    bands = []
    while min(x.shape[2:]) >= 2 * SMALLEST:
        smaller = _filtered(x)[_every_second(x)]
        bands.append(x - enlarged(smaller, x.shape[2:]))
        x = smaller
    return [*bands, x]


def enlarged(x: Tensor, size: Sequence[int]) -> Tensor:
    """x (n, C, ⌈H/2⌉, …) at every second pixel of `size`, zeros between, filtered and scaled so that a constant stays one."""
    wide = x.new_zeros(*x.shape[:2], *size)
    wide[_every_second(x)] = x
    return 2 ** len(size) * _filtered(wide)


def _every_second(x: Tensor) -> tuple[EllipsisType | slice, ...]:
    """Indices of every second position along each spatial axis."""
    return (..., *[slice(None, None, 2)] * (x.ndim - 2))


def _filtered(x: Tensor) -> Tensor:
    row = torch.tensor(_BINOMIAL, dtype=x.dtype, device=x.device) / 16
    channels, axes = x.shape[1], x.ndim - 2
    convolve = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
    x = F.pad(x, (2, 2) * axes, mode="reflect")
    for axis in reversed(range(axes)):
        kernel = row.view(1, 1, *[5 if each == axis else 1 for each in range(axes)])
        x = convolve(x, kernel.expand(channels, *kernel.shape[1:]), groups=channels)
    return x


def sampled_patches(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(n, C, *spatial) -> (n·count, C, 7, …), at places drawn evenly in each image."""
    starts = [torch.randint(side - PATCH + 1, (len(x), count), generator=generator) for side in x.shape[2:]]
    axes = range(len(starts))
    image = torch.arange(len(x)).view(-1, 1, *[1] * len(starts))
    places = [
        (start[..., None] + torch.arange(PATCH)).view(len(x), count, *[PATCH if each == axis else 1 for each in axes])
        for axis, start in enumerate(starts)
    ]
    return x.movedim(1, -1)[(image, *places)].movedim(-1, 2).flatten(0, 1)


def normalised(patches: Tensor) -> Tensor:
    """(n, C, 7, …) -> (n, C·7·…): each channel with mean 0 and standard deviation 1 over the set; one that never varies with 0."""
    across = (0, *range(2, patches.ndim))
    mean = patches.mean(across, keepdim=True)
    std = (patches - mean).square().mean(across, keepdim=True).sqrt()
    return torch.where(std > 0, (patches - mean) / std, torch.zeros_like(patches)).flatten(1)


def _distance(x: Tensor, y: Tensor, generator: torch.Generator) -> float:
    found = []
    for _ in range(_REPEATS):
        directions = torch.randn(x.shape[1], _DIRECTIONS, generator=generator)
        directions = (directions / directions.norm(dim=0)).to(x)
        projected = [(part @ directions).T.contiguous().sort(dim=1).values for part in (x, y)]
        found.append((projected[0] - projected[1]).abs().mean())
    return float(torch.stack(found).double().mean())
