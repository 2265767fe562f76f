"""Clipping of x̂_0. Images lie in [−1, 1], but a network's prediction may not.

A sampler builds each step from x̂_0, so a prediction out of range moves the step out of range, and the next one is worse.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from .shapes import Images, Number


@dataclass(frozen=True)
class Clipping(ABC):
    """x̂_0 -> x̂_0, in sampling and scoring; objectives use the unclipped prediction."""

    @abstractmethod
    def __call__(self, x_0: Images) -> Images:
        """The clipped x̂_0; the same tensor if nothing changes."""

    def in_range(self, x: Images) -> Images:
        """A finished sample, brought into the range of the data."""
        return x.clamp(-1, 1)


@dataclass(frozen=True)
class NoClipping(Clipping):
    """No clipping, for data without bounds."""

    def __call__(self, x_0: Images) -> Images:
        return x_0

    def in_range(self, x: Images) -> Images:
        return x


@dataclass(frozen=True)
class Clamp(Clipping):
    """x̂_0 clamped to [−1, 1] (Ho et al. 2020, in their code)."""

    def __call__(self, x_0: Images) -> Images:
        return x_0.clamp(-1, 1)


@dataclass(frozen=True)
class DynamicThreshold(Clipping):
    """x̂_0 clamped to [−r, r] and divided by r, r = max(1, the `share` quantile of |x̂_0|) of each image.

    With strong guidance, at most a share 1 − share of the pixels is then saturated (Saharia et al. 2022, Imagen, section 2.3).
    """

    share: Number = 0.995

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"clip_x_0.share={self.share} must be a share of the pixels, above 0 and at most 1")

    def __call__(self, x_0: Images) -> Images:
        r = x_0.abs().flatten(1).float().quantile(self.share, dim=1).clamp(min=1).to(x_0.dtype)
        r = r.reshape(-1, *[1] * (x_0.ndim - 1))
        return x_0.clamp(-r, r) / r


def as_clipping(choice: bool | Clipping) -> Clipping:
    """True is Clamp, False is NoClipping, a Clipping is returned as it is. ValueError for anything else."""
    if not isinstance(choice, bool | Clipping):
        raise ValueError(f"clip_x_0={choice} must be true, false or a Clipping")
    return Clamp() if choice is True else NoClipping() if choice is False else choice
