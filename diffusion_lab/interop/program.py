"""Export of a generative model as a torch.export program, which draws a batch of images from a single file.

    images = torch.export.load("sampler.pt2").module()(x_T[, noise][, y])

The sampler's steps are unrolled, so the program has a fixed batch size, number of steps and guidance.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffusion_lab.diffusion import SampleNoise
from diffusion_lab.models.diffusion_generator import DiffusionGenerator
from diffusion_lab.models.generator import Generator

_FEW = 2  # images drawn to find out whether a sampler uses noise


class Program(NamedTuple):
    """content: the file. inputs: name -> shape of each, in order; y holds classes, int64, the others are N(0, 1), float32."""

    content: bytes
    inputs: dict[str, tuple[int, ...]]


def to_program(generator: Generator, batch_size: int) -> Program:
    """The program that draws as the generator does.

    ValueError, in one sentence, if torch.export cannot trace it, and for a VAE with sampling=draws.
    """
    if not getattr(generator, "samples_are_means", True):
        raise ValueError(
            "format=program: a program gives means of the decoder's likelihood, but this model samples draws; use sampling=means"
        )
    if generator.conditions:
        raise ValueError(
            "format=program: a program takes classes or clusters only, and this model is conditioned on other things too; draw "
            "with diffusion-lab sample"
        )
    drawer = _Chain(generator) if isinstance(generator, DiffusionGenerator) else _Decoder(generator)
    shapes = {name: tuple(batch_size if side is None else side for side in of) for name, of in drawer.shapes.items()}
    given = [torch.zeros(of, dtype=torch.int64) if name == "y" else torch.zeros(of) for name, of in shapes.items()]
    content = io.BytesIO()
    for network in generator.networks.values():
        network.requires_grad_(False)  # a program with trainable parameters runs only under no_grad
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "No complete tensor found", UserWarning)  # about weights on a GPU
            torch.export.save(torch.export.export(drawer.eval(), tuple(given)), content)
    except Exception as error:  # torch.export passes on any error
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"format=program: torch.export cannot trace this model and its sampler ({reason})") from error
    return Program(content.getvalue(), shapes)


class _Decoder(nn.Module):
    """z[, y] -> images, for a model that samples in one step."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator, self.networks = generator, nn.ModuleDict(generator.networks)
        latents = generator.latents(torch.arange(1), 0)
        self.shapes = {"z": (None, *latents.shape[1:])} | ({} if generator.num_classes is None else {"y": (None,)})

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.generator.decode(z, y)


class _Chain(nn.Module):
    """x_T[, noise][, y] -> x_0. noise (K, B, C, H, W): noise[k] is that of step k; most samplers use none in the last one."""

    def __init__(self, generator: DiffusionGenerator) -> None:
        super().__init__()
        self.generator, self.networks = generator, nn.ModuleDict(generator.networks)
        self.chain = generator.chain
        self.chain.numbers(0)  # read before tracing, during which values of tensors cannot be read
        self.shapes: dict[str, tuple[int | None, ...]] = {"x_T": (None, *generator.shape)}
        y = None if generator.num_classes is None else torch.zeros(_FEW, dtype=torch.int64)
        if self._uses_noise(y):
            self.shapes["noise"] = (self.chain.num_timesteps, None, *generator.shape)
        if y is not None:
            self.shapes["y"] = (None,)

    def forward(self, x_T: Tensor, *more: Tensor) -> Tensor:
        given = dict(zip([*self.shapes][1:], more, strict=True))
        latest = self.chain.keys[::-1]
        return self._walk(x_T, lambda key, like: given["noise"][latest.index(key)], given.get("y"))

    def _walk(self, eps: Tensor, noise: Callable[[int, Tensor], Tensor], y: Tensor | None) -> Tensor:
        """The loop of `Sampler.walk` without its times, which a program does not need."""
        own = self.generator
        x, walk = own.start.draw(self.chain, eps, y), own.sampler.begin(self.chain, own.guided, y, noise)
        for t in range(self.chain.num_timesteps, 0, -1):
            x = own.sampler.step(walk, x, t)
        return own.rounding(own.reverse.clipping.in_range(x))

    def _uses_noise(self, y: Tensor | None) -> bool:
        used = []

        def noise(t: int, like: Tensor) -> Tensor:
            used.append(t)
            return torch.zeros_like(like)

        with torch.no_grad():
            self._walk(SampleNoise(0, torch.arange(_FEW)).initial(self.generator.shape), noise, y)
        return bool(used)
