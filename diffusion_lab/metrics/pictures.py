"""Pictures of a score: paths between samples, reconstructions, and samples for fields."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from diffusion_lab.conditions.condition import has_field
from diffusion_lab.data.module import DataModule
from diffusion_lab.diffusion.condition_parts import each, parts
from diffusion_lab.metrics.network_measurements import batches_of
from diffusion_lab.models.generator import Generator
from diffusion_lab.sampling import slerp

PATHS, PATH_IMAGES = 4, 8  # paths between samples, images on each
PAIRS = 32  # real images, each beside its reconstruction
FIELDS, DRAWS = 8, 4  # conditions that are fields, samples for each


@torch.no_grad()
def latent_pictures(
    generator: Generator, data: DataModule, seed: int, split: str = "test"
) -> tuple[Tensor, Tensor | None]:
    """(interpolation, reconstructions), float32 on the CPU. A conditional generator is given conditions.

    interpolation (PATHS · PATH_IMAGES, *shape): path p leads from sample 2p of the stream to sample 2p + 1 with one condition,
    the classes in turn. reconstructions (2 · PAIRS, *shape): the first PAIRS images of the split, each followed by its
    `reconstruct`ion. None for a family without an encoder.
    """
    paths = torch.arange(PATHS, device=generator.device).repeat_interleave(PATH_IMAGES)
    weight = torch.linspace(0, 1, PATH_IMAGES, device=generator.device).repeat(PATHS)
    x_0, y, indices = next(batches_of(generator, data, split, PAIRS, PAIRS))
    between = slerp(generator.latents(2 * paths, seed), generator.latents(2 * paths + 1, seed), weight)
    ways = generator.decode(between, generator.conditions_of_pictures(data, split, paths)).cpu()
    again = generator.reconstruct(x_0, y, seed, indices)
    if again is None:
        return ways, None
    again = again if data.num_levels is None else again.clamp(-1, 1)
    return ways, torch.stack([x_0, again], dim=1).flatten(0, 1).cpu()


@torch.no_grad()
def condition_picture(generator: Generator, data: DataModule, seed: int, split: str = "test") -> Tensor | None:
    """(FIELDS · (2 + DRAWS), *shape), float32 on the CPU: a field of the split, enlarged, its image, and samples for the field.

    Beside images with levels, normalised fields, which leave [−1, 1], are scaled so that their lowest value is black and their
    highest white. None if no condition is a field.
    """
    if not any(map(has_field, generator.conditions)):
        return None
    x_0, y, _ = next(batches_of(generator, data, split, FIELDS, FIELDS))
    fields = [part for part in parts(y) if part.ndim > 2]
    number = torch.arange(len(x_0) * DRAWS, device=generator.device)
    draws = generator.sample(number, seed, each(lambda part: part.repeat_interleave(DRAWS, 0), y))
    shown = interpolate(fields[0], x_0.shape[2:])
    if shown.shape != x_0.shape:
        shown = shown.mean(1, keepdim=True).expand_as(x_0)
    low, high = shown.aminmax()
    if data.num_levels is not None and max(-low, high) > 1:
        shown = 2 * (shown - low) / (high - low).clamp(min=1e-9) - 1
    rows = torch.stack([shown, x_0], 1), draws.unflatten(0, (len(x_0), DRAWS))
    found = torch.cat(rows, 1).flatten(0, 1).cpu()
    return found if data.num_levels is None else found.clamp(-1, 1)
