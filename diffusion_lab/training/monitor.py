"""Logging during training: running means of every loss term, loss by quarter of t, gradient norm, learning rate, img/s."""

from __future__ import annotations

import math
from time import perf_counter
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from rich.progress import BarColumn, Progress, TextColumn
from torch import Tensor

from diffusion_lab.models.budget import budget_used, logging_interval
from diffusion_lab.models.means import Mean
from diffusion_lab.terminal import Terminal, in_words
from diffusion_lab.training.ema import default_weights

MEASURED = ("grad_norm", "lr", "skipped_steps", "images_per_second")  # besides the model's terms


class Monitor(Callback):
    """Logs, every `trainer.log_every_n_steps` steps, the means since the last time as "train/<name>".

    A model's `training_step` returns "terms" (name -> mean over the batch) and optionally "weighted" (name -> values and their
    weights, both (B,)) for values that only some images or batches have, such as a quarter of t or a lazy penalty. The names are
    the same on all ranks.
    Means are over all ranks and part of the checkpoint, so a resumed run logs the same values as an uninterrupted one.
    Later callbacks find the latest values under the same names in `trainer.callback_metrics`.
    The held-out loss is computed with the default weights for scoring.
    `seconds_per_image`: the duration of a training step at the peak speed of all devices; if it is known, "train/mfu" is the
    achieved share of the peak (Chowdhery et al. 2022, appendix B).
    """

    seconds_per_image: float | None = None

    def __init__(self) -> None:
        self._means: dict[str, Mean] = {}  # since the last logged step, like _images and _clock
        self._last: dict[str, float] = {}
        self._images, self._clock = 0, perf_counter()
        self._logged = 0  # last logged step; while gradients accumulate, several batches share one global_step

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            self._means = {name: Mean() for name in self._means}  # a checkpoint holds sums over all ranks
        for mean in self._means.values():
            mean.to(pl_module.device)
        self._show(trainer)
        self._images, self._clock, self._logged = 0, perf_counter(), trainer.global_step

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        if optimizer is not trainer.optimizers[0]:
            return  # the discriminator of a GAN
        norm = pl_module.gradient_norm
        counts = norm.isfinite()  # otherwise the step is skipped
        self._add("grad_norm", torch.where(counts, norm, 0.0), counts)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        for name, value in outputs["terms"].items():
            self._add(name, value)
        for name, (values, weights) in outputs.get("weighted", {}).items():
            self._add(name, values, weights)
        self._images += len(batch[0]) * trainer.world_size
        if trainer.global_step % logging_interval(trainer) == 0 and trainer.global_step != self._logged:
            self._log(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module.validated_weights = default_weights(pl_module.weight_names, trainer.global_step)

    def _log(self, trainer: Trainer, pl_module: Any) -> None:
        sums = self._over_ranks()
        measured = {name: float(value / weight) for name, (value, weight) in sums.items() if weight > 0}
        measured["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        measured["skipped_steps"] = pl_module.skipped_steps
        now = perf_counter()
        measured["images_per_second"] = self._images / max(now - self._clock, 1e-9)
        if self.seconds_per_image is not None:
            measured["mfu"] = measured["images_per_second"] * self.seconds_per_image
        if pl_module.device.type == "cuda":
            measured["peak_memory_mib"] = torch.cuda.max_memory_allocated(pl_module.device) / 2**20
        self._last = {f"train/{name}": value for name, value in measured.items()}
        self._show(trainer)
        for logger in trainer.loggers:
            logger.log_metrics(self._last, step=trainer.global_step)
        self._means, self._images, self._clock, self._logged = {}, 0, now, trainer.global_step

    def _show(self, trainer: Trainer) -> None:
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in self._last.items()})

    def _add(self, name: str, value: Tensor, weight: Tensor | None = None) -> None:
        if name not in self._means:
            self._means[name] = Mean().to(value.device)
        self._means[name].update(value.detach(), weight)

    @torch.inference_mode(False)  # a checkpoint may be written during validation
    def _over_ranks(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Σ w·value and Σ w of each mean, over all ranks; every rank must call it."""
        sums = {}
        for name, mean in self._means.items():
            with mean.sync_context():
                sums[name] = mean.mean_value.clone(), mean.weight.clone()
        return sums

    def state_dict(self) -> dict[str, Any]:
        return {"means": self._over_ranks(), "last": self._last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._last = state["last"]
        for name, sums in state.get("means", {}).items():
            if isinstance(sums, tuple):  # else written before 0.2, in another form: these means begin anew
                self._means[name] = Mean()
                self._means[name].merge_state(dict(zip(("mean_value", "weight"), sums, strict=True)))


_MILLI = 1000  # the bar counts thousandths of the budget, in steps or time


class ProgressBar(Callback):
    """A progress bar of trainer.max_steps or trainer.max_time, whichever ends first, with the time left. Rank 0 only.

    Our own, because Lightning's bars count batches of an epoch, and our epoch does not end. Speed and time left are those of the
    steps so far, except the first, which allocates memory, compiles and chooses kernels. Without a terminal there is a line after
    one second of steps and for each tenth of the budget, with the loss of that batch alone.
    """

    def __init__(self) -> None:
        self._console = Terminal()
        self._progress = Progress(disable=True)
        self._loss = math.nan

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        columns = [TextColumn("training"), BarColumn(), TextColumn("{task.description}")]
        hidden = not (trainer.is_global_zero and self._console.is_terminal)
        self._progress = Progress(*columns, console=self._console, transient=True, disable=hidden)
        self._task = self._progress.add_task("", total=_MILLI)
        self._progress.start()
        self._step, self._used = trainer.global_step, budget_used(trainer, trainer.global_step)
        self._began = self._clock = perf_counter()
        self._images, self._tenths, self._stated = 0, int(10 * self._used), False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not trainer.is_global_zero:
            return
        now, used, step = perf_counter(), budget_used(trainer, trainer.global_step), trainer.global_step
        self._images += len(batch[0]) * trainer.world_size
        is_first, done = self._clock == self._began, used - self._used
        left = "" if is_first or done <= 0 or used == 1 else in_words((now - self._clock) * (1 - used) / done)
        early = bool(left) and not self._stated and now - self._clock >= 1
        self._stated = self._stated or early
        if early or not self._progress.disable or int(10 * used) != self._tenths:
            self._show(trainer, outputs, now, used, f"  {left} left" if left else "")
        if is_first and step > self._step:
            self._clock, self._used, self._images = now, used, 0

    def _show(self, trainer: Trainer, outputs: Any, now: float, used: float, left: str) -> None:
        step, hidden = trainer.global_step, self._progress.disable
        if hidden or step % 10 == 0 or math.isnan(self._loss):
            loss = float(outputs["terms"]["loss"])  # waits for the device, so not at every step
            if math.isfinite(loss):  # otherwise the step was skipped
                self._loss = loss if hidden or math.isnan(self._loss) else 0.9 * self._loss + 0.1 * loss
        of = f"/{trainer.max_steps}" if trainer.max_steps > 0 else ""
        line = f"step {step}{of}  loss {self._loss:.4f}  {self._images / max(now - self._clock, 1e-9):.0f} img/s"
        self._progress.update(self._task, completed=_MILLI * used, description=f"{line}{left}")
        if hidden:
            self._tenths = int(10 * used)
            self._console.print(f"training {100 * used:3.0f} %  {line}  {now - self._began:.0f} s{left}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._progress.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._progress.stop()
