"""The classes that a model generates, conditional or not: a collapsed model misses some."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_lab.diffusion.bound import in_bits
from diffusion_lab.metrics.metric import FeatureMetric, Naming, Need, Scores, View
from diffusion_lab.store.measures import HIGH, Measure, interval_of_share


@dataclass(frozen=True)
class ClassCoverage(FeatureMetric):
    """The classes that samples are assigned to, for any model."""

    needs = (Need.SAMPLES, Need.REAL_IMAGES)

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

    def score_view(self, view: View) -> Scores:
        scores = Scores()
        predicted = view.features.classes(view.on_device)
        if predicted is None:
            return scores
        known = view.features.classes(view.some_real.to(view.device))
        assert known is not None
        present, entropy = class_coverage(known)
        part = {"reference_present": present, "reference_entropy": entropy}
        scores.protocol[view.naming("class_coverage")] = part
        names = [view.naming("classes_present"), view.naming("class_entropy")]
        with scores.attempt(names):
            for name, value in zip(names, class_coverage(view.drawn.finite(predicted)), strict=True):
                scores.record(name, value)
            scores.curves[view.naming("class_shares")] = _shares(predicted)
        scores.details |= {names[0]: f"of {present:.0f} found among real images", names[1]: f"of {entropy:.2f}"}
        return scores


def _shares(predicted: Tensor) -> dict[str, list[float]]:
    """The share of samples assigned to each class, with its 95 % interval; predicted int64 (n,)."""
    counts = predicted.cpu().bincount().tolist()
    low, high = zip(*(interval_of_share(count, len(predicted)) for count in counts), strict=True)
    shares = [count / len(predicted) for count in counts]
    return {"class": list(range(len(counts))), "share": shares, "low": list(low), "high": list(high)}


def class_coverage(predicted: Tensor) -> tuple[float, float]:
    """(number of classes that occur, entropy of their shares in bits); predicted int64 (n,).

    The entropy of K equally frequent classes is log2(K), and 0 for a single class. A single stray image makes a class occur, but
    hardly changes the entropy.
    """
    shares = torch.bincount(predicted.cpu()).double() / len(predicted)
    return float((shares > 0).sum()), in_bits(float(-torch.xlogy(shares, shares).sum()))
