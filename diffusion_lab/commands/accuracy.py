"""What a noisy classifier has instead of a score: its accuracy by t."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from diffusion_lab.store import ModelDirectory, read_json, write_json
from diffusion_lab.terminal import Terminal

if TYPE_CHECKING:
    from diffusion_lab.data.module import DataModule
    from diffusion_lab.models.noisy_classifier import NoisyClassifier


def report_accuracy(model: NoisyClassifier, data: DataModule, directory: ModelDirectory, device: str) -> None:
    """Measure it once for a training, on `device`, write it beside the weights, and show it."""
    from diffusion_lab.metrics.accuracy import accuracy_by_timestep
    from diffusion_lab.training.ema import default_weights

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
