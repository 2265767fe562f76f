"""The Fréchet distance that endless samples would have, with its interval."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from diffusion_lab.evaluation.infinity import frechet_at_infinity
from diffusion_lab.evaluation.metrics.metric import FeatureMetric, Naming, Need
from diffusion_lab.measures import LOW, REAL_IMAGES, SAMPLES, Measure, ends

if TYPE_CHECKING:
    from diffusion_lab.evaluation.scores import Scores
    from diffusion_lab.evaluation.subject import View

FEWEST_SAMPLES = 1000  # with fewer, the estimate is too uncertain
_MOST_VALUES = 2**25  # of the reference's features: beyond that some of its images represent all


@dataclass(frozen=True)
class FrechetInfinity(FeatureMetric):
    """The Fréchet distance at n = ∞: without its finite-sample bias, with its 95 % interval over samples and real images."""

    needs = (Need.REAL_IMAGES,)

    def feature_measures(self, naming: Naming) -> Iterable[Measure]:
        meaning = "Fréchet distance without its finite-sample bias, with its 95 % interval"
        label = "  at n = ∞" if naming.first else f"  at n = ∞ ({naming.features})"
        yield Measure(f"{naming.distance}_infinity", label, "", LOW, meaning, naming.agrees(), logs=True, brief=False)

    def score_view(self, view: View, scores: Scores) -> None:
        name, real = f"{view.naming.distance}_infinity", _real(view)
        found = frechet_at_infinity(view.drawn.vectors().to(view.device), real.to(view.device))
        low, high = ends(name)
        # The errors of both distances differ by that of the bias, which is small, and the plain one is to all real images.
        fewer = (len(real) / view.reference.size(view.split)) ** 0.5
        scores.spread(view.naming.distance, SAMPLES, found.of_samples)
        scores.spread(view.naming.distance, REAL_IMAGES, found.of_reference * fewer)
        if len(view.drawn.features) < FEWEST_SAMPLES:
            return
        scores.values |= {name: found.distance, low: found.low, high: found.high}
        scores.spread(name, SAMPLES, found.of_samples)
        scores.spread(name, REAL_IMAGES, found.of_reference)
        of = f"{len(view.drawn.features)} samples and {len(real)} real images"
        poor = "; unreliable, because the bias does not fall as 1/n yet: use more samples" if found.poor else ""
        scores.details[name] = f"95 % interval over {of}; the finite-sample bias is {found.bias:.3g}{poor}"


def _real(view: View) -> Tensor:
    """The features of all images of the reference or, where they are too many to keep, of some."""
    few = view.reference.size(view.split) * view.features.dim <= _MOST_VALUES
    return view.reference.vectors(view.split) if few else view.some_real
