"""Which classes a model generates, conditional or not: a collapsed model misses some."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion_lab.diffusion.bits import in_bits


def class_coverage(predicted: Tensor) -> tuple[float, float]:
    """(number of classes that some image is assigned to, entropy of their shares in bits); predicted int64 (n,).

    The entropy of K classes drawn alike is log2(K), and 0 where one is drawn alone. A stray image makes a class present; the
    entropy hardly notices it.
    """
    shares = torch.bincount(predicted.cpu()).double() / len(predicted)
    return float((shares > 0).sum()), in_bits(float(-torch.xlogy(shares, shares).sum()))
