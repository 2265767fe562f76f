"""Share of samples that a classifier assigns to the requested class, and the Fréchet distance of each class."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from diffusion_lab.metrics.features import Features
from diffusion_lab.metrics.frechet_distance import frechet_distance
from diffusion_lab.metrics.metric import FeatureMetric, Naming, Need, Scores, Subject, View
from diffusion_lab.metrics.reference import FeatureStatistics, Reference, UnmeasurableError
from diffusion_lab.store.measures import HIGH, SAMPLES, Measure

MAX_VALUES = 2**26  # numbers in the covariances of all classes: half a gigabyte of float64


@dataclass(frozen=True)
class ClassAccuracy(FeatureMetric):
    """Share of samples that are classified as the requested class, and the Fréchet distance of each class as a curve."""

    needs = (Need.SAMPLES, Need.LABELS)

    @staticmethod
    def _name(naming: Naming) -> str:
        return f"accuracy_{naming.features}"

    def feature_measures(self, naming: Naming) -> Iterable[Measure]:
        name = self._name(naming)
        meaning = "share of samples that the classifier assigns to their label"
        yield Measure(name, name, better=HIGH, meaning=meaning, agrees=naming.agrees())

    def score(self, subject: Subject) -> Scores:
        """As `FeatureMetric.score`, without the reasons of features that have no classes, if other features have classes."""
        scores = super().score(subject)
        names = [self._name(view.naming) for view in subject.views]
        if scores.values.keys() & names:
            for name in names:
                scores.protocol["absent"].pop(name, None)
        return scores

    def score_view(self, view: View) -> Scores:
        scores = Scores()
        y = view.drawn.y
        if y is None:
            return scores
        naming = view.naming
        name = self._name(naming)
        with scores.attempt([name]):
            scores.share(name, SAMPLES, classified_as_label(view.features, view.drawn.vectors(), y))
        with scores.attempt([f"{naming.distance} by class"]):
            found = class_distances(view.drawn.vectors(), y, view.reference, view.split)
            scores.curves[naming("classes")] = {
                naming.distance if column == "distance" else column: values for column, values in found.items()
            }
        return scores


def classified_as_label(features: Features, vectors: Tensor, y: Tensor) -> Tensor:
    """Whether the features' classifier assigns each sample, as feature vectors (n, D), to its class y (n,): bool (n,).

    Raises UnmeasurableError for features that have no classes.
    """
    predicted = features.classes(vectors)
    if predicted is None:
        raise UnmeasurableError(f"features={features.name} have no classes")
    return predicted.cpu() == y.cpu()


def class_distances(vectors: Tensor, y: Tensor, reference: Reference, split: str) -> dict[str, list[float]]:
    """Fréchet distances of samples, as feature vectors (n, D), of the classes y (n,), to the real images of each class in `split`.

    Columns: class, distance, num_samples, num_reference; classes with fewer than two of either are left out. A class has few
    samples, so its distance is biased upwards, all classes alike: for comparing classes of one score, or of scores with the same n.
    Raises UnmeasurableError where the covariances would not fit into memory.
    """
    num_classes, dim = reference.data.num_classes, vectors.shape[1]
    if num_classes is None:
        raise UnmeasurableError(f"{reference.data.name} has no class labels")
    if dim * min(num_classes * dim, reference.size(split)) > MAX_VALUES:
        raise UnmeasurableError(f"{num_classes} covariances of {dim} features each do not fit into memory")
    columns: dict[str, list[float]] = {"class": [], "distance": [], "num_samples": [], "num_reference": []}
    for label, real in reference.class_moments(split).items():
        mine = vectors[y.cpu() == label]
        if len(mine) < 2:
            continue
        row = label, frechet_distance(FeatureStatistics(dim, [mine]).compute(), real), len(mine), int(real.n)
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
    return columns
