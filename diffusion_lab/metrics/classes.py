"""Which classes the samples belong to, according to features that classify."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from diffusion_lab.metrics.conditional import class_distances, classified_as_label
from diffusion_lab.metrics.coverage import class_coverage
from diffusion_lab.metrics.fidelity import inception_score
from diffusion_lab.metrics.metric import FeatureMetric, Naming, Need
from diffusion_lab.metrics.settings import check_at_least
from diffusion_lab.metrics.statistics import UnmeasurableError
from diffusion_lab.store.measures import HIGH, SAMPLES, Measure, interval_of_share

if TYPE_CHECKING:
    from diffusion_lab.metrics.scores import Scores
    from diffusion_lab.metrics.subject import Subject, View


@dataclass(frozen=True)
class InceptionScore(FeatureMetric):
    """How sure a classifier is of each sample, and how many classes they spread over; of features that give logits."""

    num_parts: int = 10

    def __post_init__(self) -> None:
        check_at_least(1, "num_parts", self.num_parts)

    def feature_measures(self, naming: Naming) -> Iterable[Measure]:
        meaning = "how sure a classifier is of each sample, and how many classes they spread over"
        yield naming.measure(
            "inception_score", "inception score", ["inception_score"], better=HIGH, meaning=meaning, brief=False
        )

    def score_view(self, view: View, scores: Scores) -> None:
        logits = view.features.class_logits(view.on_device)
        if logits is None:
            return
        name, std = view.naming("inception_score"), view.naming("inception_score_std")
        scores.protocol["inception_score"] = {"num_parts": self.num_parts}
        scores.measure(
            [name, std], lambda: inception_score(view.drawn.finite(logits), view.settings.seed, self.num_parts)
        )
        if std in scores.values:
            spread = f"± {scores.values[std]:.3f} between {self.num_parts} parts"
            scores.details[name] = f"{spread}, n = {len(logits)}"


@dataclass(frozen=True)
class ClassAccuracy(FeatureMetric):
    """Does a conditional model generate the class that it is given? With the Fréchet distance of each class as a curve."""

    needs = (Need.LABELS,)

    @staticmethod
    def _name(naming: Naming) -> str:
        return f"accuracy_{naming.features}"

    def feature_measures(self, naming: Naming) -> Iterable[Measure]:
        name = self._name(naming)
        meaning = "share of samples that the classifier assigns to their label"
        yield Measure(name, name, better=HIGH, meaning=meaning, agrees=naming.agrees())

    def score(self, subject: Subject, scores: Scores) -> None:
        """Features without classes have a reason only where no others have classes."""
        super().score(subject, scores)
        names = [self._name(view.naming) for view in subject.views]
        if scores.values.keys() & names:
            for name in names:
                scores.protocol["absent"].pop(name, None)

    def score_view(self, view: View, scores: Scores) -> None:
        y = view.drawn.y
        if y is None:
            return
        naming = view.naming
        name = self._name(naming)
        scores.attempt(
            self.feature_measures(naming),
            lambda: scores.share(name, SAMPLES, classified_as_label(view.features, view.drawn.vectors(), y)),
        )
        try:
            found = class_distances(view.drawn.vectors(), y, view.reference, view.split)
        except UnmeasurableError as error:
            scores.protocol["absent"][f"{naming.distance} by class"] = str(error)
            return
        scores.curves[naming("classes")] = {
            "class": found.classes,
            naming.distance: found.distances,
            "num_samples": found.num_samples,
            "num_reference": found.num_reference,
        }


@dataclass(frozen=True)
class ClassCoverage(FeatureMetric):
    """Which classes the samples are assigned to, for conditional models and others."""

    needs = (Need.REAL_IMAGES,)

    def feature_measures(self, naming: Naming) -> Iterable[Measure]:
        yield naming.measure(
            "classes_present",
            "classes",
            better=HIGH,
            meaning="classes that the classifier finds among the samples; a collapsed model misses some",
            brief=False,
            decimals=0,
        )
        meaning = "how evenly the samples spread over the classes; a collapsed model stays below the data"
        yield naming.measure("class_entropy", "class entropy", unit="bits", meaning=meaning, brief=False, decimals=2)

    def score_view(self, view: View, scores: Scores) -> None:
        predicted = view.features.classes(view.on_device)
        if predicted is None:
            return
        present, entropy = class_coverage(view.features.classes(view.some_real.to(view.device)))
        part = {"reference_present": present, "reference_entropy": entropy}
        scores.protocol[view.naming("class_coverage")] = part
        names = [view.naming("classes_present"), view.naming("class_entropy")]
        scores.measure(names, lambda: class_coverage(view.drawn.finite(predicted)))
        if names[0] in scores.values:
            scores.curves[view.naming("class_shares")] = _shares(predicted)
        scores.details |= {names[0]: f"of {present:.0f} found among real images", names[1]: f"of {entropy:.2f}"}


def _shares(predicted: Tensor) -> dict[str, list[float]]:
    """The share of samples assigned to each class, with its 95 % interval; predicted int64 (n,)."""
    counts = predicted.cpu().bincount().tolist()
    low, high = zip(*(interval_of_share(count, len(predicted)) for count in counts), strict=True)
    shares = [count / len(predicted) for count in counts]
    return {"class": list(range(len(counts))), "share": shares, "low": list(low), "high": list(high)}
