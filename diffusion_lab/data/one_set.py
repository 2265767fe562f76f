"""Given images as a data set with one split."""

import torch
from torch import Tensor

from diffusion_lab.data.levels import from_levels
from diffusion_lab.data.memory import InMemoryDataModule, Split


class OneSet(InMemoryDataModule):
    """The images, perhaps none, are the split `train`; nothing is held out, and they have no classes.

    levels: uint8 or uint16 (N, C, H, W), from 0 to num_levels − 1. identity: the SHA-256 of what they are.
    """

    num_classes = None

    def __init__(self, name: str, levels: Tensor, num_levels: int, identity: str) -> None:
        super().__init__(batch_size=1, seed=0)
        self.name, self.num_levels, self._levels, self._given_identity = name, num_levels, levels, identity

    def at(self, indices: Tensor) -> Tensor:
        """float32 (B, C, H, W): the images with these indices, int64 (B,)."""
        return from_levels(self._levels[indices], self.num_levels)

    def _read(self) -> tuple[Split, Split]:
        return Split(self._levels, None), Split(torch.empty_like(self._levels[:0]), None)

    def _identify(self, train: Split, test: Split) -> str:
        return self._given_identity
