"""Which images are held out for testing, and which few stand for a whole split."""

import numpy as np
import torch
from torch import Tensor

# Scores are compared between runs, so what stands for a split must not depend on a run's seed.
_SUBSET_SEED = 0


def evenly_spaced(num_items: int, num_chosen: int) -> Tensor:
    """⌊(i + 1/2)·n/k⌋ for i < k, int64 (k,): of items sorted by class, the same share of each class to within one."""
    return (2 * torch.arange(num_chosen) + 1) * num_items // (2 * num_chosen)


def scoring_order(size: int, limit: int | None) -> Tensor:
    """int64: 0 … size − 1; if `limit` is below it, the first `limit` entries of one fixed permutation."""
    if limit is None or limit >= size:
        return torch.arange(size)
    return torch.from_numpy(np.random.default_rng(_SUBSET_SEED).permutation(size)[:limit])
