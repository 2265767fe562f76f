"""A grid of images every N steps, and earlier ones soon after the start, from the same latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer

from diffusion_lab.models.budget import seconds_trained
from diffusion_lab.models.trainable import GenerativeModel
from diffusion_lab.report.drawing import columns_of, may_fail, picture, png
from diffusion_lab.store.directories import grid_file
from diffusion_lab.store.files import write_whole
from diffusion_lab.store.option_names import check_at_least
from diffusion_lab.training.ema import default_weights
from diffusion_lab.training.trackers import SAMPLES


class SampleGrid(Callback):
    """Writes <folder>/step_<n>.png, and passes it to loggers with a method `log_image`.

    Models that generate no samples are skipped.

    Parameters ---------- every_n_steps: steps between grids; 0: none. first_after: minutes of training until an early grid,
    repeated at 3, 9, … times as many minutes; 0: none. num_images: images of latents 0, 1, … of stream `seed`, drawn with the
    default weights; a conditional model draws its classes in turn, or images for the conditions of held-out images. Diffusion takes
    at most 50 deterministic, unguided steps.
    """

    def __init__(self, folder: Path, every_n_steps: int, num_images: int, seed: int, first_after: float = 0) -> None:
        self.folder, self.every_n_steps, self.num_images, self.seed = folder, every_n_steps, num_images, seed
        self.first_after = first_after
        check_at_least(1, self, "num_images", prefix="callbacks.sample_grid.")
        check_at_least(0, self, "seed", "first_after", prefix="callbacks.sample_grid.")

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._due = 60.0 * self.first_after  # seconds of training
        self._is_due(trainer)  # seconds before a resume

    def _is_due(self, trainer: Trainer) -> bool:
        """Whether an early grid is due; if so, schedules the next one."""
        seconds, due = seconds_trained(trainer), self._due
        while 0 < self._due <= seconds:
            self._due *= 3
        return self._due > due

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        path = grid_file(self.folder, step)
        due = self.every_n_steps > 0 and step > 0 and step % self.every_n_steps == 0
        due = due or (0 < step < self.every_n_steps and self._is_due(trainer))
        if not (due and trainer.is_global_zero and isinstance(pl_module, GenerativeModel)) or path.exists():
            return
        image = None
        with may_fail(path.name), torch.no_grad(), trainer.precision_plugin.forward_context():
            generator = pl_module.generator(default_weights(pl_module.weight_names, step))
            indices = torch.arange(self.num_images, device=generator.device)
            # By `decode` with few steps, because the sampler may take many, and so much of a budget of minutes.
            z = generator.latents(indices, self.seed)
            data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by fit
            y = generator.conditions_of_pictures(data, data.validation_split, indices)
            x = generator.decode(z, y)
            x, names = (x.cpu(), None) if data.units is None else (data.units.restored(x.cpu()), data.units.names)
            image = picture(x, generator.num_levels, columns_of(generator.num_classes, len(x)), names)
        if image is None:
            return
        write_whole(path, png(image))
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image(SAMPLES, [str(path)], step=step)
