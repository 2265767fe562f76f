"""The distance by log SNR: where along the chain errors of samples arise, for held-out images noised and sampled from there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from diffusion_lab.metrics.frechet_distance import frechet_distance
from diffusion_lab.metrics.metric import Metric, Naming, Need, Scores, Subject
from diffusion_lab.metrics.reference import FeatureStatistics, quantise
from diffusion_lab.store.measures import Measure

_LITTLE = 0.05  # share of the distance that may arise beyond either end of the reported range


@dataclass(frozen=True)
class DistanceByLogSNR(Metric):
    """The Fréchet distance of held-out images that are noised to a log SNR and sampled from there, at num_points log SNRs.

    The rise between two points is the error added by the steps between them. num_images: at most this many held-out images.
    batch_size: images at a time.
    """

    needs = (Need.CHAIN, Need.REAL_IMAGES)
    least = (("num_points", 2), ("num_images", 2), ("batch_size", 1))

    num_points: int = 10
    num_images: int = 1000
    batch_size: int = 128

    def measures(self, namings: Sequence[Naming]) -> Iterable[Measure]:
        meaning = "share of the distance above its floor that arises at log SNR above 0: texture rather than shape"
        for naming in namings:
            name = f"{naming.distance}_share_above_0"
            yield Measure(name, name, meaning=meaning, agrees=naming.agrees(), column=False)

    def score(self, subject: Subject) -> Scores:
        scores = Scores()
        log_snrs = subject.diffusion.log_snrs(self.num_points)
        size = min(self.num_images, subject.views[0].num_held_out)
        curves = distances_by_log_snr(subject, log_snrs, size, self.batch_size)
        scores.curves["distance_by_log_snr"] = {"log_snr": log_snrs, **curves}
        for distance, curve in curves.items():
            name = f"{distance}_share_above_0"
            scores.record(name, _share(log_snrs, curve, 0.0), "the distance does not rise along the chain")
            scores.details[name] = (
                f"of n = {size} held-out images, noised to {self.num_points} log SNRs and sampled from there"
                f"{_where_it_arises(log_snrs, curve)}"
            )
        scores.protocol["distance_by_log_snr"] = {"split": subject.settings.held_out_split, "num_images": size}
        return scores


@torch.no_grad()
def distances_by_log_snr(
    subject: Subject, log_snrs: Sequence[float], num_images: int, batch_size: int
) -> dict[str, list[float]]:
    """Fréchet distances by log SNR, by name, of held-out images noised to that log SNR and sampled from there.

    At the clean end it is the floor of real images, at the noisy end the distance of samples. num_images: held-out images;
    batch_size: of them at a time.
    """
    generator, split = subject.diffusion, subject.settings.held_out_split
    curves: dict[str, list[float]] = {view.naming.distance: [] for view in subject.views}
    for place, log_snr in enumerate(log_snrs):
        statistics = [FeatureStatistics(view.features.dim) for view in subject.views]
        for x_0, y, indices in subject.batches(split, batch_size, num_images):
            x = generator.redraw(x_0, y, subject.settings.seed, indices, log_snr).float()
            for view, sums in zip(subject.views, statistics, strict=True):
                sums.update(view.features(quantise(x, subject.data.num_levels)))
        for view, sums in zip(subject.views, statistics, strict=True):
            curves[view.naming.distance].append(frechet_distance(sums.compute(), view.real))
        subject.progress("distance by log SNR", place + 1, len(log_snrs))
    return curves


def _share(log_snrs: Sequence[float], curve: Sequence[float], at: float) -> float | None:
    """The share of a curve's rise from the clean end to the noisy one that lies above the log SNR `at`; None without a rise."""
    rise = curve[-1] - curve[0]
    if rise <= 0 or not log_snrs[-1] <= at <= log_snrs[0]:
        return None
    return float(np.interp(-at, [-log_snr for log_snr in log_snrs], curve) - curve[0]) / rise


def _where_it_arises(log_snrs: Sequence[float], curve: Sequence[float]) -> str:
    """The range of log SNRs in which most of the distance arises; "" without a rise."""
    rise = curve[-1] - curve[0]
    if rise <= 0:
        return ""
    first = max(i for i, value in enumerate(curve) if value <= curve[0] + _LITTLE * rise)
    last = next(i for i, value in enumerate(curve) if i > first and min(curve[i:]) >= curve[-1] - _LITTLE * rise)
    return f"; {1 - 2 * _LITTLE:.0%} of it arises at log SNRs from {log_snrs[first]:.3g} to {log_snrs[last]:.3g}"
