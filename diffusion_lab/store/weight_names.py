"""Names of a model's weights, and moments of training: a share of its budget, a time, a number of steps or images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SHARE, SECONDS, STEPS, IMAGES = "share", "seconds", "steps", "images"
WAYS = "0.1 (a share of the budget), 2m (also s and h), 1000steps or 64000images"

_WRITTEN = re.compile(r"(\d+(?:\.\d+)?(?:e\d{1,2})?)(s|m|h|steps|images)")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_LARGEST = 1e15
_NUMBER = r"\d+(\.\d+)?(e[+-]?\d+)?"  # as Python writes it
_NAME = re.compile(rf"raw|ema_{_NUMBER}|at_{_NUMBER}([smh]|steps|images)?")
_SNAPSHOT, _KEPT_AVERAGE = "at_", "power_"


@dataclass(frozen=True)
class Moment:
    """A moment of training. unit: SHARE, SECONDS, STEPS or IMAGES. amount: in that unit."""

    unit: str
    amount: float

    def __str__(self) -> str:
        """The moment in the grammar of options, in a unique form: 1h, 60m and 3600s are 60m."""
        if self.unit == SHARE:
            return repr(self.amount)
        if self.unit != SECONDS:
            return f"{self.amount:.0f}{self.unit}"
        minutes = round(self.amount / 60, 1)
        return f"{minutes:.10g}m" if minutes and minutes * 60 == self.amount else f"{self.amount:.15g}s"


def read_moment(written: Any) -> Moment:
    """0.1, "2m", "1000steps", … -> the moment. ValueError for anything else, and for an amount of 0."""
    if isinstance(written, float | int) and not isinstance(written, bool) and 0 < written < 1:
        return Moment(SHARE, float(written))
    parts = _WRITTEN.fullmatch(written) if isinstance(written, str) else None
    if parts is not None:
        amount, unit = float(parts[1]), parts[2]
        moment = Moment(SECONDS, amount * _SECONDS[unit]) if unit in _SECONDS else Moment(unit, amount)
        if 0 < moment.amount < _LARGEST and (unit in _SECONDS or amount.is_integer()):
            return moment
    raise ValueError(f"{written} is not a moment of a training; write {WAYS}")


def read_moments(option: str, written: Sequence[Any]) -> list[Moment]:
    """The moments in a list option. ValueError, naming the option, for anything else, and for a repeated moment."""
    if not isinstance(written, Sequence) or isinstance(written, str):
        raise ValueError(f"{option}={written}: give a list of moments, such as [0.1,2m]")
    try:
        moments = [read_moment(each) for each in written]
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None
    if len(set(moments)) < len(moments):
        raise ValueError(f"{option}={list(written)}: remove the repeated moment")
    return moments


def is_weights(name: str) -> bool:
    """Whether `name` is one of a model's weights."""
    return _NAME.fullmatch(name) is not None


def snapshot_name(moment: float | str | Moment) -> str:
    """0.2 -> "at_0.2", "2m" -> "at_2m": the default weights if training had ended at that moment.

    ValueError for an invalid moment.
    """
    return f"{_SNAPSHOT}{moment if isinstance(moment, Moment) else read_moment(moment)}"


def is_snapshot(name: str) -> bool:
    """Whether `name` belongs to weights of an earlier moment of training."""
    return name.startswith(_SNAPSHOT) and is_weights(name)


def kept_average_name(share: float) -> str:
    """0.125 -> "power_0.125": two averages at this share of the budget, from which others are built."""
    return f"{_KEPT_AVERAGE}{float(share)!r}"


def is_kept_average(name: str) -> bool:
    """Whether `name` belongs to a file of such averages."""
    return re.fullmatch(rf"{_KEPT_AVERAGE}\d\.\d+", name) is not None
