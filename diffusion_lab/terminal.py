"""The console of all commands, which prints text unchanged, including brackets in paths and options."""

from __future__ import annotations

from typing import Any

from rich.console import Console


class Terminal(Console):
    """Without markup, emoji and highlighting; lines are not wrapped, so that paths can be copied. Tables need soft_wrap=False."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, soft_wrap=True, **options)
