"""Bits per dimension, exact or a bound, of images that training has not seen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from diffusion_lab.data.module import DataModule
from diffusion_lab.diffusion.noise import derive_seed
from diffusion_lab.metrics.measuring import batches_of
from diffusion_lab.metrics.metric import Metric, Naming, Need, Scores, Subject
from diffusion_lab.metrics.shards import Progress
from diffusion_lab.models.base import GenerativeModel, Likelihood
from diffusion_lab.store.measures import ENTROPY, LOW, Measure


@dataclass(frozen=True)
class BitsPerDim(Metric):
    """The negative log-likelihood of the first num_images test or validation images, or a bound on it, in bits per dimension, and
    beside it the entropy of the data where their density is known.

    batch_size: images at a time. max_terms: at most so many terms of a chain. num_draws: independent repetitions.
    """

    needs = (Need.MODEL,)
    needs_samples = False
    least = (
        ("num_images", 1),
        ("batch_size", 1),
        ("num_draws", 1),
        ("max_terms", 2),
    )  # terms: L_0 and one for all others

    num_images: int = 256
    batch_size: int = 128
    max_terms: int | None = 100
    num_draws: int = 1

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


@dataclass(frozen=True)
class LikelihoodScore:
    """Averages over images and draws.

    standard_error  of bits_per_dim as an estimate for the images' distribution: spread over images / √n
    noise_error     of bits_per_dim as an estimate for these very images, from noise and choice of terms alone; None
                    where nothing tells (one draw, and the model states none)
    beside          other statements in bits/dim about the same images, by name
    per_image       (num_images,) float64, bits_per_dim of each
    curve           by term, from the first draw: name -> K numbers
    """

    kind: str
    bits_per_dim: float
    standard_error: float
    noise_error: float | None
    parts: dict[str, float]
    beside: dict[str, float]
    curve: dict[str, list[float]]
    num_images: int
    per_image: Tensor


def score_likelihood(
    model: GenerativeModel,
    data: DataModule,
    seed: int,
    progress: Progress,
    split: str = "test",
    num_images: int = 256,
    batch_size: int = 128,
    max_terms: int | None = 100,
    num_draws: int = 1,
) -> LikelihoodScore | None:
    """The mean likelihood of the first num_images images of the split; None for a family that has none."""
    size = min(num_images, data.size(split))
    rows: list[list[Likelihood]] = [[] for _ in range(num_draws)]
    done = 0
    for x_0, y, indices in batches_of(model, data, split, batch_size, size):
        for draw, batches in enumerate(rows):
            with torch.no_grad():
                likelihood = model.likelihood(x_0, y, derive_seed(seed, draw), indices, max_terms)
            if likelihood is None:
                return None
            batches.append(likelihood if y is None else _with_label(likelihood, label_bits(data, y)))
        done += len(x_0)
        progress(f"likelihood of {split} images", done, size)
    return aggregate(rows)


def label_bits(data: DataModule, y: Tensor) -> Tensor:
    """The cost of the labels y (B,), which −log p(x_0|y) leaves out, in bits/dim, float64 (B,).

    Zero for the data's own classes, which the image does not determine; −log2 p(y) / D for clusters, which it does.
    """
    if data.clusters is None:
        return torch.zeros(len(y), dtype=torch.float64)
    return data.clusters.bits(y) / math.prod(data.shape)


def _with_label(likelihood: Likelihood, bits: Tensor) -> Likelihood:
    """−log p(x_0, y) for −log p(x_0|y); what was stated without y stays as it is."""
    given = " given the class"
    if not bits.any() or given not in likelihood.kind:
        return likelihood
    kind = likelihood.kind.replace(given, ", for an image and its cluster")
    return replace(
        likelihood,
        bits_per_dim=likelihood.bits_per_dim.cpu() + bits,
        kind=kind if kind.startswith("bound") else f"bound: {kind}",
        parts={**likelihood.parts, "label": bits},
        beside={name: statement.cpu() + bits for name, statement in likelihood.beside.items()},
    )


def aggregate(rows: list[list[Likelihood]]) -> LikelihoodScore:
    """rows[draw][batch] -> averages; all draws see the same batches."""
    bits = torch.stack([torch.cat([batch.bits_per_dim.cpu().double() for batch in draw]) for draw in rows])
    num_draws, num_images = bits.shape
    per_image = bits.mean(0)
    # Images are independent of each other given the seed, so their noise variances add up.
    noise_error = (
        _stated_error(rows[0]) if num_draws == 1 else float((bits.var(0).sum() / num_draws).sqrt() / num_images)
    )
    return LikelihoodScore(
        kind=rows[0][0].kind,
        bits_per_dim=float(per_image.mean()),
        standard_error=float(per_image.std() / num_images**0.5) if num_images > 1 else float("nan"),
        noise_error=noise_error,
        parts=_means([batch.parts for draw in rows for batch in draw]),
        beside=_means([batch.beside for draw in rows for batch in draw]),
        curve=_mean_curve(rows[0]),
        num_images=num_images,
        per_image=per_image,
    )


def _means(batches: list[dict[str, Tensor]]) -> dict[str, float]:
    return {name: float(torch.cat([batch[name].cpu().double() for batch in batches]).mean()) for name in batches[0]}


def _stated_error(batches: list[Likelihood]) -> float | None:
    """Of the mean over all batches, each of which is independent and states its own error."""
    stated = [(len(batch.bits_per_dim), batch.standard_error) for batch in batches if batch.standard_error is not None]
    if len(stated) < len(batches):
        return None
    return sum((n * error) ** 2 for n, error in stated) ** 0.5 / sum(n for n, _ in stated)


def _mean_curve(batches: list[Likelihood]) -> dict[str, list[float]]:
    """Entries (B, K) averaged over the images; entries (K,) name the terms and are kept."""
    curves = [batch.curve for batch in batches if batch.curve is not None]

    def entry(name: str) -> Tensor:
        parts = [curve[name].cpu() for curve in curves]
        if parts[0].ndim == 1:
            if any(not torch.equal(part, parts[0]) for part in parts):
                raise ValueError(f"the likelihood's curve has different {name} in different batches")
            return parts[0]
        return torch.cat(parts).double().mean(0)

    return {name: entry(name).tolist() for name in batches[0].curve or ()}
