"""Does a conditional model generate the class that it is given, and every class equally well?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from diffusion_lab.metrics.duration import say_if_long
from diffusion_lab.metrics.frechet import frechet_distance
from diffusion_lab.metrics.reference import Reference
from diffusion_lab.metrics.statistics import FeatureStatistics, UnmeasurableError

if TYPE_CHECKING:
    from diffusion_lab.metrics.features import Features

MAX_VALUES = 2**26  # numbers in the covariances of all classes: half a gigabyte of float64


def classified_as_label(features: Features, vectors: Tensor, y: Tensor) -> Tensor:
    """Which samples, as feature vectors (n, D), the features' classifier assigns to their class y (n,): bool (n,).

    Raises UnmeasurableError for features that have no classes.
    """
    predicted = features.classes(vectors)
    if predicted is None:
        raise UnmeasurableError(f"features={features.name} have no classes")
    return predicted.cpu() == y.cpu()


@dataclass(frozen=True)
class ClassDistances:
    """Fréchet distance of each class to the real images of that class; classes with fewer than two of either are left out."""

    classes: list[int]
    distances: list[float]
    num_samples: list[int]
    num_reference: list[int]


def class_distances(vectors: Tensor, y: Tensor, reference: Reference, split: str) -> ClassDistances:
    """Of samples, as feature vectors (n, D), of the classes y (n,), to the reference's images of each class in `split`.

    A class has few samples, so its distance is biased upwards, all classes alike: for comparing classes of one score and classes
    of scores with the same n. Raises UnmeasurableError where the covariances would not fit into memory.
    """
    num_classes, dim = reference.data.num_classes, vectors.shape[1]
    if num_classes is None:
        raise UnmeasurableError(f"{reference.data.name} has no class labels")
    if dim * min(num_classes * dim, reference.size(split)) > MAX_VALUES:
        raise UnmeasurableError(f"{num_classes} covariances of {dim} features each do not fit into memory")
    each = min(dim, reference.size(split) // num_classes)
    say_if_long(f"the distances of {num_classes} classes, of {dim:,} features,", 15.0 * num_classes * each**3)
    rows = []
    for label, real in reference.class_moments(split).items():
        mine = vectors[y.cpu() == label]
        if len(mine) < 2:
            continue
        statistics = FeatureStatistics(dim)
        statistics.update(mine)
        rows.append((label, frechet_distance(statistics.compute(), real), len(mine), int(real.n)))
    return (
        ClassDistances(*(list(column) for column in zip(*rows, strict=True)))
        if rows
        else ClassDistances([], [], [], [])
    )
