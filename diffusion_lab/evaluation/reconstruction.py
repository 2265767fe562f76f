"""Test images beside what a model makes of their latents: what gets lost on the way?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffusion_lab.models.base import GenerativeModel

if TYPE_CHECKING:
    from diffusion_lab.data.base import DataModule

PAIRS = 32


@torch.no_grad()
def reconstructions(model: GenerativeModel, data: DataModule) -> Tensor | None:
    """The first PAIRS test images, each followed by its reconstruction: (2 · PAIRS, *shape) float32 on the CPU.

    None for a family that cannot look back. A conditional model is told the class.
    """
    x_0, y = next(data.batches("test", PAIRS, limit=PAIRS))
    y = None if y is None or model.num_classes is None else y.to(model.device)
    again = model.reconstruct(x_0.to(model.device), y)
    return None if again is None else torch.stack([x_0, again.cpu().clamp(-1, 1)], dim=1).flatten(0, 1)
