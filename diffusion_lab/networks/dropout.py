"""Dropout whose mask is a function of (seed, step, sample, layer), so that no split of a batch among processes changes it.

The mask of torch's dropout comes from a generator and depends on how a batch is split. Here each sample has a key in each
layer, and each element a hash of this key and its position, in 32-bit integer operations.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from diffusion_lab.diffusion.noise import philox

_MASK = 0xFFFFFFFF
_LEVELS = 2**16  # of the uniform number that is compared with p


class KeyedDropout(nn.Dropout):
    """x·m/(1 − p) with m = 0 if a uniform number of 16 bits is below p, else 1; in evaluation x.

    keys (2, B) int32 of this step, layer and samples. x: (B·n, C, …), with the elements of each sample contiguous. If its
    rows do not belong to samples, as those of a table, the mask is torch's.
    """

    keys: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or len(x) % self.keys.shape[1]:
            return super().forward(x)
        dropped = round(self.p * _LEVELS)
        by_pixel = x.movedim(1, -1)  # as a channels-last image lies in memory
        kept = (_uniform(self.keys, by_pixel.numel()) >= dropped - _LEVELS // 2).view(by_pixel.shape).movedim(-1, 1)
        return torch.where(kept, x * (_LEVELS / (_LEVELS - dropped)), 0)


def keyed(model: nn.Module) -> list[KeyedDropout]:
    """Turn each nn.Dropout in `model` with p > 0 into a KeyedDropout, in place; return these in the order of the modules."""
    for module in model.modules():
        if type(module) is nn.Dropout and module.p > 0:
            module.__class__ = KeyedDropout
    return [module for module in model.modules() if isinstance(module, KeyedDropout)]


def set_keys(layers: list[KeyedDropout], seed: int, samples: Tensor) -> None:
    """Set the keys of each layer for these samples, int64 (B,), with the seed of a step."""
    layer = torch.arange(len(layers), device=samples.device)[:, None]
    counter = torch.stack(torch.broadcast_tensors(layer, samples & _MASK, samples >> 32, torch.zeros_like(samples)))
    words = philox(counter, (seed & _MASK, seed >> 32))[:2].to(torch.int32)
    for module, keys in zip(layers, words.unbind(1), strict=True):
        module.keys = keys


@contextmanager
def keys_of_rows(layers: list[KeyedDropout], rows: Tensor) -> Iterator[None]:
    """Inside the block the keys are those of these rows of the batch, int64 (K,)."""
    keys = [module.keys for module in layers]
    for module, own in zip(layers, keys, strict=True):
        module.keys = own[:, rows]
    try:
        yield
    finally:
        for module, own in zip(layers, keys, strict=True):
            module.keys = own


def _uniform(keys: Tensor, count: int) -> Tensor:
    """(count,) int16, an equal share for each key: both halves of hash(a·g(i) + b) for the i-th pair; the key is (a, b), a odd."""
    a, b = keys[:, :, None]
    share = count // keys.shape[1]
    place = torch.arange(1, (share + 1) // 2 + 1, dtype=torch.int32, device=keys.device)
    words = (_mixed(place * -1640531527) * (a | 1)).add_(b)
    return _mixed(words).view(torch.int16)[:, :share].reshape(-1)


def _mixed(words: Tensor) -> Tensor:
    """A hash of 32-bit words, in place; the products wrap."""
    words ^= words >> 16  # sign-extends, so the last operation is a product
    words *= 2146121005
    return words
