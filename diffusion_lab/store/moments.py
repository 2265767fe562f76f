"""A moment of a training: a share of its budget, a time, a number of steps or of images. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

SHARE, SECONDS, STEPS, IMAGES = "share", "seconds", "steps", "images"
WAYS = "0.1 (a share of the budget), 2m (also s and h), 1000steps or 64000images"

_WRITTEN = re.compile(r"(\d+(?:\.\d+)?(?:e\d{1,2})?)(s|m|h|steps|images)")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_LARGEST = 1e15


@dataclass(frozen=True)
class Moment:
    """unit: SHARE, SECONDS, STEPS or IMAGES. amount: so many of them."""

    unit: str
    amount: float

    def __str__(self) -> str:
        """As a user may write it. One moment has one name: 1h, 60m and 3600s are 60m."""
        if self.unit == SHARE:
            return repr(self.amount)
        if self.unit != SECONDS:
            return f"{self.amount:.0f}{self.unit}"
        minutes = round(self.amount / 60, 1)
        return f"{minutes:.10g}m" if minutes and minutes * 60 == self.amount else f"{self.amount:.15g}s"


def read_moment(written: Any) -> Moment:
    """0.1, "2m", "1000steps", … -> the moment. ValueError for anything else, and for no amount at all."""
    if isinstance(written, float | int) and not isinstance(written, bool) and 0 < written < 1:
        return Moment(SHARE, float(written))
    parts = _WRITTEN.fullmatch(written) if isinstance(written, str) else None
    if parts is not None:
        amount, unit = float(parts[1]), parts[2]
        moment = Moment(SECONDS, amount * _SECONDS[unit]) if unit in _SECONDS else Moment(unit, amount)
        if 0 < moment.amount < _LARGEST and (unit in _SECONDS or amount.is_integer()):
            return moment
    raise ValueError(f"{written} is not a moment of a training; write {WAYS}")
