"""The radially averaged power spectrum of samples and of held-out data: blurred samples lack power at high frequencies.

    P(k) = mean over frequencies ω with round(|ω|·L) = k of |FFT(x)(ω)|² / N,    1 ≤ k ≤ L/2,

ω in cycles per pixel, L the longest side, N the number of values, on one, two or three axes. P(0), the mean, is left out, as are
the corners beyond L/2. Two spectra are compared in decibels, band by band, and by the log-spectral distance

    d = √(mean over k and channels of (10 log10 P_samples(k) / P_data(k))²).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_lab.metrics.metric import Metric, Naming, Need, Scores, Subject
from diffusion_lab.metrics.reference import UnmeasurableError
from diffusion_lab.store.measures import IMAGES, LOW, Measure

_NAME = "spectral_distance"
_AGREES = (*(part for part in IMAGES if part not in ("features", "reference")), "power_spectrum")
_FINE = 0.25  # cycles per pixel, the lower end of fine structures: half the highest frequency


@dataclass(frozen=True)
class PowerSpectrum(Metric):
    """The log-spectral distance of samples to held-out data, its floor, and the ratio of their power at high frequencies.

    num_images: at most this many samples and as many test or validation images; the floor is that of as many training images.
    """

    needs = (Need.SAMPLES, Need.REAL_IMAGES)
    least = (("num_images", 2),)

    num_images: int = 1000

    def measures(self, namings: Sequence[Naming]) -> Iterable[Measure]:
        floor, meaning = f"{_NAME}_floor", "distance of the power spectrum to that of held-out images"
        yield Measure(_NAME, "spectrum", "dB", LOW, meaning, _AGREES, floor, decimals=2)
        training = "the same distance of training images"
        yield Measure(floor, "  its floor", "dB", meaning=training, agrees=_AGREES, column=False, decimals=2)
        fine = f"power beyond {_FINE} cycles a pixel beside that of held-out images; below 0: blurred"
        yield Measure("fine_power", "fine power", "dB", meaning=fine, agrees=_AGREES, decimals=2)

    def score(self, subject: Subject) -> Scores:
        scores = Scores()
        data, split = subject.data, subject.settings.unseen_split
        if len(data.shape) < 2:
            raise UnmeasurableError("points have no spectrum")
        subject.drawn.vectors()  # raises if samples are not finite
        size = min(self.num_images, len(subject.drawn.images), data.size(split))
        if size < 1:
            raise UnmeasurableError(f"needs held-out images, but {data.name} has none")
        frequency, real = power_spectrum(subject.images(split, size))
        ours = power_spectrum(subject.drawn.images[:size])[1]
        floor = power_spectrum(subject.images("train", size))[1]
        scores.record(_NAME, log_spectral_distance(ours, real))
        scores.record(f"{_NAME}_floor", log_spectral_distance(floor, real))
        fine = frequency >= _FINE
        scores.record("fine_power", float(decibels(ours[:, fine].sum(), real[:, fine].sum())))
        scores.protocol["power_spectrum"] = {"split": split, "num_images": size}
        columns = {"frequency": frequency, "samples": ours.mean(0), split: real.mean(0)}
        columns["ratio"] = decibels(columns["samples"], columns[split])
        scores.curves["power_spectrum"] = {name: column.tolist() for name, column in columns.items()}
        return scores


def power_spectrum(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (n, C, *spatial) -> frequencies in cycles per pixel (K,), and the mean power around each of them (C, K); float64."""
    sides, axes = x.shape[2:], tuple(range(2, x.ndim))
    power = torch.fft.fftn(x.double(), dim=axes).abs().square().mean(0) / sides.numel()
    grids = torch.meshgrid(*(torch.fft.fftfreq(side, dtype=torch.float64) for side in sides), indexing="ij")
    longest = max(sides)
    band = (torch.stack(grids).square().sum(0).sqrt() * longest).round().long().flatten()
    bands = torch.arange(1, longest // 2 + 1)
    counts = band.bincount(minlength=longest + 1)[bands]
    sums = torch.zeros(len(power), int(band.max()) + 1, dtype=torch.float64).index_add(1, band, power.flatten(1))
    return bands.double() / longest, sums[:, bands] / counts


def decibels(power: Tensor, beside: Tensor) -> Tensor:
    """10 log10 (power / beside), in decibels."""
    return 10 * (power / beside).log10()


def log_spectral_distance(power: Tensor, beside: Tensor) -> float:
    """The root mean square, over channels and bands, of the ratio in decibels; inf if one spectrum has a band without power."""
    return float(decibels(power, beside).square().mean().sqrt())
