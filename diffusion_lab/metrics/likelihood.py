"""Mean bits per dimension of images under a model: exact, or a bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffusion_lab.diffusion.noise import derive_seed
from diffusion_lab.models.base import GenerativeModel, Likelihood

if TYPE_CHECKING:
    from diffusion_lab.data.module import DataModule


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
    progress: Callable[[str, int, int], None],
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
    for x_0, y in data.batches(split, batch_size, limit=size):
        indices = torch.arange(done, done + len(x_0), device=model.device)
        x_0 = x_0.to(model.device)
        y = y.to(model.device) if y is not None and model.num_classes is not None else None
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
    if any(batch.standard_error is None for batch in batches):
        return None
    sizes = [len(batch.bits_per_dim) for batch in batches]
    variance = sum((n * batch.standard_error) ** 2 for n, batch in zip(sizes, batches, strict=True))
    return variance**0.5 / sum(sizes)


def _mean_curve(batches: list[Likelihood]) -> dict[str, list[float]]:
    """Entries (B, K) averaged over the images; entries (K,) name the terms and are kept."""
    if batches[0].curve is None:
        return {}

    def entry(name: str) -> Tensor:
        parts = [batch.curve[name].cpu() for batch in batches]
        if parts[0].ndim == 1:
            if any(not torch.equal(part, parts[0]) for part in parts):
                raise ValueError(f"the likelihood's curve has different {name} in different batches")
            return parts[0]
        return torch.cat(parts).double().mean(0)

    return {name: entry(name).tolist() for name in batches[0].curve}
