"""The budget of training, in steps, in time or both, and the used share of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from time import monotonic
from typing import Any, TypeVar

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

Part = TypeVar("Part", bound=Callback)


class Clock(Callback):
    """The duration of training over all resumes, `elapsed` seconds, updated once per batch; training ends at `limit` seconds.

    With a limit it is rank 0's on all ranks. It alone determines the end and the learning rate, so replicas stay equal although
    clocks differ, and a resumed run continues from the used time. Lightning's Timer reads this clock.
    """

    def __init__(self, limit: float = math.inf) -> None:
        self.limit, self.elapsed = limit, 0.0
        self._started = monotonic()

    @property
    def used(self) -> float:
        return self.elapsed / self.limit

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = monotonic() - self.elapsed

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        elapsed = monotonic() - self._started
        self.elapsed = elapsed if math.isinf(self.limit) else trainer.strategy.broadcast(elapsed)
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
    clock = callback_of(trainer, Clock)
    if clock is not None:
        shares.append(clock.used)
    return min(1.0, max(shares, default=0.0))


def seconds_trained(trainer: Trainer) -> float:
    """The duration of training over all resumes."""
    clock = callback_of(trainer, Clock)
    return 0.0 if clock is None else clock.elapsed


def seconds_of(max_time: str | Mapping[str, float]) -> float:
    """Seconds from "00:00:10:00" or {"minutes": 10} (600.0); ValueError for anything else, and for no time at all."""
    try:
        limit = max_time if isinstance(max_time, str) else timedelta(**max_time)
        seconds = Timer(limit).time_remaining() or 0.0
    except (MisconfigurationException, TypeError, ValueError):
        seconds = 0.0
    if seconds <= 0:
        raise ValueError(
            f"trainer.max_time={max_time}: write days:hours:minutes:seconds, as 00:00:10:00 for ten minutes"
        )
    return seconds
