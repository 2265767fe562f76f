"""Ways through the latents from one sample to another: is what lies between two images an image?"""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion_lab.models.base import GenerativeModel

PATHS, PATH_IMAGES = 4, 8


@torch.no_grad()
def interpolation(model: GenerativeModel, seed: int) -> Tensor:
    """Way p leads from sample 2p of the stream to sample 2p + 1: (PATHS · PATH_IMAGES, *shape) float32 on the CPU, way by way.

    A conditional model is told the same class all the way, the classes in turn.
    """
    paths = torch.arange(PATHS, device=model.device).repeat_interleave(PATH_IMAGES)
    weight = torch.linspace(0, 1, PATH_IMAGES, device=model.device).repeat(PATHS)
    return model.interpolate(2 * paths, 2 * paths + 1, weight, seed, model.classes_in_turn(paths)).cpu()
