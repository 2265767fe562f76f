"""Does the model copy its training images?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffusion_lab.evaluation.copying import nearer, within_held_out_quantile
from diffusion_lab.evaluation.metrics.metric import Metric, Naming, Need
from diffusion_lab.evaluation.nearest import nearest_picture, nearest_training_images
from diffusion_lab.evaluation.settings import check_at_least
from diffusion_lab.evaluation.statistics import UnmeasurableError
from diffusion_lab.measures import REAL_IMAGES, SAMPLES, Measure, ends
from diffusion_lab.pictures import may_fail

if TYPE_CHECKING:
    from diffusion_lab.evaluation.scores import Scores
    from diffusion_lab.evaluation.subject import Subject

_PIXELS = "pixels"
_FEW = 0.01  # of the held-out images, the nearest ones


@dataclass(frozen=True)
class Copying(Metric):
    """How often a sample is nearer to a training image than a held-out image is, in pixels and in all features.

    Mirrored training images count where training shows them. num_images: held-out images, at most, and no more than samples.
    """

    needs = (Need.REAL_IMAGES,)

    num_images: int = 1000

    def __post_init__(self) -> None:
        check_at_least(2, "num_images", self.num_images)

    def measures(self, namings: Sequence[Naming]) -> Iterable[Measure]:
        agrees = {_PIXELS: ("data", "samples", "copying")} | {n.features: n.agrees("copying") for n in namings}
        nearer = (
            "how often a sample is nearer to a training image than a held-out image is: 0.5 where nothing is copied"
        )
        few = f"share of samples as near to a training image as the nearest {_FEW:.0%} of held-out images"
        for features, parts in agrees.items():
            yield Measure(f"copying_{features}", f"copying ({features})", meaning=nearer, agrees=parts, brief=False)
            yield Measure(f"copies_{features}", f"copies ({features})", meaning=few, agrees=parts, brief=False)

    def score(self, subject: Subject, scores: Scores) -> None:
        data, split = subject.data, subject.settings.unseen_split
        if data.size(split) < 2:
            raise UnmeasurableError(f"needs held-out images besides the training images, but {data.name} has none")
        size = min(self.num_images, data.size(split), max(2, len(subject.drawn.features)))
        searches = nearest_training_images(subject, size)
        for name, search in searches.items():
            own, others = search.of_samples.distances, search.of_held_out.distances
            copying, copies = f"copying_{name}", f"copies_{name}"
            for which, found in (
                (copying, nearer(own, others)),
                (copies, within_held_out_quantile(own, others, _FEW)),
            ):
                scores.record(which, found.probability)
                scores.values |= dict(zip(ends(which), (found.low, found.high), strict=True))
                scores.spread(which, SAMPLES, found.of_samples)
                scores.spread(which, REAL_IMAGES, found.of_held_out)
            against = f"{len(own)} samples and {len(others)} {split} images to {data.num_trained_on} training images"
            scores.details[copying] = f"P(a sample is nearer to a training image than a {split} image is); {against}"
            scores.details[copies] = (
                f"as near to a training image as the nearest {_FEW:.0%} of {split} images; {_FEW} where nothing is copied"
            )
        scores.protocol["copying"] = {
            "split": split,
            "num_held_out": size,
            "num_trained_on": data.num_trained_on,
            "mirrored": data.flip,
            "num_samples_as_pixels": len(subject.drawn.images),
        }
        if len(data.shape) == 3:
            with may_fail("the picture of the nearest images"):
                scores.nearest = nearest_picture(subject, searches)
