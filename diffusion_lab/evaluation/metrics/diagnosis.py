"""Where does the distance come from? Curves by log SNR show what each part of the chain adds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffusion_lab.evaluation.diagnosis import distances_by_log_snr, errors_by_log_snr
from diffusion_lab.evaluation.metrics.metric import Metric, Naming, Need
from diffusion_lab.evaluation.settings import check_at_least
from diffusion_lab.measures import Measure

if TYPE_CHECKING:
    from diffusion_lab.evaluation.scores import Scores
    from diffusion_lab.evaluation.subject import Subject

_NO_CHAIN = "this family has no noisy chain"


@dataclass(frozen=True)
class DistanceByLogSNR(Metric):
    """The Fréchet distance of held-out images that are noised to a log SNR and sampled from there, at num_points of them.

    Between two points it rises by what the steps between add to the error of samples. num_images: of the held-out split, at most.
    """

    needs = (Need.MODEL, Need.REAL_IMAGES)
    needs_samples = False  # it draws its own

    num_points: int = 10
    num_images: int = 1000
    batch_size: int = 128

    def __post_init__(self) -> None:
        check_at_least(2, "num_points", self.num_points)
        check_at_least(2, "num_images", self.num_images)
        check_at_least(1, "batch_size", self.batch_size)

    def measures(self, namings: Sequence[Naming]) -> Iterable[Measure]:
        meaning = "share of the distance above its floor that arises at log SNR above 0: texture rather than shape"
        for naming in namings:
            yield Measure(self._name(naming), self._name(naming), meaning=meaning, agrees=naming.agrees(), column=False)

    @staticmethod
    def _name(naming: Naming) -> str:
        return f"{naming.distance}_share_above_0"

    def score(self, subject: Subject, scores: Scores) -> None:
        names = [self._name(view.naming) for view in subject.views]
        log_snrs = subject.model.log_snrs(self.num_points)
        if log_snrs is None:
            for name in names:
                scores.record(name, None, _NO_CHAIN)
            return
        size = min(self.num_images, subject.views[0].num_held_out)
        curves = distances_by_log_snr(subject, log_snrs, size, self.batch_size)
        scores.curves["distance_by_log_snr"] = {"log_snr": log_snrs, **curves}
        for name, curve in zip(names, curves.values(), strict=True):
            scores.record(name, _share(log_snrs, curve, 0.0), "the distance does not rise along the chain")
            scores.details[name] = (
                f"of n = {size} held-out images, noised to {self.num_points} log SNRs and sampled from there"
            )
        scores.protocol["distance_by_log_snr"] = {"split": subject.settings.held_out_split, "num_images": size}


@dataclass(frozen=True)
class ErrorByLogSNR(Metric):
    """The mean square error of the velocity at num_points log SNRs, and that of the best possible denoiser of the training images.

    What lies between the two can be learned. At the clean end the best possible one knows the training images by heart, so no
    excess error there means memorisation, not success. num_images: training images that are noised.
    """

    needs = (Need.MODEL, Need.REAL_IMAGES)
    needs_samples = False

    num_points: int = 10
    num_images: int = 128
    batch_size: int = 128

    def __post_init__(self) -> None:
        check_at_least(2, "num_points", self.num_points)
        check_at_least(1, "num_images", self.num_images)
        check_at_least(1, "batch_size", self.batch_size)

    def measures(self, namings: Sequence[Naming]) -> Iterable[Measure]:
        meaning = (
            "largest excess, over log SNRs, of the network's error of the velocity over the best possible denoiser's"
        )
        yield Measure("largest_excess_error", "largest excess error", meaning=meaning, agrees=("data",), column=False)

    def score(self, subject: Subject, scores: Scores) -> None:
        log_snrs = subject.model.log_snrs(self.num_points)
        if log_snrs is None:
            scores.record("largest_excess_error", None, _NO_CHAIN)
            return
        settings = subject.settings
        size = min(self.num_images, subject.data.num_trained_on)
        errors, best = errors_by_log_snr(
            subject.model, subject.data, settings.seed, log_snrs, size, self.batch_size, subject.progress
        )
        scores.curves["error_by_log_snr"] = {"log_snr": log_snrs, "velocity_mse": errors, "least_velocity_mse": best}
        excess = [error - least for error, least in zip(errors, best, strict=True)]
        worst = max(range(len(excess)), key=excess.__getitem__)
        scores.record("largest_excess_error", excess[worst])
        scores.details["largest_excess_error"] = f"at log SNR {log_snrs[worst]:.3g}; {size} training images"
        scores.protocol["error_by_log_snr"] = {"split": "train", "num_images": size}


def _share(log_snrs: Sequence[float], curve: Sequence[float], at: float) -> float | None:
    """Of the rise of a curve from the clean end to the noisy one, the part above a log SNR; None without a rise."""
    rise = curve[-1] - curve[0]
    if rise <= 0:
        return None
    for (high, a), (low, b) in zip(
        zip(log_snrs, curve, strict=True), zip(log_snrs[1:], curve[1:], strict=True), strict=False
    ):
        if low <= at <= high:
            return (a + (b - a) * (high - at) / (high - low) - curve[0]) / rise
    return None
