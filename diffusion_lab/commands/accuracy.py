"""The accuracy of a noisy classifier by t, reported in place of a score."""

from __future__ import annotations

import torch
from rich.table import Table
from torchmetrics.classification import MulticlassAccuracy

from diffusion_lab.data.module import DataModule
from diffusion_lab.diffusion import SampleNoise
from diffusion_lab.diffusion.condition_parts import classes_in
from diffusion_lab.models.noisy_classifier import NoisyClassifier
from diffusion_lab.store import ModelDirectory, read_json, write_json
from diffusion_lab.terminal import Terminal
from diffusion_lab.training.ema import default_weights

BATCH_SIZE = 256


def report_accuracy(model: NoisyClassifier, data: DataModule, directory: ModelDirectory, device: str) -> None:
    """Measure the accuracy by t once per training, on `device`; write it beside the weights and show it."""
    if not directory.accuracy.is_file():
        model.load_weights(directory.weight_files())
        model.to(device)
        weights = default_weights(model.weight_names, directory.read_training()["steps"])
        about = {"weights": weights, "split": data.validation_split}
        write_json(directory.accuracy, about | accuracy_by_timestep(model, data, weights))
    measured = read_json(directory.accuracy)
    table = Table(title=f"{data.name}, weights {measured['weights']}", title_justify="left", box=None, pad_edge=False)
    table.add_column("t", justify="right")
    table.add_column(f"accuracy on {measured.get('split', 'test')} images", justify="right")
    for t, accuracy in zip(measured["t"], measured["accuracy"], strict=True):
        table.add_row(str(t), f"{100 * accuracy:.1f} %")
    console = Terminal()
    console.print(table, soft_wrap=False)
    console.print(
        f"chance is {100 / model.num_classes:.1f} %; to guide sampling with it: "
        f"guidance=classifier guidance.classifier={directory.path}",
    )


def accuracy_by_timestep(
    model: NoisyClassifier, data: DataModule, weights: str, num_timesteps: int = 9, num_images: int = 1000
) -> dict[str, list[float]]:
    """{"t", "accuracy"} of a noisy classifier at evenly spaced t from 1 to T, on validation images.

    model: the classifier. data: its data set; the images are of `data.validation_split`. weights: the name of the averaged weights.
    num_timesteps: how many t. num_images: at most this many images.
    The noise of image i at t is a function of (i, t), so every classifier gets the same noisy images.
    """
    ts = torch.linspace(1, model.process.num_timesteps, num_timesteps).round().long().unique().tolist()
    # Only rank 0 may be here, so there is nothing to synchronise.
    found = [MulticlassAccuracy(model.num_classes, average="micro", sync_on_compute=False).to(model.device) for _ in ts]
    seen = 0
    model.eval()
    with model.use_weights(weights):
        for x, y in data.batches(data.validation_split, BATCH_SIZE, limit=num_images):
            x_0, classes = x.to(model.device), classes_in(y)
            assert classes is not None
            noise = SampleNoise(0, torch.arange(seen, seen + len(x_0), device=model.device))
            classes = classes.to(model.device)
            for t, accuracy in zip(ts, found, strict=True):
                accuracy.update(model.logits(x_0, t, noise(t, x_0)), classes)
            seen += len(classes)
    return {"t": ts, "accuracy": [float(accuracy.compute()) for accuracy in found]}
