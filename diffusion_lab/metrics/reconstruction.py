"""Samples for the conditions of held-out data, compared with the truth: error of the mean, of single draws, and of the ensemble.

For a truth y and n draws x_1 … x_n of its condition, value by value,

    CRPS = 1/n Σ_i |x_i − y| − 1/(2n(n − 1)) Σ_{i,j} |x_i − x_j|,

whose expectation does not depend on n (Ferro 2014, "Fair scores for ensemble forecasts"), and

    spread/skill = √((n + 1)/n · Σ var(x) / Σ (mean(x) − y)²),

which is 1 if the truth is exchangeable with the draws (Fortin et al. 2014, "Why should ensemble spread match the RMSE of the
ensemble mean?"). The mean of n perfect draws has (n + 1)/n times the minimal squared error, that of the conditional mean: 0.26
dB for 16 draws; one draw has twice that error, 3.01 dB.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from diffusion_lab.diffusion.condition_parts import each
from diffusion_lab.metrics.metric import Metric, Naming, Need, Scores, Subject
from diffusion_lab.metrics.reference import quantise
from diffusion_lab.store.measures import HIGH, LOW, STANDARD_ERROR, Measure

_PEAK = 2.0  # of data with levels, which lie in [−1, 1]
_HIGHEST = 10 * math.log10(_PEAK**2 / 1e-12)  # PSNR of equal values, which is infinite
_AGREES = ("data", "reconstruction")


@dataclass(frozen=True)
class Reconstruction(Metric):
    """PSNR, RMSE, CRPS and spread of num_draws draws for the condition of each of the first num_images test or validation images.

    For models with a vector or a field as condition. batch_size: images at a time.
    """

    needs = (Need.GENERATOR, Need.TRUTH)
    least = (("num_images", 2), ("num_draws", 2), ("batch_size", 1))

    num_images: int = 128
    num_draws: int = 16
    batch_size: int = 8

    def measures(self, namings: Sequence[Naming]) -> Iterable[Measure]:
        mean = f"mean of {self.num_draws} draws"
        yield Measure("psnr_mean", "PSNR of the mean", "dB", HIGH, f"{mean} beside the truth", _AGREES, decimals=2)
        yield Measure("psnr_draw", "PSNR of a draw", "dB", HIGH, "one draw beside the truth", _AGREES, decimals=2)
        yield Measure("rmse_mean", "RMSE of the mean", "", LOW, f"{mean} beside the truth", _AGREES, decimals=4)
        crps = "continuous ranked probability score, value by value; unbiased for any number of draws"
        yield Measure("crps", "CRPS", "", LOW, crps, _AGREES, decimals=4)
        spread = "1: draws differ from each other as from the truth; below 1: too little"
        yield Measure("spread_skill", "spread / skill", "", None, spread, _AGREES)

    def score(self, subject: Subject) -> Scores:
        scores, data, split = Scores(), subject.data, subject.settings.unseen_split
        errors, ratios = zip(*self._batches(subject, split), strict=True)
        by_channel = torch.cat(errors)
        mean, variance, crps = by_channel.mean(2).unbind(1)
        for name, by_image in zip(("psnr_mean", "psnr_draw"), torch.cat(ratios, 1), strict=True):
            if data.num_levels is None:
                scores.record(name, None, "these data have no highest value: see RMSE")
            else:
                self._record(name, by_image, split, scores)
        scores.record("rmse_mean", float(mean.mean().sqrt()))
        self._record("crps", crps, split, scores)
        if data.units is not None:  # the values above are for normalised channels
            names = data.units.names or range(len(data.units.scale))
            error, ranked = by_channel[:, 0].mean(0).sqrt(), by_channel[:, 2].mean(0)
            for what, found in (("rmse_mean", error), ("crps", ranked)):
                in_units = dict(zip(map(str, names), (found * torch.tensor(data.units.scale)).tolist(), strict=True))
                scores.values |= {f"{what}_{name}": value for name, value in in_units.items()}
                listed = ", ".join(f"{name} {value:.4g}" for name, value in in_units.items())
                scores.details[what] = f"of normalised channels; in the data's units: {listed}"
        n = self.num_draws
        scores.record("spread_skill", float(((n + 1) / n * variance.mean() / mean.mean()).sqrt()))
        scores.protocol["reconstruction"] = asdict(self) | {"split": split, "num_images": len(by_channel)}
        return scores

    def _record(self, name: str, by_image: Tensor, split: str, scores: Scores) -> None:
        scores.record(name, float(by_image.mean()))
        scores.record(name + STANDARD_ERROR, float(by_image.std() / math.sqrt(len(by_image))))
        scores.spread(name, f"{split} images", by_image)

    def _batches(self, subject: Subject, split: str) -> Iterable[tuple[Tensor, Tensor]]:
        """(B, 3, C) squared error of the mean, variance, CRPS, averaged over each channel of an image; (2, B) PSNR of the mean and
        of a draw. float64."""
        generator, data, n = subject.generator, subject.data, self.num_draws
        for x_0, y, indices in subject.batches(split, self.batch_size, self.num_images, f"draws for {split} images"):
            number = (indices[:, None] * n + torch.arange(n, device=indices.device)).flatten()
            with torch.no_grad():
                draws = generator.sample(
                    number, subject.settings.seed, each(lambda part: part.repeat_interleave(n, 0), y)
                )
            draws = quantise(draws, data.num_levels).unflatten(0, (len(x_0), n)).flatten(2).double()
            truth = x_0.flatten(1).double()
            errors = torch.stack(ensemble_errors(draws, truth), 1)
            ratios = psnr(draws.mean(1, keepdim=True), truth), psnr(draws, truth)
            yield errors.unflatten(2, (data.shape[0], -1)).mean(3).cpu(), torch.stack(ratios).cpu()


def ensemble_errors(draws: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """draws (B, n, D), truth (B, D) -> squared error of the mean, the variance of draws, CRPS; each (B, D)."""
    n = draws.shape[1]
    # Σ_{i,j} |x_i − x_j| = 2 Σ_i (2i − n − 1) x_(i), the draws sorted.
    rank = 2 * torch.arange(1, n + 1, dtype=draws.dtype, device=draws.device) - n - 1
    between = (rank[:, None] * draws.sort(1).values).sum(1) / (n * (n - 1))
    crps = (draws - truth[:, None]).abs().mean(1) - between
    return (draws.mean(1) - truth).square(), draws.var(1), crps


def psnr(draws: Tensor, truth: Tensor) -> Tensor:
    """10 log10(peak² / MSE) in decibels, of data in [−1, 1]; MSE over the draws (B, n, D) of each truth (B, D): (B,)."""
    truth = truth[:, None].expand_as(draws)
    found = peak_signal_noise_ratio(draws, truth, data_range=_PEAK, reduction="none", dim=(1, 2))
    return found.clamp(max=_HIGHEST)
