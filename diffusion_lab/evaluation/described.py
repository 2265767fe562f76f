"""What the numbers of a metrics.json mean: from the file itself or, for files of older code, from the metrics of that time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusion_lab.evaluation.metrics import (
    BitsPerDim,
    ClassAccuracy,
    ClassCoverage,
    Cost,
    FrechetDistance,
    InceptionScore,
    KernelDistance,
    Metric,
    Naming,
    NetworkEvaluations,
    PrecisionRecall,
)
from diffusion_lab.measures import Measure, read_measures

# What every score measured before there was a choice, by the names of conf/metrics, in the order of the columns.
BEFORE: dict[str, Metric] = {
    "network_evaluations": NetworkEvaluations(),
    "frechet_distance": FrechetDistance(),
    "kernel_distance": KernelDistance(),
    "precision_recall": PrecisionRecall(),
    "inception_score": InceptionScore(),
    "class_accuracy": ClassAccuracy(),
    "bits_per_dim": BitsPerDim(),
    "cost": Cost(),
    "class_coverage": ClassCoverage(),
}


def described(metrics: Mapping[str, Any]) -> list[Measure]:
    """The measures of a metrics.json, in its order. ValueError for content that no score writes."""
    if "measures" in metrics:
        return read_measures(metrics["measures"])
    protocol = metrics["protocol"]
    known = {*metrics["values"], *protocol.get("absent", {})}
    name = protocol.get("features", {}).get("name", "")
    naming = Naming(name, "fid" if "fid" in known else f"fd_{name}")
    return [measure for metric in BEFORE.values() for measure in metric.measures([naming]) if measure.name in known]
