"""How far the patches of samples are from those of real images: a ruler that needs no network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffusion_lab.metrics.duration import say_if_long
from diffusion_lab.metrics.metric import Metric, Naming, Need
from diffusion_lab.metrics.settings import check_at_least
from diffusion_lab.metrics.sliced import projections, sliced_wasserstein
from diffusion_lab.metrics.statistics import UnmeasurableError
from diffusion_lab.store.measures import IMAGES, LOW, Measure

if TYPE_CHECKING:
    from diffusion_lab.metrics.scores import Scores
    from diffusion_lab.metrics.subject import Subject

_NAME = "sliced_wasserstein"
_AGREES = (*(part for part in IMAGES if part != "features"), _NAME)
_NOTE = "features of a network detect more: use features=inception or dinov2_s with download=true"


@dataclass(frozen=True)
class SlicedWasserstein(Metric):
    """10³ times the sliced Wasserstein distance of patches, the mean over the bands of Laplacian pyramids, and its floor.

    Of at most num_images samples, as many real images, and, for the floor, as many held-out ones. patches: of each image and band.
    """

    needs = (Need.REAL_IMAGES,)

    num_images: int = 512
    patches: int = 128

    def __post_init__(self) -> None:
        check_at_least(2, "num_images", self.num_images)
        check_at_least(1, "patches", self.patches)

    def measures(self, namings: Sequence[Naming]) -> Iterable[Measure]:
        meaning, floor = "10³ times the sliced Wasserstein distance of patches, without a network", f"{_NAME}_floor"
        yield Measure(_NAME, "SWD × 10³", meaning=meaning, better=LOW, agrees=_AGREES, floor_of=floor, logs=True)
        yield Measure(
            floor, "  its floor", meaning="the same distance between real images", agrees=_AGREES, column=False
        )

    def score(self, subject: Subject, scores: Scores) -> None:
        if len(subject.data.shape) != 3:
            raise UnmeasurableError("points have no patches")
        view, settings = subject.views[0], subject.settings
        samples, names = view.drawn.images, [_NAME, f"{_NAME}_floor"]
        view.drawn.vectors()  # says so if samples are not finite
        size = min(self.num_images, len(samples), subject.data.size(settings.reference))
        real = _images(subject, settings.reference, size)
        held_out = _images(subject, settings.held_out_split, min(size, view.num_held_out))
        scores.protocol[_NAME] = {"num_images": size, "patches": self.patches}
        sorted_numbers = 2.0 * (size + len(held_out)) * self.patches * projections(subject.data.shape)
        # sorting one takes as long as about 1,800 multiplications, and the matrix products much less
        say_if_long("the sliced Wasserstein distance", 1800 * sorted_numbers)
        bands = self._compare(samples[:size], real, settings.seed)
        scores.record(names[0], _mean(bands))
        by_band = ", ".join(f"{band} {value:.1f}" for band, value in bands.items())
        scores.details[names[0]] = f"n = {size} vs as many, bands {by_band}; {_NOTE}"
        if len(held_out) < 2:
            scores.record(
                names[1], None, f"needs real images besides the reference, but {view.compared} are all there are"
            )
            return
        scores.record(names[1], _mean(self._compare(held_out, real[: len(held_out)], settings.seed)))
        scores.details[names[1]] = f"n = {len(held_out)} real {settings.held_out_split} images vs as many" + (
            "" if len(held_out) == size else "; a different n, so not comparable"
        )

    def _compare(self, x: Tensor, y: Tensor, seed: int) -> dict[str, float]:
        return sliced_wasserstein(x, y, self.patches, seed)


def _images(subject: Subject, split: str, size: int) -> Tensor:
    """A fixed choice of a split, (n, C, H, W)."""
    shown = [x for x, _ in subject.data.batches(split, 256, limit=size)] if size else []
    return torch.cat(shown)[:size] if shown else torch.empty(0, *subject.data.shape)


def _mean(bands: dict[str, float]) -> float:
    return sum(bands.values()) / len(bands)
