"""The console that every command prints with: text appears as it is, whatever brackets a path or an option has."""

from __future__ import annotations

from typing import Any

from rich.console import Console


class Terminal(Console):
    """Without markup, emoji and highlighting; lines are not wrapped, so that paths can be copied. Tables need soft_wrap=False."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, soft_wrap=True, **options)
