"""What is logged while training: running means of every loss term, loss by quarter of t, gradient norm, learning rate, img/s."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import nn
from torchmetrics import MeanMetric

from diffusion_lab.models.budget import time_budget
from diffusion_lab.models.trainable import TrainableModel
from diffusion_lab.training.ema import default_weights

# A weighted mean is kept as two: torchmetrics 1.9 takes no notice of weights where NaN must come through.
_SUM, _COUNT = "/sum", "/count"
MEASURED = ("grad_norm", "lr", "skipped_steps", "images_per_second")  # beside what the model says


class Monitor(Callback):
    """Every `trainer.log_every_n_steps` steps, to every logger: the means since the last time, as "train/<name>".

    A model's `training_step` gives "terms" (name -> mean of the batch) and may give "sums" (name -> sum, number or weight of its
    summands), of what not every image of a batch, or not every batch, has: a quarter of t, a lazy penalty.
    The means are torchmetrics' (summed over ranks) and part of the checkpoint, so a resumed run logs what it would have logged.
    Callbacks that come later find the last ones under the same names in `trainer.callback_metrics`.
    The held-out loss is that of the weights that would be scored now.
    `seconds`: what the training so far has taken, over all resumes.
    """

    def __init__(self) -> None:
        self.means = nn.ModuleDict()
        self._last: dict[str, float] = {}
        self.seconds = 0.0  # of the training that this run continues, and of this run
        self._window_seconds, self._window_images = 0.0, 0
        self._clock: float | None = None  # when the last step was over
        self._logged = 0  # the last logged step: while gradients accumulate, several batches see the same global_step
        self._device = torch.device("cpu")

    @property
    def seconds_now(self) -> float:
        """`seconds`, with those of a step that is not over."""
        return self.seconds + (0.0 if self._clock is None else perf_counter() - self._clock)

    def on_train_start(self, trainer: Trainer, pl_module: TrainableModel) -> None:
        self._device = pl_module.device
        self.means.to(self._device)
        if not trainer.is_global_zero:  # the means of a checkpoint are those of all ranks: rank 0 keeps them
            for mean in self.means.values():
                mean.reset()
        self._show(trainer)
        self._clock, self._logged = perf_counter(), trainer.global_step

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: TrainableModel, optimizer: Any) -> None:
        if optimizer is not trainer.optimizers[0]:
            return  # a GAN's discriminator
        norm = pl_module.gradient_norm
        counts = norm.isfinite()  # else the step is skipped
        self._add("grad_norm", torch.where(counts, norm, 0.0), counts)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: TrainableModel, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for name, value in outputs["terms"].items():
            self._mean(name).update(value)
        for name, (total, count) in outputs.get("sums", {}).items():
            self._add(name, total, count)
        now = perf_counter()
        self.seconds += now - self._clock
        self._window_seconds += now - self._clock
        self._window_images += len(batch[0]) * trainer.world_size
        self._clock = now
        if trainer.global_step % trainer.log_every_n_steps == 0 and trainer.global_step != self._logged:
            self._log(trainer, pl_module)
            self._logged = trainer.global_step

    def on_validation_start(self, trainer: Trainer, pl_module: TrainableModel) -> None:
        pl_module.validated_weights = default_weights(pl_module.weight_names, trainer.global_step)

    def _log(self, trainer: Trainer, pl_module: TrainableModel) -> None:
        # Not by `update_called`, which torchmetrics does not restore.
        seen = {name: state for name, state in self._summed().items() if state["weight"] > 0}
        measured = _quotients({name: float(state["mean_value"] / state["weight"]) for name, state in seen.items()})
        measured["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        measured["skipped_steps"] = pl_module.skipped_steps
        measured["images_per_second"] = self._window_images / max(self._window_seconds, 1e-9)
        self._last = {f"train/{name}": value for name, value in measured.items()}
        self._show(trainer)
        for logger in trainer.loggers:
            logger.log_metrics(self._last, step=trainer.global_step)
        for mean in self.means.values():
            mean.reset()
        self._window_seconds, self._window_images = 0.0, 0

    def _show(self, trainer: Trainer) -> None:
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in self._last.items()})

    def _add(self, name: str, total: torch.Tensor, count: torch.Tensor) -> None:
        self._mean(f"{name}{_SUM}").update(total)
        self._mean(f"{name}{_COUNT}").update(count)

    def _mean(self, name: str) -> MeanMetric:
        if name not in self.means:
            self.means[name] = MeanMetric(nan_strategy="disable").to(self._device)
            self.means[name].persistent(True)
        return self.means[name]

    def _summed(self) -> dict[str, dict[str, torch.Tensor]]:
        """The state of each mean, summed over ranks; every rank must call it."""
        states = {}
        for name, mean in self.means.items():
            with mean.sync_context():
                states[name] = mean.state_dict()
        return states

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "means": self._summed(), "last": self._last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seconds, self._last = state["seconds"], state["last"]
        for name, mean in state["means"].items():
            self._mean(name).load_state_dict(mean)


def seconds_trained(trainer: Trainer) -> float:
    """What a training has taken so far, over all resumes: by the clock that may end it, where there is one."""
    time = time_budget(trainer)
    if time is not None:
        return time.elapsed
    return next((part.seconds_now for part in trainer.callbacks if isinstance(part, Monitor)), 0.0)


def _quotients(means: dict[str, float]) -> dict[str, float]:
    """<name>/sum over <name>/count as <name>, where anything was counted; the others as they are."""
    counts = {name.removesuffix(_COUNT): count for name, count in means.items() if name.endswith(_COUNT)}
    plain = {name: mean for name, mean in means.items() if not name.endswith((_SUM, _COUNT))}
    return plain | {name: means[f"{name}{_SUM}"] / count for name, count in counts.items() if count > 0}
