"""Writes to status.json how many steps are done."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer

from diffusion_lab.store.status_file import Announcement


class Announce(Callback):
    """Rank 0 only. `announcement`: that of the folder which is trained into."""

    def __init__(self, announcement: Announcement) -> None:
        self.announcement = announcement

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_global_zero:
            self.announcement.step(trainer.global_step)
