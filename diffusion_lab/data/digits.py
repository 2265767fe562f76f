"""Handwritten digits, 1×8×8, real scans that ship with scikit-learn: nothing is downloaded."""

import torch
from sklearn.datasets import load_digits

from diffusion_lab.data.in_memory import InMemoryDataModule, Split

_NUM_TEST = 360


class Digits(InMemoryDataModule):
    """1,797 scans of the digits 0 … 9: 1,437 to train on, 360 to test, the same for everybody.

    17 levels: a pixel counts the inked points, 0 … 16, of a 4×4 block (E. Alpaydin, C. Kaynak, Optical Recognition
    of Handwritten Digits, UCI Machine Learning Repository, 1998). Mirrored digits are not digits: leave `flip` off.
    """

    name = "digits"
    num_classes = 10
    class_names = tuple("0123456789")
    num_levels = 17

    def _read(self) -> tuple[Split, Split]:
        scans = load_digits()
        values = torch.from_numpy(scans.images).to(torch.uint8)[:, None]
        return Split(values, torch.from_numpy(scans.target).long()).parted(_NUM_TEST / len(values))
