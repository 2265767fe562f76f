"""Which of several processes this is, if there are several: torch.distributed, where somebody has started it."""

from typing import Any

from torch import distributed


def rank() -> int:
    return distributed.get_rank() if _several() else 0


def num_ranks() -> int:
    return distributed.get_world_size() if _several() else 1


def word_of_rank_zero(value: Any) -> Any:
    """What rank 0 gave here, on every rank; all must call it."""
    if not _several():
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def wait_for_all() -> None:
    """Returns when every rank has called it."""
    if _several():
        distributed.barrier()


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()
