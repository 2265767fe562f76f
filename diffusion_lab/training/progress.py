"""The progress bar: step of steps, loss, img/s, time left. One line on a terminal, a line every tenth of the way elsewhere."""

from __future__ import annotations

import math
from time import perf_counter
from typing import Any

from lightning import Callback, LightningModule, Trainer
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from diffusion_lab.models.budget import budget_used
from diffusion_lab.terminal import Terminal

_MILLI = 1000  # the bar counts thousandths of the budget, which may be steps or time


class ProgressBar(Callback):
    """Shows how much of trainer.max_steps or trainer.max_time is used, whichever ends first. Rank 0 only.

    Our own, because Lightning's bars count batches of an epoch, and ours has no end.
    """

    def __init__(self) -> None:
        self._console = Terminal()
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._loss: float | None = None
        self._started, self._images, self._tenths = 0.0, 0, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started, self._images = perf_counter(), 0
        self._tenths = int(10 * budget_used(trainer, trainer.global_step))
        if trainer.is_global_zero and self._console.is_terminal:
            columns = [TextColumn("training"), BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn()]
            self._progress = Progress(*columns, console=self._console, transient=True)
            self._task = self._progress.add_task("", total=_MILLI)
            self._progress.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not trainer.is_global_zero:
            return
        self._images += len(batch[0]) * trainer.world_size
        used = budget_used(trainer, trainer.global_step)
        tenths = int(10 * used)
        if self._progress is None and tenths == self._tenths:
            return
        if trainer.global_step % 10 == 0 or self._loss is None or self._progress is None:
            loss = float(outputs["terms"]["loss"])  # waits for the device, so not at every step
            if self._loss is None or not math.isfinite(self._loss):
                self._loss = loss
            elif math.isfinite(loss):  # else the step was skipped
                self._loss = 0.9 * self._loss + 0.1 * loss
        seconds = perf_counter() - self._started
        steps = f"{trainer.global_step}/{trainer.max_steps}" if trainer.max_steps > 0 else str(trainer.global_step)
        line = f"step {steps}  loss {self._loss:.4f}  {self._images / seconds:.0f} img/s"
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=_MILLI * used, description=line)
        else:
            self._tenths = tenths
            self._console.print(f"training {100 * used:3.0f} %  {line}  {seconds:.0f} s")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
