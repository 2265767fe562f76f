"""The Inception score exp E_x KL(p(class|x) ‖ p(class)), from 1 to the number of classes (Salimans et al. 2016).

It does not use the reference. As published and as in torch-fidelity, float64: the mean over ten random parts of the samples,
and the standard deviation between the parts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

from diffusion_lab.metrics.metric import FeatureMetric, Naming, Scores, View
from diffusion_lab.metrics.reference import UnmeasurableError
from diffusion_lab.store.measures import HIGH, Measure


@dataclass(frozen=True)
class InceptionScore(FeatureMetric):
    """The Inception score of the samples in num_parts parts, for features with logits."""

    least = (("num_parts", 1),)

    num_parts: int = 10

    def feature_measures(self, naming: Naming) -> Iterable[Measure]:
        meaning = "how sure a classifier is of each sample, and how many classes they spread over"
        yield naming.measure(
            "inception_score", "inception score", ["inception_score"], better=HIGH, meaning=meaning, brief=False
        )

    def score_view(self, view: View) -> Scores:
        scores, logits = Scores(), view.features.class_logits(view.on_device)
        if logits is None:
            return scores
        name, std = view.naming("inception_score"), view.naming("inception_score_std")
        scores.protocol["inception_score"] = {"num_parts": self.num_parts}
        with scores.attempt([name, std]):
            mean, deviation = inception_score(view.drawn.finite(logits), view.settings.seed, self.num_parts)
            scores.record(name, mean)
            scores.record(std, deviation)
            scores.details[name] = f"± {deviation:.3f} between {self.num_parts} parts, n = {len(logits)}"
        return scores


def inception_score(logits: Tensor, seed: int, num_parts: int = 10) -> tuple[float, float]:
    """(mean, standard deviation) of the score over `num_parts` parts of logits (N, classes), shuffled by `seed`.

    Raises UnmeasurableError unless there is a sample for each part.
    """
    if len(logits) < num_parts:
        raise UnmeasurableError(
            f"an Inception score over {num_parts} parts needs at least as many samples, got {len(logits)}"
        )
    result = isc_features_to_metric(logits.double().cpu(), num_parts, rng_seed=seed % 2**32)
    return float(result[KEY_METRIC_ISC_MEAN]), float(result[KEY_METRIC_ISC_STD])
