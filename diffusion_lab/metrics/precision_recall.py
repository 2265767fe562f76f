"""Precision and recall of features (Kynkäänniemi et al. 2019, eq. 1 and 2).

The share of samples inside the manifold of the reference, and the reverse; a manifold is the union of the balls around its points
that reach to the k-th nearest neighbour. float64, because distances are computed from inner products.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_lab.data.order import evenly_spaced
from diffusion_lab.metrics.metric import FeatureMetric, Naming, Need, Scores, View
from diffusion_lab.metrics.reference import UnmeasurableError
from diffusion_lab.store.measures import HIGH, REAL_IMAGES, SAMPLES, Measure

_MANIFOLDS = {
    "precision": "share of samples that look real",
    "recall": "share of real images that have a sample nearby",
}


@dataclass(frozen=True)
class PrecisionRecall(FeatureMetric):
    """Precision, the share of samples among real images, and recall, the share of real images among samples.

    neighbours: k, of the balls.
    """

    needs = (Need.SAMPLES, Need.REAL_IMAGES)
    least = (("neighbours", 1),)

    neighbours: int = 3

    def feature_measures(self, naming: Naming) -> Iterable[Measure]:
        for name, meaning in _MANIFOLDS.items():
            yield naming.measure(name, more=("precision_recall",), better=HIGH, meaning=meaning)

    def score_view(self, view: View) -> Scores:
        # As many real images as samples, because a manifold of more points is larger and would favour one side.
        scores = Scores()
        some, n = view.some_real, len(view.drawn.features)
        as_many = some[evenly_spaced(len(some), min(n, len(some)))]
        scores.protocol["precision_recall"] = {"neighbours": self.neighbours, "num_reference": len(as_many)}
        names = [view.naming(name) for name in _MANIFOLDS]
        hits = in_manifolds(view.drawn.vectors(), as_many, self.neighbours)
        for name, source, own in zip(names, (SAMPLES, REAL_IMAGES), hits, strict=True):
            scores.share(name, source, own)
        how = f"n = {n} vs {len(as_many)}, {self.neighbours} neighbours"
        scores.details |= {name: f"{meaning} ({how})" for name, meaning in zip(names, _MANIFOLDS.values(), strict=True)}
        return scores


def in_manifolds(samples: Tensor, reference: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
    """(which samples (N, D) lie in the manifold of the reference (M, D), and the reverse), bool (N,) and (M,).

    Their shares are precision and recall, with balls to the k-th neighbour, k = neighbours. UnmeasurableError unless N and M
    exceed k.
    """
    if min(len(samples), len(reference)) <= neighbours:
        raise UnmeasurableError(
            f"precision and recall with {neighbours} neighbours need more images than neighbours, "
            f"got {len(samples)} samples and {len(reference)} of the reference"
        )
    x, y = samples.double().cpu(), reference.double().cpu()
    return _among(x, y, neighbours), _among(y, x, neighbours)


def _among(points: Tensor, others: Tensor, neighbours: int) -> Tensor:
    """Whether each point lies in one of the balls around the others, bool (n,); computed for 1000 rows at a time."""
    radii = torch.cat([torch.cdist(rows, others).kthvalue(neighbours + 1).values for rows in others.split(1000)])
    return torch.cat([(torch.cdist(rows, others) <= radii).any(dim=1) for rows in points.split(1000)])
