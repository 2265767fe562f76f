"""The error by log SNR: the network's error compared with the best possible denoiser of the training images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_lab.analysis import ideal_denoiser
from diffusion_lab.data.module import DataModule
from diffusion_lab.diffusion.condition_parts import classes_in
from diffusion_lab.diffusion.shapes import Conditions
from diffusion_lab.metrics.metric import Metric, Naming, Need, Scores, Subject
from diffusion_lab.metrics.reference import UnmeasurableError
from diffusion_lab.metrics.stored import Progress
from diffusion_lab.store.measures import Measure

_BLOCK = 4096  # training images at a time


@dataclass(frozen=True)
class ErrorByLogSNR(Metric):
    """The mean square error of the velocity at num_points log SNRs, and that of the best possible denoiser of the training images.

    The difference of the two can still be learned. At the clean end the best possible denoiser recalls the training images, so
    no excess error there means memorisation. num_images: training images that are noised. batch_size: of these at a time.
    """

    needs = (Need.CHAIN, Need.REAL_IMAGES)
    least = (("num_points", 2), ("num_images", 1), ("batch_size", 1))

    num_points: int = 10
    num_images: int = 128
    batch_size: int = 128

    def measures(self, namings: Sequence[Naming]) -> Iterable[Measure]:
        meaning = (
            "largest excess, over log SNRs, of the network's error of the velocity over the best possible denoiser's"
        )
        yield Measure("largest_excess_error", "largest excess error", meaning=meaning, agrees=("data",), column=False)

    def score(self, subject: Subject) -> Scores:
        scores = Scores()
        if subject.generator.conditions:
            raise UnmeasurableError("the best possible denoiser is known given classes, not given vectors or fields")
        log_snrs = subject.diffusion.log_snrs(self.num_points)
        size = min(self.num_images, subject.data.num_trained_on)
        errors, best = errors_by_log_snr(subject, log_snrs, size, self.batch_size)
        scores.curves["error_by_log_snr"] = {"log_snr": log_snrs, "velocity_mse": errors, "least_velocity_mse": best}
        excesses = [error - least for error, least in zip(errors, best, strict=True)]
        excess = max(excesses)
        scores.record("largest_excess_error", excess)
        at = log_snrs[excesses.index(excess)]
        scores.details["largest_excess_error"] = f"at log SNR {at:.3g}; {size} training images"
        scores.protocol["error_by_log_snr"] = {"split": "train", "num_images": size}
        return scores


@torch.no_grad()
def errors_by_log_snr(
    subject: Subject, log_snrs: Sequence[float], num_images: int, batch_size: int
) -> tuple[list[float], list[float]]:
    """(1 + SNR)·E‖x_0 − x̂_0‖²/D of the network and of the best denoiser, on noised training images, by log SNR.

    This is the error of the velocity, which has the same scale at all log SNRs: like x_0 in noise, and like ε near the data.

    The best denoiser is E[x_0|x_t] over the images used in training, mirrored too if training mirrors them, and only those of class
    y if the model is conditioned on y (as in Karras et al. 2022, EDM). It is computed at the network's own x_t: unbiased.
    """
    generator, data, seed = subject.diffusion, subject.data, subject.settings.seed
    errors, least = torch.zeros(2, len(log_snrs), dtype=torch.float64)
    for x_0, y, indices in subject.batches("train", batch_size, num_images):
        looks = [generator.denoise(x_0, y, seed, indices, log_snr) for log_snr in log_snrs]
        signal, noise = (torch.tensor([getattr(look, name) for look in looks]).double() for name in ("signal", "sigma"))
        clean = x_0.cpu().double().flatten(1)
        own, x_t = (
            torch.stack([getattr(look, name).cpu().double().flatten(1) for look in looks]) for name in ("x_0", "x_t")
        )
        classes = classes_in(looks[0].y)
        known = None if classes is None else classes.cpu()
        best = ideal_denoiser(x_t, signal, noise, known, _training_images(data, subject.progress))
        scale = (1 + (signal / noise).square()) / num_images
        errors += scale * (clean - own).square().mean(dim=2).sum(dim=1)
        least += scale * (clean - best).square().mean(dim=2).sum(dim=1)
    return errors.tolist(), least.tolist()


def _training_images(data: DataModule, progress: Progress) -> Iterator[tuple[Tensor, Conditions]]:
    """Blocks (x, y) of the images used in training, mirrored ones too if training mirrors; x float64 (B, D)."""
    done = 0
    for x, y in data.batches("train", _BLOCK, limit=data.num_trained_on):
        flat = x.double().flatten(1)
        yield flat, y
        if data.flip:
            yield x.flip(-1).double().flatten(1), y
        done += len(x)
        progress("the best possible denoiser", done, data.num_trained_on)
