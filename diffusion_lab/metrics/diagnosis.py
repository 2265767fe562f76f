"""Which part of the chain makes the error? Curves by log SNR of a trained model, on images that it should be able to generate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffusion_lab.data.module import DataModule
from diffusion_lab.metrics.frechet import frechet_distance
from diffusion_lab.metrics.metric import Metric, Naming, Need
from diffusion_lab.metrics.reference import Progress
from diffusion_lab.metrics.sampling import quantise
from diffusion_lab.metrics.settings import check_at_least
from diffusion_lab.metrics.statistics import FeatureStatistics
from diffusion_lab.models.base import GenerativeModel
from diffusion_lab.store.measures import Measure

if TYPE_CHECKING:
    from diffusion_lab.metrics.subject import Subject

_BLOCK = 4096  # training images at a time


@torch.no_grad()
def distances_by_log_snr(
    subject: Subject, log_snrs: Sequence[float], num_images: int, batch_size: int
) -> dict[str, list[float]]:
    """Name of a distance -> its values, a log SNR each: of held-out images noised to that log SNR and sampled from there.

    At the clean end it is the floor of as many real images, at the noisy end the distance of samples.
    """
    model, split = subject.model, subject.settings.held_out_split
    curves: dict[str, list[float]] = {view.naming.distance: [] for view in subject.views}
    for place, log_snr in enumerate(log_snrs):
        statistics = [FeatureStatistics(view.features.dim) for view in subject.views]
        for x_0, y, indices in _batches(model, subject.data, split, num_images, batch_size):
            x = model.redraw(x_0, y, subject.settings.seed, indices, log_snr).float()
            for view, sums in zip(subject.views, statistics, strict=True):
                sums.update(view.features(quantise(x, subject.data.num_levels)))
        for view, sums in zip(subject.views, statistics, strict=True):
            curves[view.naming.distance].append(frechet_distance(sums.compute(), view.real))
        subject.progress("distance by log SNR", place + 1, len(log_snrs))
    return curves


@torch.no_grad()
def errors_by_log_snr(
    model: GenerativeModel,
    data: DataModule,
    seed: int,
    log_snrs: Sequence[float],
    num_images: int,
    batch_size: int,
    progress: Progress,
) -> tuple[list[float], list[float]]:
    """(1 + SNR)·E‖x_0 − x̂_0‖²/D of the network, and of the best denoiser there is, on noised training images, a log SNR each.

    That is the error of the velocity, which has one scale at all log SNRs: that of x_0 in noise, that of ε near the data.

    The best one is E[x_0|x_t] over the images that training shows, mirrored too where training mirrors them, and those of class y
    alone where the model knows y (as in Karras et al. 2022, EDM). It is computed at the network's own x_t: unbiased.
    """
    looks = [[] for _ in log_snrs]
    given = []
    for x_0, y, indices in _batches(model, data, "train", num_images, batch_size):
        given.append(x_0.cpu().double().flatten(1))
        for place, log_snr in enumerate(log_snrs):
            looks[place].append(model.denoise(x_0, y, seed, indices, log_snr))
    x_0 = torch.cat(given)
    y = None if looks[0][0].y is None else torch.cat([look.y for look in looks[0]]).cpu()
    own = [torch.cat([look.x_0 for look in row]).cpu().double().flatten(1) for row in looks]
    x_t = torch.stack([torch.cat([look.x_t for look in row]).cpu().double().flatten(1) for row in looks])
    signal, noise = (torch.tensor([getattr(row[0], name) for row in looks]).double() for name in ("signal", "noise"))
    best = posterior_mean(x_t, signal, noise, y, lambda: _training_images(data, progress))
    factor = (1 + (signal / noise).square()).tolist()
    errors, least = (
        [scale * float((x_0 - row).square().mean()) for scale, row in zip(factor, rows, strict=True)]
        for rows in (own, best)
    )
    return errors, least


def posterior_mean(
    x_t: Tensor, signal: Tensor, noise: Tensor, y: Tensor | None, images: Callable[[], object]
) -> Tensor:
    """Σ_i w_i·x_i with w_i ∝ exp(−‖x_t − α·x_i‖²/(2σ²)), float64, shaped like x_t (K, B, D); signal and noise (K,).

    images: blocks (x, y) of the x_i. y: only those of the same class count. One pass, whatever the number of images.
    """
    rows = x_t.flatten(0, 1)
    scale = (signal / noise.square()).repeat_interleave(x_t.shape[1])[:, None]
    half = (signal.square() / noise.square()).repeat_interleave(x_t.shape[1])[:, None] / 2
    classes = None if y is None else y.repeat(len(x_t))
    most = torch.full((len(rows), 1), -torch.inf, dtype=torch.float64)
    total, mean = torch.zeros_like(most), torch.zeros_like(rows)
    for x, labels in images():
        log_weight = scale * (rows @ x.T) - half * x.square().sum(dim=1)
        if classes is not None:
            log_weight = log_weight.masked_fill(classes[:, None] != labels[None, :], -torch.inf)
        highest = torch.maximum(most, log_weight.max(dim=1, keepdim=True).values)
        kept = torch.nan_to_num((most - highest).exp())  # before the first image of a class both are −∞
        weight = torch.nan_to_num((log_weight - highest).exp())
        total = kept * total + weight.sum(dim=1, keepdim=True)
        mean, most = kept * mean + weight @ x, highest
    return (mean / total).view_as(x_t)


def _training_images(data: DataModule, progress: Progress):
    """Blocks of the images that training is made of."""
    done = 0
    for x, y in data.batches("train", _BLOCK, limit=data.num_trained_on):
        flat = x.double().flatten(1)
        yield flat, y
        if data.flip:
            yield x.flip(-1).double().flatten(1), y
        done += len(x)
        progress("the best possible denoiser", done, data.num_trained_on)


def _batches(model: GenerativeModel, data: DataModule, split: str, num_images: int, batch_size: int):
    """(x_0, y, indices) on the device of the model; y None for a model without classes."""
    done = 0
    for x_0, y in data.batches(split, batch_size, limit=num_images):
        indices = torch.arange(done, done + len(x_0), device=model.device)
        known = y.to(model.device) if y is not None and model.num_classes is not None else None
        yield x_0.to(model.device), known, indices
        done += len(x_0)


if TYPE_CHECKING:
    from diffusion_lab.metrics.scores import Scores
    from diffusion_lab.metrics.subject import Subject

_NO_CHAIN = "this family has no noisy chain"


@dataclass(frozen=True)
class DistanceByLogSNR(Metric):
    """The Fréchet distance of held-out images that are noised to a log SNR and sampled from there, at num_points of them.

    Between two points it rises by what the steps between add to the error of samples. num_images: of the held-out split, at most.
    """

    needs = (Need.MODEL, Need.REAL_IMAGES)
    needs_samples = False  # it draws its own

    num_points: int = 10
    num_images: int = 1000
    batch_size: int = 128

    def __post_init__(self) -> None:
        check_at_least(2, "num_points", self.num_points)
        check_at_least(2, "num_images", self.num_images)
        check_at_least(1, "batch_size", self.batch_size)

    def measures(self, namings: Sequence[Naming]) -> Iterable[Measure]:
        meaning = "share of the distance above its floor that arises at log SNR above 0: texture rather than shape"
        for naming in namings:
            yield Measure(self._name(naming), self._name(naming), meaning=meaning, agrees=naming.agrees(), column=False)

    @staticmethod
    def _name(naming: Naming) -> str:
        return f"{naming.distance}_share_above_0"

    def score(self, subject: Subject, scores: Scores) -> None:
        names = [self._name(view.naming) for view in subject.views]
        log_snrs = subject.model.log_snrs(self.num_points)
        if log_snrs is None:
            for name in names:
                scores.record(name, None, _NO_CHAIN)
            return
        size = min(self.num_images, subject.views[0].num_held_out)
        curves = distances_by_log_snr(subject, log_snrs, size, self.batch_size)
        scores.curves["distance_by_log_snr"] = {"log_snr": log_snrs, **curves}
        for name, curve in zip(names, curves.values(), strict=True):
            scores.record(name, _share(log_snrs, curve, 0.0), "the distance does not rise along the chain")
            scores.details[name] = (
                f"of n = {size} held-out images, noised to {self.num_points} log SNRs and sampled from there"
            )
        scores.protocol["distance_by_log_snr"] = {"split": subject.settings.held_out_split, "num_images": size}


@dataclass(frozen=True)
class ErrorByLogSNR(Metric):
    """The mean square error of the velocity at num_points log SNRs, and that of the best possible denoiser of the training images.

    What lies between the two can be learned. At the clean end the best possible one knows the training images by heart, so no
    excess error there means memorisation, not success. num_images: training images that are noised.
    """

    needs = (Need.MODEL, Need.REAL_IMAGES)
    needs_samples = False

    num_points: int = 10
    num_images: int = 128
    batch_size: int = 128

    def __post_init__(self) -> None:
        check_at_least(2, "num_points", self.num_points)
        check_at_least(1, "num_images", self.num_images)
        check_at_least(1, "batch_size", self.batch_size)

    def measures(self, namings: Sequence[Naming]) -> Iterable[Measure]:
        meaning = (
            "largest excess, over log SNRs, of the network's error of the velocity over the best possible denoiser's"
        )
        yield Measure("largest_excess_error", "largest excess error", meaning=meaning, agrees=("data",), column=False)

    def score(self, subject: Subject, scores: Scores) -> None:
        log_snrs = subject.model.log_snrs(self.num_points)
        if log_snrs is None:
            scores.record("largest_excess_error", None, _NO_CHAIN)
            return
        settings = subject.settings
        size = min(self.num_images, subject.data.num_trained_on)
        errors, best = errors_by_log_snr(
            subject.model, subject.data, settings.seed, log_snrs, size, self.batch_size, subject.progress
        )
        scores.curves["error_by_log_snr"] = {"log_snr": log_snrs, "velocity_mse": errors, "least_velocity_mse": best}
        excess = [error - least for error, least in zip(errors, best, strict=True)]
        worst = max(range(len(excess)), key=excess.__getitem__)
        scores.record("largest_excess_error", excess[worst])
        scores.details["largest_excess_error"] = f"at log SNR {log_snrs[worst]:.3g}; {size} training images"
        scores.protocol["error_by_log_snr"] = {"split": "train", "num_images": size}


def _share(log_snrs: Sequence[float], curve: Sequence[float], at: float) -> float | None:
    """Of the rise of a curve from the clean end to the noisy one, the part above a log SNR; None without a rise."""
    rise = curve[-1] - curve[0]
    if rise <= 0:
        return None
    for (high, a), (low, b) in zip(
        zip(log_snrs, curve, strict=True), zip(log_snrs[1:], curve[1:], strict=True), strict=False
    ):
        if low <= at <= high:
            return (a + (b - a) * (high - at) / (high - low) - curve[0]) / rise
    return None
