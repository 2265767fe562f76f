"""Bits per dimension, exact or a bound, of images that training has not seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from diffusion_lab.metrics.likelihood import score_likelihood
from diffusion_lab.metrics.metric import Metric, Naming, Need
from diffusion_lab.metrics.settings import check_at_least
from diffusion_lab.store.measures import ENTROPY, LOW, Measure

if TYPE_CHECKING:
    from diffusion_lab.metrics.scores import Scores
    from diffusion_lab.metrics.subject import Subject


@dataclass(frozen=True)
class BitsPerDim(Metric):
    """The negative log-likelihood of the first num_images test or validation images, or a bound on it, in bits per dimension, and
    beside it the entropy of the data where their density is known.

    batch_size: images at a time. max_terms: at most so many terms of a chain. num_draws: independent repetitions.
    """

    needs = (Need.MODEL,)
    needs_samples = False

    num_images: int = 256
    batch_size: int = 128
    max_terms: int | None = 100
    num_draws: int = 1

    def __post_init__(self) -> None:
        for name in ("num_images", "batch_size", "num_draws"):
            check_at_least(1, name, getattr(self, name))
        if self.max_terms is not None:
            check_at_least(2, "max_terms", self.max_terms)  # L_0 and one for all others

    def measures(self, namings: Sequence[Naming]) -> Iterable[Measure]:
        meaning = "negative log-likelihood of held-out images, or a bound on it"
        yield Measure("bits_per_dim", "bits/dim", "", LOW, meaning, ("data", "bound"), headline=True)
        least = "an unconditional model needs at least as many"
        yield Measure(ENTROPY, "  the data's entropy", meaning=least, agrees=("data",), column=False)

    def score(self, subject: Subject, scores: Scores) -> None:
        seed, split = subject.settings.seed, subject.settings.unseen_split
        likelihood = score_likelihood(subject.model, subject.data, seed, subject.progress, split, **asdict(self))
        if likelihood is None:
            scores.record("bits_per_dim", None, "this model has no likelihood")
            return
        scores.record("bits_per_dim", likelihood.bits_per_dim)
        scores.spread("bits_per_dim", f"{split} images", likelihood.per_image)
        scores.record("bits_per_dim_standard_error", likelihood.standard_error)
        scores.record("bits_per_dim_noise_error", likelihood.noise_error, "needs metrics.bits_per_dim.num_draws ≥ 2")
        entropy = subject.data.entropy_bits()
        if entropy is not None:
            scores.record(ENTROPY, entropy)
        for name, value in (likelihood.parts | likelihood.beside).items():
            scores.record(f"bits_per_dim_{name}", value)
        if likelihood.curve:
            scores.curves["bits_per_dim"] = likelihood.curve
        scores.details["bits_per_dim"] = f"{likelihood.kind}, {likelihood.num_images} {split} images"
        scores.protocol["bound"] = {
            "kind": likelihood.kind,
            "split": split,
            **asdict(self),
            "num_images": likelihood.num_images,
            "num_terms": max((len(entry) for entry in likelihood.curve.values()), default=None),
            "seed": seed,
        }
