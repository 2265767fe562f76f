"""Distances between samples and real images, and precision and recall."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffusion_lab.data.order import evenly_spaced
from diffusion_lab.metrics.duration import say_if_long
from diffusion_lab.metrics.fidelity import in_manifolds, kernel_distance, kernel_influences
from diffusion_lab.metrics.frechet import frechet_distance
from diffusion_lab.metrics.metric import FeatureMetric, Naming, Need
from diffusion_lab.metrics.settings import check_at_least
from diffusion_lab.store.measures import HIGH, LOW, REAL_IMAGES, SAMPLES, STANDARD_ERROR, Measure

if TYPE_CHECKING:
    from diffusion_lab.metrics.scores import Scores
    from diffusion_lab.metrics.subject import View


_MOST_ROWS = 2048  # of each side, whose pairs say how uncertain a kernel distance is
_MANIFOLDS = {
    "precision": "share of samples that look real",
    "recall": "share of real images that have a sample nearby",
}


@dataclass(frozen=True)
class FrechetDistance(FeatureMetric):
    """The Fréchet distance of samples to all images of the reference, and its floor: that of as many real images."""

    def feature_measures(self, naming: Naming) -> Iterable[Measure]:
        name = naming.distance
        floor, meaning = f"{name}_floor", f"Fréchet distance by {naming.kind}"
        shared = {"agrees": naming.agrees(), "better": LOW, "logs": True, "headline": True}
        yield Measure(name, name, meaning=meaning, floor_of=floor, **shared)
        yield Measure(
            floor, "  its floor", meaning="the same distance between real images", agrees=naming.agrees(), column=False
        )

    def score_view(self, view: View, scores: Scores) -> None:
        name, held_out, real = view.naming.distance, view.settings.held_out_split, view.real
        n, as_many = len(view.drawn.features), min(len(view.drawn.features), view.num_held_out)
        scores.measure([name], lambda: (frechet_distance(view.drawn.moments(view.device), real),))
        scores.details[name] = f"by {view.naming.kind}; n = {n} vs {view.compared}"
        if not as_many:
            scores.record(
                f"{name}_floor", None, f"needs real images besides the reference, but {view.compared} are all there are"
            )
            return
        scores.measure([f"{name}_floor"], lambda: (frechet_distance(view.reference.moments(held_out, as_many), real),))
        scores.details[f"{name}_floor"] = f"n = {as_many} real {held_out} images vs the same" + (
            "" if as_many == n else "; a different n, so not comparable"
        )
        scores.protocol["floor"] = {"split": held_out, "num_images": as_many}


@dataclass(frozen=True)
class KernelDistance(FeatureMetric):
    """The kernel distance (KID on Inception features): the mean over pairs of random subsets."""

    needs = (Need.REAL_IMAGES,)

    num_subsets: int = 100
    subset_size: int = 1000

    def __post_init__(self) -> None:
        check_at_least(1, "num_subsets", self.num_subsets)
        check_at_least(2, "subset_size", self.subset_size)

    @staticmethod
    def _name(naming: Naming) -> str:
        """ "kid" where the distance is a "fid"; "kd_…" where it is "fd_…", or has a name that only a Fréchet distance has."""
        if naming.distance == "fid" or naming.distance.startswith("fd_"):
            return "k" + naming.distance[1:]
        return f"kd_{naming.features}"

    def feature_measures(self, naming: Naming) -> Iterable[Measure]:
        name, agrees = self._name(naming), naming.agrees("kernel_distance")
        yield Measure(name, name, "", LOW, f"kernel distance by {naming.kind}", agrees, logs=True, brief=False)

    def score_view(self, view: View, scores: Scores) -> None:
        size = min(self.subset_size, len(view.drawn.features), len(view.some_real))
        scores.protocol["kernel_distance"] = {
            "kernel": "(x·y/D + 1)³",
            "num_subsets": self.num_subsets,
            "subset_size": size,
            "num_reference": len(view.some_real),
        }
        dim, pairs = view.features.dim, 3 * self.num_subsets * size**2 + (2 * _MOST_ROWS) ** 2
        say_if_long(f"the kernel distance of {dim:,} features", float(pairs) * dim)
        found = kernel_distance(view.drawn.vectors(), view.some_real, self.num_subsets, size, view.settings.seed)
        scores.record(self._name(view.naming), found)
        self._spread(view, scores)
        scores.details[self._name(view.naming)] = f"mean over {self.num_subsets} pairs of subsets of {size} images"

    def _spread(self, view: View, scores: Scores) -> None:
        """Its standard error and the sources of it. For many images it is computed from some and scaled by the root of n."""
        name, x, y = self._name(view.naming), view.drawn.vectors(), view.some_real
        some = y[evenly_spaced(len(y), min(len(y), _MOST_ROWS))]
        of_samples, of_real, error = kernel_influences(x[:_MOST_ROWS], some)
        fewer = (len(of_samples) / len(x)) ** 0.5, (len(some) / len(y)) ** 0.5
        scores.record(name + STANDARD_ERROR, error * max(fewer))
        scores.spread(name, SAMPLES, of_samples * fewer[0])
        scores.spread(name, REAL_IMAGES, of_real * fewer[1])


@dataclass(frozen=True)
class PrecisionRecall(FeatureMetric):
    """Precision, the share of samples among real images, and recall, the share of real images among samples."""

    needs = (Need.REAL_IMAGES,)

    neighbours: int = 3

    def __post_init__(self) -> None:
        check_at_least(1, "neighbours", self.neighbours)

    def feature_measures(self, naming: Naming) -> Iterable[Measure]:
        for name, meaning in _MANIFOLDS.items():
            yield naming.measure(name, more=("precision_recall",), better=HIGH, meaning=meaning)

    def score_view(self, view: View, scores: Scores) -> None:
        # As many real images as samples: a manifold of more points is larger, and would favour one side.
        some, n = view.some_real, len(view.drawn.features)
        as_many = some[evenly_spaced(len(some), min(n, len(some)))]
        scores.protocol["precision_recall"] = {"neighbours": self.neighbours, "num_reference": len(as_many)}
        names = [view.naming(name) for name in _MANIFOLDS]
        dim = view.features.dim
        say_if_long(f"precision and recall of {dim:,} features", float(n + len(as_many)) ** 2 * dim)
        hits = in_manifolds(view.drawn.vectors(), as_many, self.neighbours)
        for name, source, own in zip(names, (SAMPLES, REAL_IMAGES), hits, strict=True):
            scores.share(name, source, own)
        how = f"n = {n} vs {len(as_many)}, {self.neighbours} neighbours"
        scores.details |= {name: f"{meaning} ({how})" for name, meaning in zip(names, _MANIFOLDS.values(), strict=True)}
