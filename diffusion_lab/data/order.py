"""Which images make up training batch k: a function of (seed, k) and nothing else.

The training images are shown in the order perm(seed, 0), perm(seed, 1), perm(seed, 2), … without end. Position p of
that sequence lies in epoch p // n and shows image perm(seed, p // n)[p mod n]; a coin keyed by the same position
says whether it is mirrored. Batch k is the positions k·B … (k + 1)·B − 1, and rank r of W takes the r-th W-th part
of it. Nothing is carried from batch to batch, so a run that resumes at batch k, or runs on other devices, sees what
it would have seen.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

import numpy as np
import torch
from lightning import Trainer
from torch import Tensor


@dataclass(frozen=True)
class BatchOrder:
    """The rows of each global batch that one rank shows. `batch_size` is B, of all ranks; `world_size` divides it."""

    num_train: int
    batch_size: int
    seed: int
    flip: bool = False
    rank: int = 0
    world_size: int = 1

    def batch(self, k: int) -> tuple[Tensor, Tensor]:
        """Image indices, int64 (B/W,), and whether each is mirrored, bool (B/W,), in batch k of this rank."""
        rows = self.batch_size // self.world_size
        first = k * self.batch_size + self.rank * rows
        positions = np.arange(first, first + rows)
        epochs, places = np.divmod(positions, self.num_train)

        indices = np.empty(rows, dtype=np.int64)
        mirrored = np.zeros(rows, dtype=bool)
        for epoch in range(epochs[0], epochs[-1] + 1):
            here = epochs == epoch
            permutation, coins = _epoch(self.seed, int(epoch), self.num_train)
            indices[here] = permutation[places[here]]
            if self.flip:
                mirrored[here] = coins[places[here]]
        return torch.from_numpy(indices), torch.from_numpy(mirrored)

    def batches_from(self, start: int, cycle: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """`batch(start)`, `batch(start + 1)`, … without end; cycle: of the first so many batches, again and again."""
        return (self.batch(k % cycle if cycle else k) for k in count(start))


def batches_trained(trainer: Trainer) -> int:
    """k while batch k is trained on, counted over all resumes."""
    # The batches whose optimizer step is done. `current.ready` would be one too many in a checkpoint written when a batch failed
    # half-way, and begins again at 0 when training continues from a finished run.
    return trainer.fit_loop.epoch_loop.batch_progress.total.processed


@lru_cache(maxsize=2)
def _epoch(seed: int, epoch: int, num_train: int) -> tuple[np.ndarray, np.ndarray]:
    """The permutation of the images in one epoch, and a fair coin for each of its positions."""
    random = np.random.default_rng([seed, epoch])
    return random.permutation(num_train), random.random(num_train) < 0.5
