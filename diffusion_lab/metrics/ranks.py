"""Which of several processes this is, if there are several: torch.distributed, where it was started."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import distributed

from diffusion_lab.store.lease import hold


def rank() -> int:
    return distributed.get_rank() if _several() else 0


def num_ranks() -> int:
    return distributed.get_world_size() if _several() else 1


def broadcast_from_rank_zero(value: Any) -> Any:
    """What rank 0 gave here, on every rank; all must call it."""
    if not _several():
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def gather_to_rank_zero(value: Any) -> list[Any] | None:
    """What every rank gave here, in the order of the ranks, on rank 0; None on the others. All must call it."""
    if not _several():
        return [value]
    values = [None] * num_ranks() if rank() == 0 else None
    distributed.gather_object(value, values, dst=0)
    return values


def wait_for_all() -> None:
    """Returns when every rank has called it."""
    if _several():
        distributed.barrier()


@contextmanager
def hold_together(folder: Path, waiting: Callable[[str], None]) -> Iterator[None]:
    """`lease.hold` by rank 0, for all ranks; all must call it.

    However long rank 0 waits, no rank waits longer than a moment for its word: collectives have a time limit.
    """

    def pause(seconds: float) -> None:
        broadcast_from_rank_zero(False)
        time.sleep(seconds)

    if rank() > 0:
        while not broadcast_from_rank_zero(None):
            pass
        yield
        return
    with hold(folder, waiting, sleep=pause):
        broadcast_from_rank_zero(True)
        yield


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()
