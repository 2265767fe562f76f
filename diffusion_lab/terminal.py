"""The console of all commands, which prints text unchanged, including brackets in paths and options; durations in words."""

from __future__ import annotations

from typing import Any

from rich.console import Console


class Terminal(Console):
    """Without markup, emoji and highlighting; lines are not wrapped, so that paths can be copied. Tables need soft_wrap=False."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, soft_wrap=True, **options)


MOST_LINES = 200  # of a list whose length a file determines


def and_more(number: int) -> list[str]:
    """A line for what follows the first MOST_LINES of a list of this length, if anything does."""
    return [f"… and {number - MOST_LINES:,} more"] if number > MOST_LINES else []


_UNITS = ((1, "second"), (60, "minute"), (3600, "hour"), (86400, "day"))


def in_words(seconds: float) -> str:
    """A time, rounded, in the largest unit of which it is at least 1.5: 40 seconds, 18 minutes, 2.5 hours, 3 days."""
    size, unit = next((each for each in reversed(_UNITS) if seconds >= 1.5 * each[0]), _UNITS[0])
    amount = max(1.0, seconds / size)
    shown = f"{amount:.1f}".removesuffix(".0") if size > 60 and amount < 10 else f"{amount:.0f}"
    return f"{shown} {unit}{'' if shown == '1' else 's'}"
