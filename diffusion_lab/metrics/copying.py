"""Copying: how often samples are nearer to training images than held-out images are.

With L(x) the distance from x to its nearest training image, and x_s, x_r a sample and a held-out image,

    Δ = P(L(x_s) < L(x_r)),

which is ½ if samples are distributed like the data and 1 if all of them are copies (Meehan, Chaudhuri & Dasgupta 2020, "A
Non-Parametric Test to Detect Data-Copying in Generative Models", their global test). It is estimated by the U of Mann & Whitney
over its maximum, n·m.

The interval is Wilson's, with the number of trials that gives the variance of DeLong, DeLong & Clarke-Pearson (1988), but at most
4nm/(n + m), because their estimate is 0 if all samples are nearer than all held-out images. In simulations it covered at least 94 %
of 1,000 trials: equal distributions, a shift, and mixtures with 5, 50 and 98 % copies, n and m from 40 to 1,000. The score interval
of Newcombe (2006) covered 87 % for the mixture of 50 % at n = 40, m = 1,000, and a logit interval 49 % for that of 98 %.

The share of samples within a quantile q of the L(x_r) is uncertain because of the samples (Wilson) and because q is estimated: the
level of an order statistic is Beta-distributed, which gives q an interval between two others (Woodruff 1952). Both are combined by
their squares (MOVER: Zou & Donner 2008). In simulations (equal distributions, 1, 5 and 50 % copies, n and m from 360 to 10,000)
it covered 92 % or more of 400 to 1,000 trials.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import beta
from torch import Tensor

from diffusion_lab.metrics.metric import Estimate, Metric, Naming, Need, Scores, Subject
from diffusion_lab.metrics.reference import BATCH_SIZE, UnmeasurableError, quantise
from diffusion_lab.report.drawing import may_fail
from diffusion_lab.store.measures import Measure, interval_of_share

PIXELS = "pixels"
SHOWN = 12  # samples in the picture
FEW = 0.01  # share of the held-out images, the nearest ones
_MOST_VALUES = 2**25  # of training features kept for other scores
_ROWS = 1024  # compared with a block of training images at a time


@dataclass(frozen=True)
class Copying(Metric):
    """The probability that a sample is nearer to a training image than a held-out image is, in pixels and in all features.

    Mirrored training images count if training uses them. num_images: at most this many held-out images, and no more than samples.
    """

    needs = (Need.SAMPLES, Need.REAL_IMAGES)
    least = (("num_images", 2),)

    num_images: int = 1000

    def measures(self, namings: Sequence[Naming]) -> Iterable[Measure]:
        agrees = {PIXELS: ("data", "samples", "copying")} | {n.features: n.agrees("copying") for n in namings}
        nearer = (
            "how often a sample is nearer to a training image than a held-out image is: 0.5 where nothing is copied"
        )
        few = f"share of samples as near to a training image as the nearest {FEW:.0%} of held-out images"
        for features, parts in agrees.items():
            yield Measure(f"copying_{features}", f"copying ({features})", meaning=nearer, agrees=parts, brief=False)
            yield Measure(f"copies_{features}", f"copies ({features})", meaning=few, agrees=parts, brief=False)

    def score(self, subject: Subject) -> Scores:
        scores = Scores()
        data, split = subject.data, subject.settings.unseen_split
        if data.size(split) < 2:
            raise UnmeasurableError(f"needs held-out images besides the training images, but {data.name} has none")
        size = min(self.num_images, data.size(split), max(2, len(subject.drawn.features)))
        searches = nearest_training_images(subject, size)
        for name, search in searches.items():
            own, others = search.distances()
            copying, copies = f"copying_{name}", f"copies_{name}"
            scores.estimate(copying, nearer(own, others))
            scores.estimate(copies, within_held_out_quantile(own, others, FEW))
            against = f"{len(own)} samples and {len(others)} {split} images to {data.num_trained_on} training images"
            scores.details[copying] = f"P(a sample is nearer to a training image than a {split} image is); {against}"
            scores.details[copies] = (
                f"as near to a training image as the nearest {FEW:.0%} of {split} images; {FEW} where nothing is copied"
            )
        scores.protocol["copying"] = {
            "split": split,
            "num_held_out": size,
            "num_trained_on": data.num_trained_on,
            "mirrored": data.flip,
            "num_samples_as_pixels": len(subject.drawn.images),
        }
        if len(data.shape) > 1:
            with may_fail("the picture of the nearest images"):
                scores.nearest = nearest_picture(subject, searches)
        return scores


def nearer(samples: Tensor, held_out: Tensor) -> Estimate:
    """Δ from the distances of samples (n,) and of held-out images (m,), n and m at least 2; ties count half."""
    n, m = len(samples), len(held_out)
    of_samples, of_held_out = 1 - _below(held_out, samples), _below(samples, held_out)
    delta = float(of_samples.mean())
    variance = float(of_samples.var() / n + of_held_out.var() / m)
    trials = min(delta * (1 - delta) / variance if variance > 0 else torch.inf, 4 * n * m / (n + m))
    return Estimate(delta, *interval_of_share(delta * trials, trials), of_samples, of_held_out)


def _below(values: Tensor, at: Tensor) -> Tensor:
    """The share of `values` below each of `at`, float64; ties count half."""
    ordered = values.sort().values
    sides = (torch.searchsorted(ordered, at.contiguous(), side=side) for side in ("left", "right"))
    return sum((side.double() for side in sides), torch.zeros(())) / (2 * len(values))


def within_held_out_quantile(samples: Tensor, held_out: Tensor, share: float) -> Estimate:
    """The share of samples (n,) that are as near as the nearest `share` of held-out images (m,).

    Its expectation for further held-out images is `share`, if there are at least 1/share − 1 of them.
    """
    n, m = len(samples), len(held_out)
    rank = max(1.0, share * (m + 1))
    levels = beta.ppf((0.025, 0.975), rank, m + 1 - rank)  # 95 % interval of the level of the estimated quantile
    quantiles = np.quantile(held_out.cpu().numpy(), (share, *levels), method="weibull").tolist()
    hits, fewest, most = ((samples <= quantile).double() for quantile in quantiles)
    found, least, largest = (float(within.mean()) for within in (hits, fewest, most))
    low, high = interval_of_share(float(hits.sum()), n)
    slope = (largest - least) / (levels[1] - levels[0])
    return Estimate(
        found,
        max(0.0, found - math.hypot(found - low, found - least)),
        min(1.0, found + math.hypot(high - found, largest - found)),
        hits,
        -slope * (held_out <= quantiles[0]).double(),
    )


# ---- the nearest training images ----


class NearestImages:
    """The nearest training images of samples (n, D) and of held-out images (m, D), searched block by block.

    embed: images (B, *shape) as stored in the data -> vectors (B, D). known: the vectors of all training images, if already
    computed. index: int64 (n + m,), numbers of the nearest images. Among vectors that are equally near up to rounding of
    float32, any may be returned.
    """

    def __init__(
        self,
        samples: Tensor,
        held_out: Tensor,
        embed: Callable[[Tensor], Tensor] = lambda x: x.flatten(1),
        known: Tensor | None = None,
    ) -> None:
        self.sizes, self.embed, self.known = [len(samples), len(held_out)], embed, known
        self.rows = torch.cat([samples, held_out]).float()
        self.index = torch.full((len(self.rows),), -1, device=self.rows.device)
        self._found = torch.zeros_like(self.rows)
        self._least = torch.full((len(self.rows),), torch.inf, device=self.rows.device)

    def see(self, images: Tensor, first: int) -> None:
        """Compare with training images numbered first, first + 1, …"""
        if self.known is not None and first < len(self.known):
            vectors = self.known[first : first + len(images)].to(images.device)
        else:
            vectors = self.embed(images).float()
        half_square = vectors.square().sum(dim=1) / 2
        for start in range(0, len(self.rows), _ROWS):
            part = slice(start, start + _ROWS)
            # ‖x − r‖²/2 − ‖r‖²/2, by a matrix product
            least, place = (half_square - self.rows[part] @ vectors.T).min(dim=1)
            nearer = least < self._least[part]
            self._least[part][nearer] = least[nearer]
            self.index[part][nearer] = place[nearer] + first
            self._found[part][nearer] = vectors[place[nearer]]

    def distances(self) -> tuple[Tensor, Tensor]:
        """Distances to the nearest images, float64 (n,) and (m,), without the cancellation of the matrix product."""
        own, others = (self.rows.double() - self._found.double()).norm(dim=1).split(self.sizes)
        return own, others


def nearest_training_images(subject: Subject, num_held_out: int) -> dict[str, NearestImages]:
    """Nearest images by name: by pixels, for samples kept as images, and by each set of features, for all samples.

    Training image i of N has number i, and its mirror image, if training uses it, number i + N. UnmeasurableError if a sample is
    not finite.
    """
    data, device, drawn = subject.data, subject.views[0].device, subject.drawn
    split, total, done = subject.settings.unseen_split, subject.data.num_trained_on, 0
    held_out = subject.images(split, num_held_out).flatten(1)
    images = drawn.finite(drawn.images).flatten(1)
    searches = {PIXELS: NearestImages(images.to(device), held_out.to(device))}
    for view in subject.views:
        limit = None if total == data.num_train else total
        known = view.reference.vectors("train", limit) if total * view.features.dim <= _MOST_VALUES else None
        others = view.reference.vectors(split, num_held_out)
        rows = view.drawn.vectors().to(device), others.to(device)
        searches[view.features.name] = NearestImages(*rows, view.features, known)
    with torch.no_grad():
        for x, _ in data.batches("train", BATCH_SIZE, limit=total):
            shown = quantise(x.to(device), data.num_levels)
            for x_0, first in [(shown, done)] + ([(shown.flip(-1), total + done)] if data.flip else []):
                for search in searches.values():
                    search.see(x_0, first)
            done += len(x)
            subject.progress("nearest training images", done, total)
    return searches


def nearest_picture(subject: Subject, searches: Mapping[str, NearestImages]) -> Tensor:
    """At most SHOWN samples, nearest first by the first features, above one row of training images for each search."""
    images, data, total = subject.drawn.images, subject.data, subject.data.num_trained_on
    distances, _ = searches[subject.views[0].features.name].distances()
    shown = distances[: len(images)].argsort()[:SHOWN].cpu()
    found = [images[shown]]
    for number in (int(number) for search in searches.values() for number in search.index.cpu()[shown]):
        x, _ = next(data.batches("train", 1, limit=total, start=number % total))
        found.append(x.flip(-1) if number >= total else x)
    return torch.cat(found)
