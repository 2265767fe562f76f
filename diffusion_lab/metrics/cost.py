"""The costs of sampling, training and storing a model, as recorded when its samples were drawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from diffusion_lab.metrics.effort import seconds_per_1000, timed
from diffusion_lab.metrics.metric import Metric, Naming, Need, Scores, Subject
from diffusion_lab.models.generator import Generator
from diffusion_lab.store.measures import LOW, SECONDS, Measure


@dataclass(frozen=True)
class NetworkEvaluations(Metric):
    """Network evaluations per sample; gradients of a guiding classifier are not counted."""

    needs = (Need.SAMPLES, Need.GENERATOR)

    def measures(self, namings: Sequence[Naming]) -> Iterable[Measure]:
        yield Measure("nfe", "NFE", meaning="network evaluations per sample", decimals=0)

    def score(self, subject: Subject) -> Scores:
        return Scores(values={"nfe": subject.drawn.efforts[0].nfe})


@dataclass(frozen=True)
class Cost(Metric):
    """Seconds and memory of sampling, size and arithmetic of the model, and the cost of its training."""

    needs = (Need.SAMPLES, Need.GENERATOR)

    def measures(self, namings: Sequence[Naming]) -> Iterable[Measure]:
        meaning = "seconds for 1000 samples"
        yield Measure(SECONDS, "s per 1000 samples", "s", LOW, meaning, ("data", "cost"), logs=True, decimals=1)
        yield Measure("training_seconds", "training", "s", meaning="seconds of training", column=False, decimals=0)

    def score(self, subject: Subject) -> Scores:
        scores = Scores()
        efforts, laps = subject.drawn.efforts, timed(subject.drawn.efforts)
        device = ", ".join(sorted({effort.device for effort in efforts}))
        scores.protocol["cost"] = {
            "device": device,
            "threads": max(effort.threads for effort in efforts),
            "batch_size": subject.settings.batch_size,
            "timed_images": sum(images for images, _ in laps),
            "peak_memory": efforts[0].peak_memory_of,
        }
        with scores.attempt([SECONDS]):
            scores.record(SECONDS, seconds_per_1000(efforts))
        scores.details[SECONDS] = f"per 1000 samples ({device})"
        scores.record("peak_memory_mib", max(effort.peak_memory_mib for effort in efforts))
        scores.record("parameters", sum(tensor.numel() for tensor in _parameters(subject.generator)))
        training = subject.source.training
        for fact, value in training.items():
            what = "training time" if fact == "seconds" else "training"
            scores.record(f"training_{fact}", value, f"the {what} up to these weights was not recorded")
        if training.get("steps") is not None:
            scores.details["training_seconds"] = f"{training['steps']} steps, {training['images']} images"
        scores.record("flops_per_sample", subject.generator.sampling_flops())
        return scores


def _parameters(generator: Generator) -> Iterator[Tensor]:
    """Parameters of all networks that draw samples; a GAN's discriminator is left out."""
    for network in generator.networks.values():
        yield from network.parameters()
