"""The budget of training, in steps, in time or both, and the used share of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from time import monotonic
from typing import Any, TypeVar

from lightning import Callback, LightningModule, Trainer

Part = TypeVar("Part", bound=Callback)


class TimeBudget(Callback):
    """Limits training to `seconds`, over all resumes, by the clock of rank 0.

    `elapsed` is measured once per batch, is equal on all ranks, and is part of the checkpoint. It alone determines the end
    and the learning rate, so replicas stay equal although clocks differ, and a resumed run continues from the used time.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.elapsed = seconds, 0.0
        self._started = monotonic()

    @property
    def used(self) -> float:
        return self.elapsed / self.seconds

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = monotonic() - self.elapsed

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.elapsed = trainer.strategy.broadcast(monotonic() - self._started)
        if self.used >= 1:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return {"elapsed": self.elapsed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.elapsed = state["elapsed"]


def callback_of(trainer: Trainer, kind: type[Part]) -> Part | None:
    """The callback of a class, if the training has one."""
    found: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # a connector of Lightning sets it
    return next((part for part in found if isinstance(part, kind)), None)


def logging_interval(trainer: Trainer) -> int:
    """trainer.log_every_n_steps."""
    return trainer.log_every_n_steps  # type: ignore[attr-defined]  # as above


def budget_used(trainer: Trainer, step: int) -> float:
    """The larger of the used shares of steps and of time, in [0, 1], equal on all ranks."""
    shares = [step / trainer.max_steps] if trainer.max_steps > 0 else []
    time = callback_of(trainer, TimeBudget)
    if time is not None:
        shares.append(time.used)
    return min(1.0, max(shares, default=0.0))


def seconds_of(max_time: str | Mapping[str, float]) -> float:
    """Seconds from "00:00:10:00" or {"minutes": 10} (600.0); ValueError for anything else, and for no time at all."""
    if isinstance(max_time, Mapping) and set(max_time) <= {"weeks", "days", "hours", "minutes", "seconds"}:
        seconds = timedelta(**max_time).total_seconds()
    else:
        parts = re.fullmatch(r"(\d+):(\d\d):(\d\d):(\d\d)", str(max_time))
        days, hours, minutes, seconds = map(int, parts.groups()) if parts else (0, 0, 0, 0)
        seconds += 60 * (minutes + 60 * (hours + 24 * days))
    if seconds <= 0:
        raise ValueError(
            f"trainer.max_time={max_time}: write days:hours:minutes:seconds, as 00:00:10:00 for ten minutes"
        )
    return float(seconds)
