"""Pictures of a model's latents: interpolations between two of them, and reconstructions of images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffusion_lab.models.base import GenerativeModel

if TYPE_CHECKING:
    from diffusion_lab.data.module import DataModule

PATHS, PATH_IMAGES = 4, 8  # ways between samples, images of each
PAIRS = 32  # real images, each beside its reconstruction
_LOG_SNR = 0.0  # as much noise as image


@torch.no_grad()
def latent_pictures(
    model: GenerativeModel, data: DataModule, seed: int, split: str = "test"
) -> tuple[Tensor, Tensor | None]:
    """(interpolation, reconstructions), float32 on the CPU. A conditional model is given the classes.

    interpolation (PATHS · PATH_IMAGES, *shape): way p leads from sample 2p of the stream to sample 2p + 1 and keeps one class,
    the classes in turn. reconstructions (2 · PAIRS, *shape): the first PAIRS images of the split, each followed by the image of
    its latent, or, for a family with a noisy chain, by a sample that starts from the image at log SNR 0: the latent of an
    untrained network is the scaled image, which it reconstructs perfectly. None for a family without an encoder.
    """
    paths = torch.arange(PATHS, device=model.device).repeat_interleave(PATH_IMAGES)
    weight = torch.linspace(0, 1, PATH_IMAGES, device=model.device).repeat(PATHS)
    x_0, y = next(data.batches(split, PAIRS, limit=PAIRS))
    y = None if y is None or model.num_classes is None else y.to(model.device)
    ways = model.interpolate(2 * paths, 2 * paths + 1, weight, seed, model.classes_in_turn(paths)).cpu()
    given = x_0.to(model.device)
    if model.log_snrs(2) is None:
        again = model.reconstruct(given, y)
    else:
        again = model.redraw(given, y, seed, torch.arange(len(x_0), device=model.device), _LOG_SNR)
    return ways, None if again is None else torch.stack([x_0, again.cpu().clamp(-1, 1)], dim=1).flatten(0, 1)
