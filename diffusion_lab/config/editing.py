"""Edits of given images in `diffusion-lab sample`: inpainting, interpolation, and denoising from an intermediate step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from diffusion_lab.config.drawn_conditions import DrawnConditions
from diffusion_lab.config.loading import trained_data
from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.data.read_image import read_image
from diffusion_lab.diffusion import SampleNoise
from diffusion_lab.diffusion.condition_parts import rows
from diffusion_lab.diffusion.levels import from_levels
from diffusion_lab.diffusion.shapes import Conditions
from diffusion_lab.metrics.reference import quantise
from diffusion_lab.models.diffusion_generator import DiffusionGenerator
from diffusion_lab.models.generator import Generator
from diffusion_lab.sampling import denoise_from, inpaint, slerp

WHITE = 128  # mask values from here up are white


@dataclass(frozen=True)
class Edit:
    """An edit of given images. inputs: these images, (n, *shape). draw: (indices, seed, y) -> images, like a model's `sample`.

    has_conditions: if y is None, `draw` uses the conditions of the images.
    """

    inputs: Tensor
    draw: Callable[[Tensor, int, Conditions], Tensor]
    has_conditions: bool = False


def wanted_edit(cfg: DictConfig, generator: Generator, saved: DictConfig, conditions: DrawnConditions) -> Edit | None:
    """The edit that the options choose, or None. ValueError or MistakeError if it is not possible.

    An interpolation computes the latents of its images immediately.
    """
    edits = {"inpaint.image": inpainting, "interpolate.images": interpolation, "denoise.image": denoising}
    wanted = [name for name in edits if OmegaConf.select(cfg, name) is not None]
    for option, image in (("inpaint.mask", "inpaint.image"), ("denoise.t", "denoise.image")):
        if image not in wanted and (value := OmegaConf.select(cfg, option)) is not None:
            raise MistakeError(f"{option}={value} has no effect without {image}: set {image}=…, or remove {option}")
    if not wanted:
        return None
    if len(wanted) > 1:
        raise MistakeError(f"{' and '.join(wanted)}: give only one of them")
    if cfg.trajectory:
        raise MistakeError(f"trajectory=true needs samples that start from noise: remove it, or {wanted[0]}")
    return edits[wanted[0]](cfg, generator, saved, conditions)


def inpainting(cfg: DictConfig, generator: Generator, saved: DictConfig, conditions: DrawnConditions) -> Edit:
    """Inpainting: each index fills the hole in another way."""
    generator = _with_chain(generator, "inpaint.image")
    if cfg.inpaint.mask is None:
        raise MistakeError("inpaint.mask=FILE is needed: white where the model paints, black where the image stays")
    if len(generator.shape) != 3:
        raise MistakeError(f"inpaint.mask: a mask is an image, but the data have the shape {list(generator.shape)}")
    image = _input_image(cfg.inpaint.image, generator, saved)
    known = (_read(cfg.inpaint.mask, generator.shape[1:], 1) < WHITE)[None].to(generator.device)

    def draw(indices: Tensor, seed: int, y: Conditions) -> Tensor:
        x_0 = image.expand(len(indices), *generator.shape)
        noise = SampleNoise(seed, indices)
        x = inpaint(generator.sampler, generator.process, generator.guided, x_0, known, noise, y, cfg.inpaint.repeats)
        return generator.reverse.clipping.in_range(x)

    return Edit(torch.cat([image, torch.where(known, image, torch.zeros_like(image))]), draw)


def interpolation(cfg: DictConfig, generator: Generator, saved: DictConfig, conditions: DrawnConditions) -> Edit:
    """num_images images from the first to the second, both included, along the great circle between their latents.

    If two conditions are given, each end has its own, and an image in between has that of the nearer end. If none is given, a model
    that was always conditioned on clusters uses the clusters of the images.
    """
    if len(cfg.interpolate.images) != 2:
        raise MistakeError(f"interpolate.images={list(cfg.interpolate.images)}: give [first,second]")
    if cfg.num_images < 2:
        raise MistakeError(f"num_images={cfg.num_images}: an interpolation needs at least 2 images")
    ends = torch.cat([_input_image(image, generator, saved) for image in cfg.interpolate.images])
    if conditions.number > 2:
        raise MistakeError(f"condition: {conditions.number} values; give one, or one for each of the two images")
    own: Conditions = None
    if conditions.number:
        own = conditions.of(torch.tensor([0, conditions.number - 1], device=generator.device), cfg.seed)
    elif (found := conditions.classes) and found.shares is not None and not saved.model.get("condition_dropout", 0) > 0:
        clusters = trained_data(saved).clusters
        own = None if clusters is None else clusters.of(ends.cpu(), {}).to(generator.device)
    latents = generator.encode(ends, own)
    if latents is None:
        family = generator.protocol()["family"]
        raise MistakeError(f"interpolate.images: model={family} cannot compute the latents of given images")

    def draw(indices: Tensor, seed: int, y: Conditions) -> Tensor:
        first, second = (z.expand(len(indices), *z.shape) for z in latents)
        way = indices / (cfg.num_images - 1)
        return generator.decode(slerp(first, second, way), y if own is None else rows(own, (way > 0.5).long()))

    return Edit(ends, draw, has_conditions=own is not None)


def denoising(cfg: DictConfig, generator: Generator, saved: DictConfig, conditions: DrawnConditions) -> Edit:
    """Denoising: each index adds other noise to the image up to step t and denoises it."""
    generator = _with_chain(generator, "denoise.image")
    last = generator.process.num_timesteps
    if cfg.denoise.t is None or not 0 <= cfg.denoise.t <= last:
        raise MistakeError(f"denoise.t={cfg.denoise.t}: choose a step from 0 (the image) to {last} (noise)")
    image = _input_image(cfg.denoise.image, generator, saved)

    def draw(indices: Tensor, seed: int, y: Conditions) -> Tensor:
        x_0 = image.expand(len(indices), *generator.shape)
        noise = SampleNoise(seed, indices)
        x = denoise_from(generator.sampler, generator.process, generator.guided, x_0, cfg.denoise.t, noise, y)
        return generator.reverse.clipping.in_range(x)

    return Edit(image, draw)


def _with_chain(generator: Generator, option: str) -> DiffusionGenerator:
    """The generator. MistakeError for a family without a chain between image and noise."""
    if not isinstance(generator, DiffusionGenerator):
        family = generator.protocol()["family"]
        raise MistakeError(f"{option}: model={family} has no steps to take between noise and image")
    return generator


def _input_image(image: str | int, generator: Generator, saved: DictConfig) -> Tensor:
    """(1, *shape) on the model's device: an image from a file, or a test image of the training data by its number."""
    if isinstance(image, int):
        data = trained_data(saved)
        if not 0 <= image < data.num_test:
            raise MistakeError(f"{image}: choose a test image of {data.name} from 0 to {data.num_test - 1}")
        x, _ = next(data.batches("test", 1, start=image))
        return x.to(generator.device)
    if len(generator.shape) != 3 or generator.num_levels is None or generator.shape[0] not in (1, 3):
        raise MistakeError(f"{image}: this model draws no images that a file can hold; give a test sample's number")
    x = from_levels(_read(image, generator.shape[1:], generator.shape[0]), 256)[None]
    return quantise(x, generator.num_levels).to(generator.device)


def _read(file: str, image_size: Sequence[int], channels: int) -> Tensor:
    """uint8 (channels, *image_size)."""
    if not Path(file).is_file():
        raise MistakeError(f"{file}: there is no such file")
    return read_image(Path(file), image_size, channels)
