"""Checks of types and shapes in the theory (--jaxtyping-packages), which take longer than what they check."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import beartype
import jaxtyping

MOST = 100  # checks in a test, of arguments or of a result: a chain of a thousand steps repeats the same calls
_done = 0


def begin_test() -> None:
    global _done
    _done = 0
    jaxtyping.config.update("jaxtyping_disable", False)


def first_calls(function: Callable[..., Any]) -> Callable[..., Any]:
    """beartype, up to MOST checks in a test."""
    checked = beartype.beartype(function)

    @wraps(function)
    def counted(*arguments: Any, **options: Any) -> Any:
        global _done
        _done += 1
        if _done >= MOST:
            jaxtyping.config.update("jaxtyping_disable", True)
        return checked(*arguments, **options)

    return counted
