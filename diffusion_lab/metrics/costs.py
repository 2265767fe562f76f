"""What a model costs to sample, to train and to store, as recorded when its samples were drawn, now or in an earlier score."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from diffusion_lab.metrics.metric import Metric, Naming, Need, Scores, Subject
from diffusion_lab.metrics.stopwatch import num_parameters
from diffusion_lab.store.measures import LOW, SECONDS, Measure


@dataclass(frozen=True)
class NetworkEvaluations(Metric):
    """How often one sample runs the network; a guiding classifier's gradient is not counted."""

    needs = (Need.MODEL,)

    def measures(self, namings: Sequence[Naming]) -> Iterable[Measure]:
        yield Measure("nfe", "NFE", meaning="network evaluations per sample", decimals=0)

    def score(self, subject: Subject, scores: Scores) -> None:
        scores.record("nfe", subject.drawn.nfe)


@dataclass(frozen=True)
class Cost(Metric):
    """Seconds and memory of drawing, the size of the model, its arithmetic, and what its training took."""

    needs = (Need.MODEL,)

    def measures(self, namings: Sequence[Naming]) -> Iterable[Measure]:
        meaning = "seconds for 1000 samples"
        yield Measure(SECONDS, "s / 1000", "s", LOW, meaning, ("data", "cost"), logs=True, decimals=1)
        yield Measure("training_seconds", "training", "s", meaning="seconds of training", column=False, decimals=0)

    def score(self, subject: Subject, scores: Scores) -> None:
        drawn, training = subject.drawn, subject.source.training
        cost = drawn.cost_protocol()
        scores.protocol["cost"] = cost
        with scores.attempt([SECONDS]):
            scores.record(SECONDS, drawn.seconds_per_1000())
        scores.details[SECONDS] = f"per 1000 samples ({cost['device']})"
        scores.record("peak_memory_mib", drawn.peak_memory_mib(), str(cost["peak_memory"]))
        scores.record("parameters", num_parameters(subject.model))
        if training is not None:
            for fact in ("steps", "seconds", "images"):
                what = "training time" if fact == "seconds" else "training"
                unknown = f"the {what} up to these weights was not recorded"
                scores.record(f"training_{fact}", getattr(training, fact), unknown)
            if training.steps is not None:
                scores.details["training_seconds"] = f"{training.steps} steps, {training.images} images"
        scores.record("flops_per_sample", subject.model.sampling_flops())
