"""Logging during training: running means of every loss term, loss by quarter of t, gradient norm, learning rate, img/s."""

from __future__ import annotations

import logging
import math
from time import perf_counter
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from rich.progress import BarColumn, Progress, TextColumn
from torch import Tensor

from diffusion_lab.models.budget import TimeBudget, budget_used, callback_of, logging_interval
from diffusion_lab.models.means import Mean
from diffusion_lab.terminal import Terminal, in_words
from diffusion_lab.training.ema import default_weights

MEASURED = ("grad_norm", "lr", "skipped_steps", "images_per_second", "warm_up_seconds")  # besides the model's terms
_WARM_UP = 3  # steps that compile, record graphs and time kernels
_SHOWN_WARM_UP = 5  # seconds from which the progress line shows it
_MOST_WAITED = 0.2  # of the time of training, for batches


class Speed:
    """Images per second of a training that begins at `step`; after the warm-up, which takes `warm_up` seconds, without it."""

    def __init__(self, step: int) -> None:
        self._warm_until, self.warms_up, self.began = step + _WARM_UP, True, perf_counter()
        self.clock, self.warm_up = self.began, 0.0  # clock: when the last step was over
        self.clear()

    def clear(self) -> None:
        self.images, self.seconds = 0, 0.0

    def add(self, images: int, step: int) -> float:
        """A step, or a part of one, is over: the seconds that it took. step: how many are done."""
        now = perf_counter()
        taken, self.clock = now - self.clock, now
        if step <= self._warm_until:
            self.warm_up = now - self.began
        elif self.warms_up:
            self.warms_up = False
            self.clear()
        self.images, self.seconds = self.images + images, self.seconds + taken
        return taken

    @property
    def images_per_second(self) -> float:
        return self.images / max(self.seconds, 1e-9)


class Monitor(Callback):
    """Logs, every `trainer.log_every_n_steps` steps, the means since the last time as "train/<name>".

    A model's `training_step` returns "terms" (name -> mean over the batch) and optionally "weighted" (name -> values and their
    weights, both (B,)) for values that only some images or batches have, such as a quarter of t or a lazy penalty. The names are
    the same on all ranks.
    Means are over all ranks and part of the checkpoint, so a resumed run logs what an uninterrupted one would have logged.
    Later callbacks find the latest values under the same names in `trainer.callback_metrics`.
    The held-out loss is computed with the default weights for scoring.
    `seconds`: the duration of training over all resumes. `seconds_per_image`: the duration of a training step at the peak speed of
    all devices; if it is known, "train/mfu" is the achieved share of the peak (Chowdhery et al. 2022, appendix B).
    """

    seconds_per_image: float | None = None

    def __init__(self) -> None:
        self._means: dict[str, Mean] = {}  # since the last time
        self._resumed: dict[str, dict[str, Tensor]] = {}  # their states in the checkpoint
        self._last: dict[str, float] = {}
        self.seconds = 0.0  # of training before this run and during it
        self._speed: Speed | None = None  # since the last time
        self._waited, self._warned = 0.0, False  # seconds for batches, up to the last time; of the loader
        self._logged = 0  # last logged step; while gradients accumulate, several batches share one global_step

    @property
    def seconds_now(self) -> float:
        """`seconds`, including the unfinished step."""
        return self.seconds + (0.0 if self._speed is None else perf_counter() - self._speed.clock)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        for name, state in self._resumed.items():
            # States in a checkpoint are sums over all ranks, so only rank 0 keeps them.
            own = {part: value if trainer.is_global_zero else 0 * value for part, value in state.items()}
            self._means[name] = Mean()
            self._means[name].merge_state(own)
            self._means[name].to(pl_module.device)
        self._resumed = {}
        self._show(trainer)
        self._speed, self._logged = Speed(trainer.global_step), trainer.global_step

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        if optimizer is not trainer.optimizers[0]:
            return  # the discriminator of a GAN
        norm = pl_module.gradient_norm
        counts = norm.isfinite()  # else the step is skipped
        self._add("grad_norm", torch.where(counts, norm, 0.0), counts)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        for name, value in outputs["terms"].items():
            self._add(name, value)
        for name, (values, weights) in outputs.get("weighted", {}).items():
            self._add(name, values, weights)
        assert self._speed is not None
        self.seconds += self._speed.add(len(batch[0]) * trainer.world_size, trainer.global_step)
        if self._speed.warms_up:  # and processes that decode images start
            self._waited = _waited(trainer)
        if trainer.global_step % logging_interval(trainer) == 0 and trainer.global_step != self._logged:
            self._log(trainer, pl_module)
            self._logged = trainer.global_step

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module.validated_weights = default_weights(pl_module.weight_names, trainer.global_step)

    def _log(self, trainer: Trainer, pl_module: Any) -> None:
        measured = {
            name: float(state["mean_value"] / state["weight"])
            for name, state in self._over_ranks().items()
            if state["weight"] > 0
        }
        measured["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        measured["skipped_steps"] = pl_module.skipped_steps
        assert self._speed is not None
        measured["images_per_second"] = self._speed.images_per_second
        measured["warm_up_seconds"] = self._speed.warm_up
        if self.seconds_per_image is not None:
            measured["mfu"] = measured["images_per_second"] * self.seconds_per_image
        if pl_module.device.type == "cuda":
            measured["peak_memory_mib"] = torch.cuda.max_memory_allocated(pl_module.device) / 2**20
        self._last = {f"train/{name}": value for name, value in measured.items()}
        self._show(trainer)
        for logger in trainer.loggers:
            logger.log_metrics(self._last, step=trainer.global_step)
        self._means = {}
        self._look_at_loader(trainer)
        self._speed.clear()

    def _look_at_loader(self, trainer: Trainer) -> None:
        """Warn, once, where training waits for batches and the data set can do something about it."""
        waited = _waited(trainer)
        since, self._waited = waited - self._waited, waited
        assert self._speed is not None
        share = since / max(self._speed.seconds, 1e-9)
        fix = getattr(getattr(trainer, "datamodule", None), "faster", None)
        if share > _MOST_WAITED and fix and not self._warned and trainer.is_global_zero:
            self._warned = True
            logging.getLogger(__name__).warning(f"training waits for data {share:.0%} of the time: {fix}")

    def _show(self, trainer: Trainer) -> None:
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in self._last.items()})

    def _add(self, name: str, value: Tensor, weight: Tensor | None = None) -> None:
        if name not in self._means:
            self._means[name] = Mean().to(value.device)
        self._means[name].update(value.detach(), weight)

    @torch.inference_mode(False)  # a checkpoint may be written during validation
    def _over_ranks(self) -> dict[str, dict[str, Tensor]]:
        """The state of each mean, summed over all ranks; every rank must call it."""
        states = {}
        for name, mean in self._means.items():
            with mean.sync_context():
                states[name] = {"mean_value": mean.mean_value.clone(), "weight": mean.weight.clone()}
        return states

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "means": self._over_ranks(), "last": self._last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seconds, self._last, self._resumed = state["seconds"], state["last"], state["means"]


def _waited(trainer: Trainer) -> float:
    """Seconds of waiting for batches."""
    return getattr(trainer.train_dataloader, "waited", 0.0)


def seconds_trained(trainer: Trainer) -> float:
    """The duration of training over all resumes, by the clock of the time budget if there is one."""
    time = callback_of(trainer, TimeBudget)
    if time is not None:
        return time.elapsed
    monitor = callback_of(trainer, Monitor)
    return 0.0 if monitor is None else monitor.seconds_now


_MILLI = 1000  # the bar counts thousandths of the budget, in steps or time


class ProgressBar(Callback):
    """A progress bar of trainer.max_steps or trainer.max_time, whichever ends first, with the time left. Rank 0 only.

    Our own, because Lightning's bars count batches of an epoch, and our epoch does not end. The time left is extrapolated from the
    steps so far, except the first, which allocates memory and chooses kernels; a line states it after one second of steps.
    """

    def __init__(self) -> None:
        self._console = Terminal()
        self._progress = Progress(disable=True)
        self._loss: float | None = None
        self._speed, self._step, self._images, self._tenths = Speed(0), 0, 0, 0
        self._first: tuple[float, float] | None = None  # when the first step was over, and the share that was used then
        self._stated = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._speed, self._step, self._images = Speed(trainer.global_step), trainer.global_step, 0
        self._first, self._stated = None, False
        self._tenths = int(10 * budget_used(trainer, trainer.global_step))
        columns = [TextColumn("training"), BarColumn(), TextColumn("{task.description}")]
        hidden = not (trainer.is_global_zero and self._console.is_terminal)
        self._progress = Progress(*columns, console=self._console, transient=True, disable=hidden)
        self._task = self._progress.add_task("", total=_MILLI)
        self._progress.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not trainer.is_global_zero:
            return
        images = len(batch[0]) * trainer.world_size
        self._images += images
        self._speed.add(images, trainer.global_step)
        used = budget_used(trainer, trainer.global_step)
        left = self._time_left(trainer, used)
        tenths = int(10 * used)
        if self._progress.disable and tenths == self._tenths:
            return
        if trainer.global_step % 10 == 0 or self._loss is None or self._progress.disable:
            loss = float(outputs["terms"]["loss"])  # waits for the device, so not at every step
            if self._loss is None or not math.isfinite(self._loss):
                self._loss = loss
            elif math.isfinite(loss):  # else the step was skipped
                self._loss = 0.9 * self._loss + 0.1 * loss
        seconds, warm_up = self._speed.clock - self._speed.began, self._speed.warm_up
        steps = f"{trainer.global_step}/{trainer.max_steps}" if trainer.max_steps > 0 else str(trainer.global_step)
        line = f"step {steps}  loss {self._loss:.4f}  {self._speed.images_per_second:.0f} img/s"
        line += f" after {warm_up:.0f} s of warm-up" if warm_up > _SHOWN_WARM_UP else ""
        self._progress.update(self._task, completed=_MILLI * used, description=f"{line}{left}")
        if self._progress.disable:
            self._tenths = tenths
            self._console.print(f"training {100 * used:3.0f} %  {line}  {seconds:.0f} s{left}")

    def _time_left(self, trainer: Trainer, used: float) -> str:
        """In words, with two spaces before them; nothing before it is known and at the end. Stated in a line of its own once."""
        now = perf_counter()
        if self._first is None and trainer.global_step > self._step:
            self._first = now, used
        if self._first is None or used in (self._first[1], 1.0):
            return ""
        taken = now - self._first[0]
        left = in_words(taken * (1 - used) / (used - self._first[1]))
        if not self._stated and taken >= 1:
            self._stated = True
            size = self._images // (trainer.global_step - self._step)
            # False if trainer.max_time ends the training.
            by_steps = trainer.max_steps > 0 and trainer.global_step / trainer.max_steps >= used
            steps = f"{trainer.max_steps - trainer.global_step:,} more steps" if by_steps else "steps"
            self._console.print(f"about {left} of training on this machine: {steps} of {size} images")
        return f"  {left} left"

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._progress.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._progress.stop()
