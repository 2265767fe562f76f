"""d²(N(m_1, Σ_1), N(m_2, Σ_2)) = ‖m_1 − m_2‖² + tr Σ_1 + tr Σ_2 − 2 tr (Σ_1^½ Σ_2 Σ_1^½)^½

The squared Fréchet (2-Wasserstein) distance of two Gaussians (Dowson & Landau 1982); on Inception-v3 features, "FID"
(Heusel et al. 2017, eq. 6).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_lab.data.order import fixed_subset
from diffusion_lab.metrics.metric import FeatureMetric, Naming, Scores, View
from diffusion_lab.metrics.reference import FeatureStatistics, Moments, UnmeasurableError
from diffusion_lab.store.measures import LOW, Measure

_MOST_OF_SPREAD = (
    0.5  # of tr Σ, the distance of constant samples; a floor above this share hides differences between models
)


@dataclass(frozen=True)
class FrechetDistance(FeatureMetric):
    """The Fréchet distance of samples to all images of the reference, and its floor: that of as many real images."""

    def feature_measures(self, naming: Naming) -> Iterable[Measure]:
        name, agrees = naming.distance, naming.agrees()
        floor, meaning = f"{name}_floor", f"Fréchet distance by {naming.kind}"
        yield Measure(name, name, "", LOW, meaning, agrees, floor_of=floor, logs=True, headline=True)
        yield Measure(
            floor, "  its floor", meaning="the same distance between real images", agrees=agrees, column=False
        )

    def score_view(self, view: View) -> Scores:
        scores = Scores()
        name, held_out, real = view.naming.distance, view.settings.held_out_split, view.real
        n, as_many = len(view.drawn.features), min(len(view.drawn.features), view.num_held_out)
        with scores.attempt([name]):
            scores.record(name, frechet_distance(view.drawn.moments(view.device), real))
        scores.details[name] = f"by {view.naming.kind}; n = {n} vs {view.compared}"
        of = held_out if as_many else view.split
        if of != held_out and view.reference.size(of) >= 4:
            as_many = min(n, len(view.some_real) // 2)
        if as_many < 2:
            scores.record(f"{name}_floor", None, view.no_floor)
            return scores
        with scores.attempt([f"{name}_floor"]):
            if of == held_out:
                scores.record(f"{name}_floor", frechet_distance(view.reference.moments(held_out, as_many), real))
                scores.details[f"{name}_floor"] = view.floor_detail(as_many, n, "the same")
            else:
                some, rest = _parted(view.some_real, as_many)
                scores.record(f"{name}_floor", frechet_distance(some, rest))
                scores.details[f"{name}_floor"] = view.floor_detail(as_many, n, f"the other {rest.n:.0f}")
        scores.protocol["floor"] = {"split": of, "num_images": as_many}
        floor, spread = scores.values.get(f"{name}_floor", 0.0), float(real.trace)
        if floor > _MOST_OF_SPREAD * spread > 0:
            scores.details[name] = f"too few images to compare models; {scores.details[name]}"
        return scores


def _parted(vectors: Tensor, count: int) -> tuple[Moments, Moments]:
    """The moments of a fixed random choice of `count` vectors, and those of the others."""
    chosen = torch.zeros(len(vectors), dtype=torch.bool)
    chosen[fixed_subset(len(vectors), count)] = True
    some, rest = (FeatureStatistics(vectors.shape[1], [vectors[which]]).compute() for which in (chosen, ~chosen))
    return some, rest


def frechet_distance(a: Moments, b: Moments) -> float:
    """The squared Fréchet distance, ≥ 0, float64 throughout, for singular covariances too.

    With Σ_1 = L_1 L_1^T and Σ_2 = L_2 L_2^T, (Σ_1^½ Σ_2 Σ_1^½)^½ has the singular values of L_1^T L_2 as eigenvalues:
    real and non-negative by construction. Using them instead of roots of eigenvalues of the product preserves small
    values, which would be lost in the root of a rounding error, and makes the distance of a covariance to itself zero up to
    rounding. Traces are those of the factors, so the three terms agree about the null space.
    For n < D vectors L_1 consists of the centred ones, and no D × D matrix is factorised: with L_1 = Q·R, Q with n columns,
    only the n × n matrix Q^T Σ_2 Q is needed.

    Raises UnmeasurableError if the moments are not finite.
    """
    mean_a, mean_b = a.mean.reshape(-1).double(), b.mean.reshape(-1).double()
    if not (a.known.isfinite().all() and b.known.isfinite().all()):
        raise UnmeasurableError("the features are not finite")
    few, many = sorted((a, b), key=lambda moments: moments.factor is None)
    if few.factor is None or many.covariance is None:  # both are large, or both few
        factor_a, factor_b = (_factor(m.dense()) if m.factor is None else m.factor.double() for m in (a, b))
        traces = factor_a.square().sum() + factor_b.square().sum()
    else:
        basis, factor_a = torch.linalg.qr(few.factor.double())
        factor_b = _factor(basis.T @ many.covariance.double() @ basis)
        traces = factor_a.square().sum() + many.trace.double()
    spread = traces - 2 * torch.linalg.svdvals(factor_a.T @ factor_b).sum()
    return float((mean_a - mean_b).square().sum() + spread.clamp(min=0))


def _factor(covariance: Tensor) -> Tensor:
    """L (D, rank) with L L^T = Σ. Eigenvalues below the rounding error of Σ are dropped, because their roots would be noise."""
    covariance = covariance.double().reshape(-1, round(covariance.numel() ** 0.5))
    eigenvalues, eigenvectors = eigh(covariance)
    rounding = len(eigenvalues) * torch.finfo(torch.float64).eps * eigenvalues[-1].clamp(min=0)
    kept = eigenvalues > rounding
    return eigenvectors[:, kept] * eigenvalues[kept].sqrt()


def eigh(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """The eigenvalues (D,), ascending, and eigenvectors (D, D), columns, of a positive semi-definite matrix (D, D)."""
    try:
        eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
    except torch.linalg.LinAlgError:  # MKL's does not converge on some covariances of nearly blank images
        _, singular, rows = torch.linalg.svd(covariance)
        return singular.flip(0), rows.T.flip(1)
    return eigenvalues, eigenvectors
