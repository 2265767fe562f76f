"""Data sets: x in [-1, 1] float32 (B, C, H, W) or (B, D), y class index; see `module.DataModule`."""

from diffusion_lab.data.checks import DataError
from diffusion_lab.data.module import DataModule

__all__ = ["DataError", "DataModule"]
