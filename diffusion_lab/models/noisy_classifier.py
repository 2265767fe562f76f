"""p(y|x_t): a classifier of noisy images, for guidance=classifier. It is trained as generative models are.

L = −E_t log p_φ(y|x_t),   x_t ~ q(x_t|x_0)                     Dhariwal & Nichol 2021, section 4
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.functional.classification import multiclass_accuracy

from diffusion_lab.diffusion import ForwardProcess, GaussianDiffusion, SampleNoise, Schedule, TimestepSampler
from diffusion_lab.diffusion.condition_parts import classes_in
from diffusion_lab.diffusion.shapes import Conditions
from diffusion_lab.diffusion.timesteps import by_quarter, quarters
from diffusion_lab.models.optimization import Optimization
from diffusion_lab.models.trainable import TrainableModel


@runtime_checkable
class Denoiser(Protocol):
    """A denoiser's network that can be turned into a classifier of x_t: (x_t, timesteps) -> (B, out_channels) logits."""

    def classifier(self) -> nn.Module: ...


class NoisyClassifier(TrainableModel):
    """Logits of the class of x_t, at every t of the process of `schedule`.

    Parameters
    ----------
    shape: (C, H, W) of images, or (D,) of points. num_classes: of the data.
    network: called with out_channels, builds a denoiser's network, whose `classifier()` is trained here.
    timesteps: draws t and its weight. optimization: optimizer and learning rate.
    seed: training's t and ε at batch k are functions of (seed, k).
    """

    num_classes: int
    training_evaluations = 3

    def __init__(
        self,
        shape: tuple[int, ...],
        num_classes: int | None,
        schedule: Schedule,
        network: Callable[..., Denoiser],
        timesteps: TimestepSampler,
        optimization: Optimization,
        seed: int,
    ) -> None:
        super().__init__()
        if num_classes is None:
            raise ValueError("a classifier needs classes: use condition=classes")
        if schedule.trained is not None:
            raise ValueError(
                f"schedule {type(schedule).__name__} is trained with a denoiser, which a classifier is not; use another schedule"
            )
        if timesteps.learns_from_losses:
            raise ValueError(
                f"timesteps {type(timesteps).__name__} follows the loss of a denoiser; "
                "use timesteps=uniform or timesteps=stratified"
            )
        self.shape, self.num_classes = tuple(shape), num_classes
        self.seed, self.optimization = seed, optimization
        self.schedule = schedule
        self.process: ForwardProcess = schedule if timesteps.real else GaussianDiffusion(schedule)
        self.network = network(out_channels=num_classes).classifier()
        self.timesteps = timesteps

    term_names = ("loss", "accuracy")
    weighted_names = quarters("accuracy")

    def forward(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        """x_t (B, *shape) float32, timesteps int64 (B,), 0-based -> logits (B, num_classes) float32."""
        return self.network(x_t, timesteps)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Any]:
        """Cross-entropy at one t per sample."""
        x_0, y = batch
        t, w, eps = self.times_and_noise(x_0, self.timesteps)
        terms = self._terms(x_0, y, t, eps)
        loss, correct = (w * terms["loss"]).mean(), terms["accuracy"]
        return {
            "loss": loss,
            "terms": {"loss": loss.detach(), "accuracy": correct.mean()},
            "weighted": by_quarter("accuracy", t, self.process.num_timesteps, torch.ones_like(correct), correct),
        }

    def held_out_terms(self, x_0: Tensor, y: Conditions, noise: SampleNoise) -> dict[str, Tensor]:
        """Terms at one uniform t per image."""
        classes = classes_in(y)
        assert classes is not None
        t = 1 + (noise.uniform(0) * self.process.num_timesteps).floor().to(x_0.device, self.process.time_dtype)
        return self._terms(x_0, classes, t, noise.initial(self.shape).to(x_0))

    def _terms(self, x_0: Tensor, y: Tensor, t: Tensor, eps: Tensor) -> dict[str, Tensor]:
        logits = self._noised_logits(x_0, t, eps)
        loss = functional.cross_entropy(logits, y, reduction="none")
        return {"loss": loss, "accuracy": self._is_correct(logits, y)}

    def _is_correct(self, logits: Tensor, y: Tensor) -> Tensor:
        """1 for each image that is classified correctly, 0 for others: (B,)."""
        return multiclass_accuracy(
            logits[..., None],
            y[:, None],
            self.num_classes,
            average="micro",
            multidim_average="samplewise",
            validate_args=False,  # which would wait for the GPU
        )

    @torch.no_grad()
    def logits(self, x_0: Tensor, t: int, eps: Tensor) -> Tensor:
        """(B, num_classes), of x_t at one t."""
        return self._noised_logits(x_0, self.process.full(t, x_0), eps)

    def _noised_logits(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        return self(self.process.q_sample(x_0, t, eps), self.process.network_time(t))
