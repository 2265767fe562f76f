"""A warning before a long computation."""

from __future__ import annotations

import logging
from functools import cache
from time import perf_counter

import torch

LONG = 20.0  # seconds; a longer computation is announced
_SIDE = 768  # of the matrices whose product is timed, for the speed of this machine


def say_if_long(what: str, multiplications: float, device: torch.device | str = "cpu") -> None:
    """Warn of the estimated time of so many float64 multiplications on this CPU, if it is longer than LONG."""
    if multiplications < 1e10 or torch.device(device).type != "cpu":  # seconds on any machine
        return
    seconds = multiplications / _per_second()
    if seconds > LONG:
        time = f"{seconds / 60:.0f} minutes" if seconds > 90 else f"{seconds:.0f} seconds"
        logging.getLogger(__name__).warning(f"{what} takes about {time}")


@cache
def _per_second() -> float:
    matrix = torch.ones(_SIDE, _SIDE, dtype=torch.float64)
    matrix @ matrix  # the first product starts threads
    start = perf_counter()
    for _ in range(4):
        matrix @ matrix
    return 4 * _SIDE**3 / (perf_counter() - start)
