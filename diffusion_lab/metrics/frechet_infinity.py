"""The Fréchet distance at n = ∞: an estimate without finite-sample bias from n and m feature vectors, with an interval.

The distance d̂ of the moments of samples is too large: E d̂ = d + b_1 + O(1/n²), and b_1 has a closed form. With W = z·A, in
whose frame the first covariance is diag(s²), s the singular values of Σ_1^½·Σ_2^½, the second derivative of the distance along
one vector z = x − mean, taken twice, is 2·h(x, x):

    h(x, x) = ‖z‖² + Σ_kl W_k²·W_l²/(2·s_k·s_l·(s_k + s_l)) − Σ_k (W_k²/s_k)/2 + Σ_k s_k/4
    b_1 = mean h(x, x)/n + mean h(y, y)/m

The remaining bias, O(1/n²), is removed by extrapolation from halves (Richardson): d̃ = g + (g − ḡ)/3, g = d̂ − b_1 of all and ḡ the
mean of g over halves. Chong & Forsyth (2020, arXiv 1911.07023) extrapolate d̂ along 1/n, which also estimates b_1, with more noise.

The error of d̃ comes from the first derivative, φ(x) = 2·δ·z + ‖z‖² − Σ_k W_k²/s_k with δ the difference of the means; each x
adds 2·h(x, x)/n to it by itself, which is noise as well as bias. V = var φ(x)/n + var φ(y)/m, half with that and half without.
Near d = 0 the first derivative vanishes and the distance is a quadratic form: V is then twice its variance, and another estimate
of that is V_2 = 2·(√E h(x, x′)²/n + √E h(y, y′)²/m)², of pairs. So the variance at a true distance d is taken as V·d/d̂ + V_0,
with V_0 = V·b/(2·d̂) where the bias b = d̂ − d̃ is little of d̂, and the mean of that and V_2 where it is all. The interval is of
Wilson's kind: all d that are less than 1.96 of *their* deviations from d̃.

Tried and rejected by simulation (in which this one covered 94 to 98 %, see docs/numbers.md):
d̃ ± 1.96·√V covers 99 % at d = 0, where V is twice too large;
d̃ ± 1.96·√(V − V_2) covers 66 % where tails are heavy, and 99 % where they are a little skewed.
(A bootstrap of d̂ repeats the bias that it should estimate.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from scipy.special import ndtri
from torch import Tensor

from diffusion_lab.metrics.frechet_distance import eigh
from diffusion_lab.metrics.metric import Estimate, FeatureMetric, Naming, Need, Scores, View
from diffusion_lab.metrics.reference import UnmeasurableError
from diffusion_lab.store.measures import LOW, REAL_IMAGES, SAMPLES, Measure

FEWEST_SAMPLES = 1000  # fewer make the estimate too uncertain
_MOST_VALUES = 2**25  # of the reference's features; a larger reference is represented by some of its images
_PER_FEATURE = 4  # vectors per varying feature; halves with fewer have singular covariances
_SPLITS = 2  # random splits into halves
_PAIRS = 4  # per vector
_SAME = 1e-6  # of the bias; two independent sets are never this close, because each has a bias
_POOR = 0.2  # of the bias; if extrapolation changes the distance by more, the series in 1/n has not converged


@dataclass(frozen=True)
class FrechetInfinity(FeatureMetric):
    """The Fréchet distance at n = ∞: without its finite-sample bias, with its 95 % interval over samples and real images."""

    needs = (Need.SAMPLES, Need.REAL_IMAGES)

    def feature_measures(self, naming: Naming) -> Iterable[Measure]:
        meaning = "Fréchet distance without its finite-sample bias, with its 95 % interval"
        label = "  at n = ∞" if naming.first else f"  at n = ∞ ({naming.features})"
        yield Measure(f"{naming.distance}_infinity", label, "", LOW, meaning, naming.agrees(), logs=True, brief=False)

    def score_view(self, view: View) -> Scores:
        scores = Scores()
        name, real = f"{view.naming.distance}_infinity", _real(view)
        found = frechet_at_infinity(view.drawn.vectors().to(view.device), real.to(view.device))
        # The errors of both distances differ by that of the bias, which is small, and the plain one is to all real images.
        fewer = (len(real) / view.reference.size(view.split)) ** 0.5
        scores.spread(view.naming.distance, SAMPLES, found.of_samples)
        scores.spread(view.naming.distance, REAL_IMAGES, found.of_real * fewer)
        if len(view.drawn.features) < FEWEST_SAMPLES:
            return scores
        scores.estimate(name, found)
        of = f"{len(view.drawn.features)} samples and {len(real)} real images"
        poor = "; unreliable, because the bias does not fall as 1/n yet: use more samples" if found.poor else ""
        scores.details[name] = f"95 % interval over {of}; the finite-sample bias is {found.bias:.3g}{poor}"
        return scores


def _real(view: View) -> Tensor:
    """The features of all images of the reference or, if there are too many, of some."""
    few = view.reference.size(view.split) * view.features.dim <= _MOST_VALUES
    return view.reference.vectors(view.split) if few else view.some_real


@dataclass(frozen=True)
class AtInfinity(Estimate):
    """The distance at n = m = ∞; as an unbiased estimate it may be negative. bias: the plain distance of these samples minus this
    one. poor: whether n is too small for a reliable extrapolation."""

    bias: float
    poor: bool


def frechet_at_infinity(samples: Tensor, reference: Tensor) -> AtInfinity:
    """The estimate from samples (n, D) and reference (m, D), both random and independent of each other.

    UnmeasurableError if n or m is below four times the number of varying features, or if both are the same set.
    """
    x, y = samples.double(), reference.double()
    if min(len(x), len(y)) < 2:
        raise UnmeasurableError(f"needs at least two samples and two real images, got {len(x)} and {len(y)}")
    if not x.isfinite().all() or not y.isfinite().all():
        raise UnmeasurableError("the features are not finite")
    fewest = min(len(x), len(y))
    for rows in (
        y[: fewest // _PER_FEATURE + 2],
        y,
    ):  # a quarter of them is enough to detect too many varying features
        rank = len(_spectrum(rows - rows.mean(0))[0])
        if fewest < _PER_FEATURE * rank:
            raise UnmeasurableError(
                f"needs {_PER_FEATURE * rank} samples and as many real images{' or more' * (len(rows) < len(y))}, four for each "
                f"feature that varies, got {len(x)} and {len(y)}"
            )
    plain, corrected, sides = _expand(x, y)
    if plain < _SAME * abs(plain - corrected):
        raise UnmeasurableError("samples and real images are the same, but they must be independent")
    generator = torch.Generator().manual_seed(0)
    halves = [
        _expand(a, b)[1]
        for _ in range(_SPLITS)
        for a, b in zip(_halved(x, generator), _halved(y, generator), strict=True)
    ]
    further = (corrected - sum(halves) / len(halves)) / 3
    distance = corrected + further
    bias = plain - distance
    influences = of_samples, of_reference = [side.influence() for side in sides]
    variances = [
        float(side.first.var() + own.var()) / 2 / len(own) for side, own in zip(sides, influences, strict=True)
    ]
    pair_variance = 2 * sum(side.square_of_pairs() ** 0.5 / len(side.own) for side in sides) ** 2
    slope = sum(variances) / plain if plain > 0 else 0.0
    share = min(max(bias / plain, 0.0), 1.0) if plain > 0 else 0.0
    at_zero = (1 - share / 2) * slope * max(bias, 0.0) / 2 + share / 2 * pair_variance
    low, high = _interval(distance, slope, at_zero, float(ndtri(0.975)))
    poor = abs(further) > _POOR * abs(plain - corrected)
    return AtInfinity(distance, low, high, of_samples, of_reference, bias, poor)


def _interval(centre: float, slope: float, at_zero: float, z: float) -> tuple[float, float]:
    """All d with (d − centre)² ≤ z²·(at_zero + slope·d); if there are none, the interval for the variance at d = 0."""
    half = z**2 * slope / 2
    square = half**2 + 2 * half * centre + z**2 * at_zero
    if square < 0:
        return centre - z * at_zero**0.5, centre + z * at_zero**0.5
    return centre + half - square**0.5, centre + half + square**0.5


def _spectrum(y: Tensor) -> tuple[Tensor, Tensor]:
    """The eigenvalues (rank,) and eigenvectors (D, rank) of the covariance of centred vectors (m, D), without its null space."""
    m, dim = y.shape
    if m >= dim:
        values, vectors = eigh(y.T @ y / (m - 1))
    else:  # the smaller of the two equivalent problems
        _, singular, rows = torch.linalg.svd(y / (m - 1) ** 0.5, full_matrices=False)
        values, vectors = singular.square().flip(0), rows.T.flip(1)
    kept = values > len(values) * torch.finfo(values.dtype).eps * values[-1].clamp(min=0)
    return values[kept], vectors[:, kept]


def _expand(x: Tensor, y: Tensor) -> tuple[float, float, tuple[_Side, _Side]]:
    """The distance of the moments, the same without its first-order bias, and both sets as they contribute to it."""
    n = len(x)
    shift = x.mean(0) - y.mean(0)
    x, y = x - x.mean(0), y - y.mean(0)
    values, vectors = _spectrum(y)
    root = vectors * values.sqrt()
    seen = x @ root
    spread, (squares, rotation) = x.square().sum() / (n - 1), eigh(seen.T @ seen / (n - 1))
    s = squares.clamp(min=0).sqrt()
    there = s > len(s) * torch.finfo(s.dtype).eps * s.sum()
    s, rotation = s[there], rotation[:, there]
    distance = float(shift.square().sum() + spread + values.sum() - 2 * s.sum())
    frames = root @ rotation, vectors / values.sqrt() @ rotation * s
    sides = _Side(x, x @ frames[0], s, shift), _Side(y, y @ frames[1], s, -shift)
    bias = sum(float(side.own.mean()) / len(side.own) for side in sides)
    return distance, distance - bias, sides


class _Side:
    """One of the two sets of vectors: z (n, D) centred, w (n, rank) in the frame in which its covariance is diag(s²).

    first: φ of each row, own: h of each row with itself.
    """

    def __init__(self, z: Tensor, w: Tensor, s: Tensor, shift: Tensor) -> None:
        self._z, self._w, self._s = z, w, s
        self._kernel = 0.5 / (s[:, None] * s * (s[:, None] + s))
        self._along = w.square() @ (1 / s)
        self.first = 2 * z @ shift + z.square().sum(1) - self._along
        self.own = self._pairs(torch.arange(len(z), device=z.device))

    def influence(self) -> Tensor:
        """The contribution of each row to the bias-corrected distance, with mean 0."""
        influence = self.first - 2 * self.own / len(self.own)
        return influence - influence.mean()

    def square_of_pairs(self) -> float:
        """E h(x, x′)² over pairs of different rows."""
        generator, n = torch.Generator().manual_seed(0), len(self._z)
        order = torch.randperm(n, generator=generator).to(self._z.device)
        others = torch.empty_like(order)
        found = []
        for step in range(1, _PAIRS + 1):
            others[order] = order.roll(step)
            found.append(self._pairs(others).square().mean())
        return float(sum(found)) / _PAIRS

    def _pairs(self, others: Tensor) -> Tensor:
        """h of each row with the row of a given index."""
        products = self._w * self._w[others]
        along = (self._along + self._along[others]) / 4
        linear, square = (self._z * self._z[others]).sum(1), ((products @ self._kernel) * products).sum(1)
        return linear + square - along + self._s.sum() / 4


def _halved(rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    order = torch.randperm(len(rows), generator=generator).to(rows.device)
    return rows[order[: len(rows) // 2]], rows[order[len(rows) // 2 :]]
