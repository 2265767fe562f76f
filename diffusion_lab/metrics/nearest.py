"""The training image nearest to each sample, in pixels and in features, from one pass over the training images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffusion_lab.metrics.duration import say_if_long
from diffusion_lab.metrics.reference import BATCH_SIZE
from diffusion_lab.metrics.sampling import quantise

if TYPE_CHECKING:
    from diffusion_lab.metrics.subject import Subject

PIXELS = "pixels"
SHOWN = 12  # samples in the picture
_MOST_VALUES = 2**25  # of training features that are kept for other scores
_ROWS = 1024  # whose distances to a block of training images are in memory at once


class NearestImages:
    """Of each row of `rows` (n, D) the nearest of all vectors that `see` is given, block by block.

    index: int64 (n,), the number of that vector. Among vectors that are as near up to the rounding of float32, any may be found.
    """

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows.float()
        self.index = torch.full((len(rows),), -1, device=rows.device)
        self._found = torch.zeros_like(self.rows)
        self._least = torch.full((len(rows),), torch.inf, device=rows.device)

    def see(self, vectors: Tensor, first: int) -> None:
        """vectors (B, D), whose numbers are first, first + 1, …"""
        half_square = vectors.square().sum(dim=1) / 2
        for start in range(0, len(self.rows), _ROWS):
            part = slice(start, start + _ROWS)
            # ‖x − r‖²/2 − ‖r‖²/2, by a matrix product
            least, place = (half_square - self.rows[part] @ vectors.T).min(dim=1)
            nearer = least < self._least[part]
            self._least[part][nearer] = least[nearer]
            self.index[part][nearer] = place[nearer] + first
            self._found[part][nearer] = vectors[place[nearer]]

    @property
    def distances(self) -> Tensor:
        """float64 (n,), from each row to what was found, without the cancellation of the matrix product."""
        return (self.rows.double() - self._found.double()).norm(dim=1)


@dataclass(frozen=True)
class NearestSearch:
    """embed: images (B, *shape) as the data would store them -> vectors (B, D). of_samples (n, D), of_held_out (m, D): what of them
    is nearest. known: the vectors of all training images, where they were computed before."""

    embed: Callable[[Tensor], Tensor]
    of_samples: NearestImages
    of_held_out: NearestImages
    known: Tensor | None = None

    def see(self, images: Tensor, first: int) -> None:
        """Training images, whose numbers are first, first + 1, …"""
        if self.known is not None and first < len(self.known):
            vectors = self.known[first : first + len(images)].to(images.device)
        else:
            vectors = self.embed(images).float()
        self.of_samples.see(vectors, first)
        self.of_held_out.see(vectors, first)


def nearest_training_images(subject: Subject, num_held_out: int) -> dict[str, NearestSearch]:
    """By pixels, of the samples that are kept as images, and by each set of features, of all samples; by name.

    Training image i of N is number i, and mirrored, where training shows it so, number i + N. UnmeasurableError if a sample is not
    finite.
    """
    data, device, total, done = subject.data, subject.views[0].device, subject.data.num_trained_on, 0
    searches = _searches(subject, num_held_out)
    compared = sum(search.of_samples.rows.numel() + search.of_held_out.rows.numel() for search in searches.values())
    # float32, in half the time
    say_if_long(f"the nearest of {total:,} training images", float(total) * (1 + data.flip) * compared / 2, device)
    with torch.no_grad():
        for x, _ in data.batches("train", BATCH_SIZE, limit=total):
            shown = quantise(x.to(device), data.num_levels)
            for images, first in [(shown, done)] + ([(shown.flip(-1), total + done)] if data.flip else []):
                for search in searches.values():
                    search.see(images, first)
            done += len(x)
            subject.progress("nearest training images", done, total)
    return searches


def _searches(subject: Subject, num_held_out: int) -> dict[str, NearestSearch]:
    drawn, device, total = subject.drawn, subject.views[0].device, subject.data.num_trained_on
    split = subject.settings.unseen_split
    held_out = [x.flatten(1) for x, _ in subject.data.batches(split, BATCH_SIZE, limit=num_held_out)]
    sides = drawn.finite(drawn.images).flatten(1), torch.cat(held_out)
    searches = {PIXELS: NearestSearch(lambda x: x.flatten(1), *(NearestImages(rows.to(device)) for rows in sides))}
    for view in subject.views:
        sides = view.drawn.vectors(), view.reference.vectors(split, num_held_out)
        limit = None if total == subject.data.num_train else total
        known = view.reference.vectors("train", limit) if total * view.features.dim <= _MOST_VALUES else None
        searches[view.features.name] = NearestSearch(
            view.features, *(NearestImages(rows.to(device)) for rows in sides), known
        )
    return searches


def nearest_picture(subject: Subject, searches: Mapping[str, NearestSearch]) -> Tensor:
    """A row of at most SHOWN samples, the nearest by the first features first, above a row of training images for each search."""
    images, first = subject.drawn.images, searches[subject.views[0].features.name]
    shown = first.of_samples.distances[: len(images)].argsort()[:SHOWN].cpu()
    found = [int(i) for search in searches.values() for i in search.of_samples.index.cpu()[shown]]
    return torch.cat([images[shown], *(_training_image(subject, number) for number in found)])


def _training_image(subject: Subject, number: int) -> Tensor:
    total = subject.data.num_trained_on
    x, _ = next(subject.data.batches("train", 1, limit=total, start=number % total))
    return x.flip(-1) if number >= total else x
