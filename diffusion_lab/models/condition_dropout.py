"""Condition dropout: some training samples lose their conditions, which also trains an unconditional model."""

from __future__ import annotations

import torch

from diffusion_lab.diffusion.condition_parts import Null, left_out, parts, where
from diffusion_lab.diffusion.shapes import Conditions
from diffusion_lab.diffusion.streams import CONDITION_DROP
from diffusion_lab.models.trainable import TrainableModel


def with_dropped_conditions(model: TrainableModel, y: Conditions, probability: float, null: Null) -> Conditions:
    """y of this rank, with the conditions of each sample dropped with this probability; None for an unconditional network.

    Samples are those of the current batch, for which `model` keys its random numbers.
    """
    if y is None or null is None:
        return None
    first = parts(y)[0]
    size, rows = model.global_batch(len(first))
    # One coin for all conditions of a sample, because guidance with one scale evaluates the network with all of them or none.
    # Separate coins would allow a scale for each (InstructPix2Pix, Brooks et al. 2023), which is not implemented.
    coins = torch.rand(size, generator=model.random_stream(CONDITION_DROP, first.device), device=first.device)
    return where(coins[rows] < probability, left_out(y, null), y)
