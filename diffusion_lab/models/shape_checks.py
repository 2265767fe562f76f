"""Checks of the shape of the data, each with one sentence and the fix.

Apart from `compatibility`, because other families than diffusion import them: an edit of an objective must not retrain a GAN.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def check_network(network: nn.Module, shape: Sequence[int]) -> None:
    """ValueError for a network with `takes_points`, whose input is (B, D), where the family gives it images, series or volumes."""
    if len(shape) > 1 and getattr(network, "takes_points", False):
        raise ValueError(f"this network takes points, but these data have the shape {tuple(shape)}; remove network=…")


def check_axes(shape: Sequence[int]) -> None:
    """ValueError for series and volumes, in a family whose networks take images and points."""
    if len(shape) not in (1, 3):
        what = {2: "series", 4: "volumes"}.get(len(shape), f"data of {len(shape)} axes")
        raise ValueError(f"this family takes images and points, but these data are {what}: use model=diffusion")


def check_bounded(shape: Sequence[int], num_levels: int | None) -> None:
    """ValueError for series, volumes and images of real numbers, in a family whose images lie in [−1, 1]."""
    check_axes(shape)
    if len(shape) > 1 and num_levels is None:
        raise ValueError("this family draws images in [−1, 1], but these data are real numbers: use model=diffusion")
