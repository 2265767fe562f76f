"""Bits per dimension of held-out images, exact or a bound."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from diffusion_lab.data.module import DataModule
from diffusion_lab.diffusion.condition_parts import parts
from diffusion_lab.diffusion.noise import derive_seed
from diffusion_lab.diffusion.shapes import Conditions
from diffusion_lab.metrics.metric import Metric, Naming, Need, Scores, Subject
from diffusion_lab.models.generator import Likelihood
from diffusion_lab.store.measures import ENTROPY, LOW, Measure


@dataclass(frozen=True)
class BitsPerDim(Metric):
    """The negative log-likelihood of the first num_images test or validation images, or a bound on it, in bits per dimension, and
    beside it the entropy of data with known density.

    For real-valued data it is the density of the normalised data z = (x − shift)/scale, which may be negative; that of x is higher
    by the mean of log2 scale, which is part of the score.

    batch_size: images at a time. max_terms: at most this many terms of a chain. num_draws: repetitions with other noise.
    """

    needs = (Need.GENERATOR,)
    least = (
        ("num_images", 1),
        ("batch_size", 1),
        ("num_draws", 1),
        ("max_terms", 2),
    )  # terms: L_0 and one for all others

    num_images: int = 256
    batch_size: int | None = None
    max_terms: int | None = 100
    num_draws: int = 1

    def measures(self, namings: Sequence[Naming]) -> Iterable[Measure]:
        meaning = "negative log-likelihood of held-out images, or a bound on it"
        yield Measure("bits_per_dim", "bits/dim", "", LOW, meaning, ("data", "bound"), headline=True)
        least = "an unconditional model needs at least as many"
        yield Measure(ENTROPY, "  the data's entropy", meaning=least, agrees=("data",), column=False)

    def score(self, subject: Subject) -> Scores:
        scores = Scores()
        seed, split = subject.settings.seed, subject.settings.unseen_split
        draws = self.likelihoods(subject)
        if draws is None:
            scores.record("bits_per_dim", None, subject.generator.no_likelihood)
            return scores
        first, bits = draws[0], torch.stack([draw.bits_per_dim for draw in draws])
        per_image, size = bits.mean(0), bits.shape[1]
        # The error for these images, from noise and choice of terms: given the seed, images are independent, so variances add.
        noise_error = float((bits.var(0).sum() / len(draws)).sqrt() / size) if len(draws) > 1 else first.standard_error
        scores.record("bits_per_dim", float(per_image.mean()))
        scores.spread("bits_per_dim", f"{split} images", per_image)
        # The error as an estimate for the distribution of images.
        scores.record("bits_per_dim_standard_error", float(per_image.std() / size**0.5) if size > 1 else math.nan)
        scores.record("bits_per_dim_noise_error", noise_error, "needs metrics.bits_per_dim.num_draws ≥ 2")
        entropy = subject.data.entropy_bits()
        if entropy is not None:
            scores.record(ENTROPY, entropy)
        for part in ("parts", "beside"):
            for name in getattr(first, part):
                found = torch.stack([getattr(draw, part)[name] for draw in draws])
                scores.record(f"bits_per_dim_{name}", float(found.mean()))
        curve = {name: entry.tolist() for name, entry in (first.curve or {}).items()}
        if curve:
            scores.curves["bits_per_dim"] = curve
        units = subject.data.units
        scaled = (
            "" if units is None else f", a density of the normalised data: in the data's units {units.log2_scale:+.4f}"
        )
        scores.details["bits_per_dim"] = f"{first.kind}, {size} {split} images{scaled}"
        scores.protocol["bound"] = {
            "kind": first.kind,
            "split": split,
            **asdict(self),
            "num_images": size,
            "num_terms": max((len(entry) for entry in curve.values()), default=None),
            "seed": seed,
            **({} if units is None else {"log2_scale": units.log2_scale}),
        }
        return scores

    def likelihoods(self, subject: Subject) -> list[Likelihood] | None:
        """The likelihood of the first images of the split, one draw each, combined by `joined`; None for a family without one."""
        generator, data, split = subject.generator, subject.data, subject.settings.unseen_split
        rows: list[list[Likelihood]] = [[] for _ in range(self.num_draws)]
        for x_0, y, indices in subject.batches(
            split, self.batch_size, self.num_images, f"likelihood of {split} images"
        ):
            for draw, batches in enumerate(rows):
                seed = derive_seed(subject.settings.seed, draw)
                with torch.no_grad():
                    likelihood = generator.likelihood(x_0, y, seed, indices, self.max_terms)
                if likelihood is None:
                    return None
                batches.append(likelihood if y is None else _with_label(likelihood, label_bits(data, y)))
        return [joined(batches) for batches in rows]


def label_bits(data: DataModule, y: Conditions) -> Tensor:
    """The cost of y, which −log p(x_0|y) omits, in bits/dim, float64 (B,).

    Zero for the data's own classes, which the image does not determine; −log2 p(y) / D for clusters, which it determines.
    """
    bits = [condition.bits(part) for condition, part in zip(data.conditions.values(), parts(y), strict=True)]
    return torch.stack(bits).sum(0) / math.prod(data.shape)


def _with_label(likelihood: Likelihood, bits: Tensor) -> Likelihood:
    """The likelihood with −log p(x_0, y) in place of −log p(x_0|y); values that do not depend on y are unchanged.

    bits: float64 (B,), as from `label_bits`.
    """
    kind = likelihood.kind.replace(" given the class", ", for an image and its cluster")
    kind = kind.replace(" given the conditions", ", for an image and its clusters given the other conditions")
    if not bits.any() or kind == likelihood.kind:
        return likelihood
    return replace(
        likelihood,
        bits_per_dim=likelihood.bits_per_dim.cpu() + bits,
        kind=kind if kind.startswith("bound") else f"bound: {kind}",
        parts={**likelihood.parts, "label": bits},
        beside={name: statement.cpu() + bits for name, statement in likelihood.beside.items()},
    )


def joined(batches: list[Likelihood]) -> Likelihood:
    """The likelihood of all images from those of batches, float64 on the CPU.

    Curve entries (B, K) are averaged over images; entries (K,) are labels of terms and equal in all batches.
    """

    def whole(parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([part.cpu().double() for part in parts])

    def entry(name: str) -> Tensor:
        parts = [batch.curve[name].cpu() for batch in batches if batch.curve is not None]
        return whole(parts).mean(0) if parts[0].ndim > 1 else parts[0]

    first = batches[0]
    stated = [(len(b.bits_per_dim), b.standard_error) for b in batches if b.standard_error is not None]
    bits = whole([batch.bits_per_dim for batch in batches])
    error = sum((n * error) ** 2 for n, error in stated) ** 0.5 / len(bits)  # batches are independent
    return Likelihood(
        bits,
        first.kind,
        {name: whole([batch.parts[name] for batch in batches]) for name in first.parts},
        {name: entry(name) for name in first.curve or ()},
        error if len(stated) == len(batches) else None,
        {name: whole([batch.beside[name] for batch in batches]) for name in first.beside},
    )
