"""Fixed choices of images: held out for testing, held out for validation, and subsets that represent a split."""

import numpy as np
import torch
from torch import Tensor

# Scores are compared between runs, so neither may depend on a run's seed.
_SEED = 0


def evenly_spaced(num_items: int, num_chosen: int) -> Tensor:
    """⌊(i + 1/2)·n/k⌋ for i < k, int64 (k,): of items sorted by class, the same share of each class to within one."""
    return (2 * torch.arange(num_chosen) + 1) * num_items // (2 * num_chosen)


def fixed_subset(size: int, count: int | None) -> Tensor:
    """`count` indices below `size`, int64: a random sample, the same for everybody; a larger one begins with a smaller.

    All indices in order if `count` is None or not below `size`.

    Not stratified by class: n held-out images set the floor of a Fréchet distance at n, and a sample whose class
    counts are evened out lies several times closer to the whole than n independent images do, so that a perfect
    model would miss the floor.
    """
    if count is None or count >= size:
        return torch.arange(size)
    return _sequence(size)[:count]


def held_out(size: int, share: float) -> Tensor:
    """Which of `size` ≥ 2 images are held out, bool (size,): a fixed random `share`, at least one and not all."""
    found = torch.zeros(size, dtype=torch.bool)
    found[fixed_subset(size, min(max(round(share * size), 1), size - 1))] = True
    return found


def fixed_rest(size: int, count: int) -> Tensor:
    """`count` indices below `size`, or as many as there are, int64: the other end of the sequence that `fixed_subset` begins."""
    return _sequence(size).flip(0)[:count]


def without_validation(size: int, count: int) -> tuple[Tensor, Tensor]:
    """Indices of the images to train on and of `count` images for validation, out of `size`, int64, both in ascending order."""
    chosen = torch.zeros(size, dtype=torch.bool)
    chosen[fixed_rest(size, count)] = True
    return (~chosen).nonzero().flatten(), chosen.nonzero().flatten()


def _sequence(size: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(_SEED).permutation(size))
