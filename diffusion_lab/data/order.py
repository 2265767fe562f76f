"""The order of training images: batch k is a function of (seed, k) and nothing else.

The training images are shown in the order perm(seed, 0), perm(seed, 1), perm(seed, 2), … without end. Position p of
that sequence lies in epoch p // n and shows image perm(seed, p // n)[p mod n]; a coin keyed by the same position
decides whether it is mirrored. Batch k is the positions k·B … (k + 1)·B − 1, and rank r of W takes the r-th W-th part
of it. If gradients are accumulated over m parts of a batch, part j is the j-th m-th of these positions, and each rank
takes its rows of that. No state is carried from batch to batch, so a run that resumes at batch k, or runs on other devices,
sees the same images.

Fixed choices of images do not depend on the seed of a run, because scores are compared between runs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Generic, TypeVar

import numpy as np
import torch
from lightning import Trainer
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class BatchOrder:
    """The rows of each global batch for one rank.

    num_train: training images n. batch_size: B, of all ranks. seed: of the permutations and coins. flip: whether images are
    mirrored. rank, world_size: r and W; W divides B.
    """

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
        """`batch(start)`, `batch(start + 1)`, … without end. cycle: repeat the first so many batches; 0: no repetition."""
        return (self.batch(k % cycle if cycle else k) for k in count(start))


def batches_trained(trainer: Trainer) -> int:
    """k during training on batch k, counted over all resumes: the batch of one optimizer step, of one or several parts."""
    return parts_trained(trainer) // trainer.accumulate_grad_batches


def parts_trained(trainer: Trainer) -> int:
    """m·k + j during training on part j of the m parts of batch k."""
    # Parts with a finished optimizer step. `current.ready` would be one too many in a checkpoint written when a batch failed
    # half-way, and restarts at 0 when training continues from a finished run.
    total = trainer.fit_loop.epoch_loop.batch_progress.total
    return total.processed  # type: ignore[attr-defined]  # Lightning declares the base class of its tracker


def parts_repeated(trainer: Trainer) -> int:
    """The number of parts of batches that trainer.overfit_batches repeats; 0 without repetition."""
    return trainer.overfit_batches  # type: ignore[attr-defined]  # a connector of Lightning sets it


@lru_cache(maxsize=2)
def _epoch(seed: int, epoch: int, num_train: int) -> tuple[np.ndarray, np.ndarray]:
    """The permutation of the images in one epoch, and a fair coin for each of its positions."""
    random = np.random.default_rng([seed, epoch])
    return random.permutation(num_train), random.random(num_train) < 0.5


def evenly_spaced(num_items: int, num_chosen: int) -> Tensor:
    """⌊(i + 1/2)·n/k⌋ for i < k, int64 (k,): of items sorted by class, the same share of each class to within one."""
    return (2 * torch.arange(num_chosen) + 1) * num_items // (2 * num_chosen)


def fixed_subset(size: int, limit: int | None) -> Tensor:
    """`limit` indices below `size`, int64: a random sample, the same for everybody; a larger one begins with a smaller.

    All indices in order if `limit` is None or not below `size`.

    Not stratified by class: n held-out images set the floor of a Fréchet distance at n, and a sample with evened-out class
    counts is several times closer to the whole than n independent images, so that a perfect
    model would miss the floor.
    """
    return torch.arange(size) if limit is None or limit >= size else _sequence(size)[:limit]


def held_out(size: int, share: float) -> Tensor:
    """A mask of the held-out images among `size` ≥ 2, bool (size,): a fixed random `share`, at least one image and not all."""
    found = torch.zeros(size, dtype=torch.bool)
    found[fixed_subset(size, min(max(round(share * size), 1), size - 1))] = True
    return found


def held_out_groups(groups: Tensor, labels: Tensor, share: float) -> Tensor:
    """A mask of the held-out images, bool (n,), in whole groups: a fixed `share` of the groups of each class and size.

    groups: the group of each image, whole numbers from 0; labels: its class, equal within a group.
    """
    sizes = groups.bincount()
    kinds = torch.zeros_like(sizes).index_put((groups,), labels)
    order = torch.from_numpy(np.lexsort((_sequence(len(sizes)), sizes, kinds)))
    found = torch.zeros(len(sizes), dtype=torch.bool)
    found[order[evenly_spaced(len(sizes), min(max(round(share * len(sizes)), 1), len(sizes) - 1))]] = True
    return found[groups]


def fixed_rest(size: int, limit: int) -> Tensor:
    """`limit` indices below `size`, or all, int64: the end of the sequence whose beginning `fixed_subset` takes."""
    return _sequence(size).flip(0)[:limit]


def without_validation(size: int, num_images: int, groups: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Indices of the images to train on and of `num_images` for validation, out of `size`, int64, both in ascending order.

    groups: the group of each image; at most one group is divided between training and validation.
    """
    chosen = torch.zeros(size, dtype=torch.bool)
    order = _sequence(size).flip(0) if groups is None else _sequence(int(groups.max()) + 1)[groups].argsort(stable=True)
    chosen[order[:num_images]] = True
    return (~chosen).nonzero().flatten(), chosen.nonzero().flatten()


def _sequence(size: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).permutation(size))


class Batches(Generic[T]):
    """An iterable without length that starts anew in each of Lightning's loops: a training stream starts at the current step.

    Not a torch DataLoader: Lightning would warn about too few workers, which a data set in memory does not need.
    """

    def __init__(self, open_batches: Callable[[], Iterator[T]]) -> None:
        self._open_batches = open_batches

    def __iter__(self) -> Iterator[T]:
        return self._open_batches()
