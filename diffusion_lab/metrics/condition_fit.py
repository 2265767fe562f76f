"""Agreement of samples with the requested vector: the vector of each sample is regressed on the requested one.

The sample's vector c is computed from the image as the condition is. For each entry, with a the requested value:
slope = cov(a, c) / var(a), and the correlation of a and c. Both are 1 if every sample matches; a slope below 1 with a high
correlation means that extremes are avoided.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from diffusion_lab.diffusion.condition_parts import parts
from diffusion_lab.metrics.metric import Metric, Naming, Need, Scores, Subject
from diffusion_lab.metrics.reference import UnmeasurableError
from diffusion_lab.store.measures import HIGH, Measure

_AGREES = ("data", "samples")
_SLOPE, _CORRELATION = "condition_slope", "condition_correlation"


@dataclass(frozen=True)
class ConditionFit(Metric):
    """Slope and correlation of the samples' vectors on the requested ones: the worst entry, and all entries as curves."""

    needs = (Need.SAMPLES, Need.GENERATOR)

    def measures(self, namings: Sequence[Naming]) -> Iterable[Measure]:
        slope = "slope of the samples' values on the requested ones; the entry furthest from 1"
        yield Measure(_SLOPE, "slope", meaning=slope, agrees=_AGREES)
        correlation = "correlation of the samples' values with the requested ones; the worst entry"
        yield Measure(_CORRELATION, "correlation", better=HIGH, meaning=correlation, agrees=_AGREES)

    def score(self, subject: Subject) -> Scores:
        scores = Scores()
        images = subject.drawn.finite(subject.drawn.images)
        slopes, correlations = dict[str, float](), dict[str, float]()
        for (name, condition), asked in zip(subject.data.conditions.items(), parts(subject.drawn.asked), strict=False):
            if asked.is_floating_point() and asked.ndim == 2:
                try:
                    found = condition.of(images, {})
                except KeyError:  # not a function of the image alone
                    continue
                entries = condition.names or [f"{name}_{entry}" for entry in range(asked.shape[1])]
                for entry, *fit in zip(entries, *fits(asked[: len(images)], found), strict=True):
                    slopes[entry], correlations[entry] = map(float, fit)
        if not slopes:
            raise UnmeasurableError(
                "needs a condition that is a vector and is computed from the image, such as brightness_area"
            )
        for name, of_entries, worst in (
            (_SLOPE, slopes, max(slopes.values(), key=lambda slope: abs(slope - 1))),
            (_CORRELATION, correlations, min(correlations.values())),
        ):
            scores.record(name, worst)
            scores.details[name] = f"n = {len(images)}, " + ", ".join(f"{e} {v:.3f}" for e, v in of_entries.items())
            for entry, value in of_entries.items():
                scores.record(f"{name}_{entry}", value)
        return scores


def fits(asked: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """Slope of found on asked, and their correlation: (n, D) each -> (D,) and (D,), float64."""
    a, c = (part.cpu().double() - part.cpu().double().mean(0) for part in (asked, found))
    covariance, of_asked, of_found = (a * c).mean(0), a.square().mean(0), c.square().mean(0)
    return covariance / of_asked, covariance / (of_asked * of_found).sqrt()
