"""Accuracy of a classifier of x_t on unseen images, by t: it shows at which noise the class is lost."""

from __future__ import annotations

import torch

from diffusion_lab.data.base import DataModule
from diffusion_lab.diffusion import SampleNoise
from diffusion_lab.models.noisy_classifier import NoisyClassifier

BATCH_SIZE = 256


def accuracy_by_timestep(
    model: NoisyClassifier, data: DataModule, weights: str, num_timesteps: int = 9, num_images: int = 1000
) -> dict[str, list[float]]:
    """{"t", "accuracy"} at evenly spaced t from 1 to T, over (at most) num_images images of `data.validation_split`, with the
    averaged `weights`.

    The noise of image i at t is a function of (i, t): every classifier sees the same noisy images.
    """
    ts = torch.linspace(1, model.process.num_timesteps, num_timesteps).round().long().unique().tolist()
    correct, seen = torch.zeros(len(ts), dtype=torch.float64), 0
    was_training = model.training
    model.eval()
    try:
        with model.use_weights(weights):
            for x_0, y in data.batches(data.validation_split, BATCH_SIZE, limit=num_images):
                x_0, y = x_0.to(model.device), y.to(model.device)
                noise = SampleNoise(0, torch.arange(seen, seen + len(y), device=model.device))
                correct += torch.tensor([float(model.is_correct(x_0, y, t, noise(t, x_0)).sum()) for t in ts])
                seen += len(y)
    finally:
        model.train(was_training)
    return {"t": ts, "accuracy": (correct / seen).tolist()}
