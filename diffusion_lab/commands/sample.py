"""diffusion-lab sample: draw images from a trained model.

As a grid, as single files, or as an npz for published evaluators.

Samples start from noise, or from images that the user gives (see `editing`).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from torch import Tensor

from diffusion_lab.config.mistakes import MistakeError, lost_process, users_mistakes
from diffusion_lab.config.naming import differences_of, other_models
from diffusion_lab.config.overrides import options_of_this_job
from diffusion_lab.config.sample_options import Drawing, drawing_of
from diffusion_lab.data.array_files import NAMES
from diffusion_lab.report.drawing import animation, check_images, frames, images, numbers, picture, png
from diffusion_lab.store.files import begin_folder, check_folder, write_whole
from diffusion_lab.terminal import Terminal
from diffusion_lab.training.ranks import join, must_start_ranks, request_of, start_ranks
from diffusion_lab.training.speed import check_compile, compile_network

FORMATS = ("grid", "png", "npz", "npy")
_NUMBERED = "{:06d}.png"
_ANIMATED = 64  # samples of an animation
FRAMES = 60  # of an animation, approximately; the last is x_0


def run(cfg: DictConfig) -> None:
    """Draw samples 0 … num_images − 1 of the seed and write them to the folder `to`."""
    if cfg.format not in FORMATS:
        raise MistakeError(f"format={cfg.format}: unknown format; choose one of {', '.join(FORMATS)}")
    with users_mistakes():
        request = request_of(cfg, prefix="")
        drawing = drawing_of(cfg)
        check_compile(cfg.compile, request.on_gpu, None, drawing.module)
        if cfg.format == "png":
            check_images(drawing.generator.shape, drawing.generator.num_levels)
        if cfg.devices is None:
            request = replace(request, size=min(request.size, ceil(cfg.num_images / drawing.cfg.batch_size)))
    if cfg.trajectory:
        drawing.check_trajectory("trajectory=true")
    places = _places(cfg)
    check_folder(Path(cfg.to), "sample")
    directory = drawing.directory
    if must_start_ranks(request):
        with users_mistakes():
            start_ranks("sample", options_of_this_job(model_dir=str(directory.path)), request)
        return
    here = join(request)
    for line in differences_of([directory, *other_models(drawing.saved)]):
        Terminal(quiet=not here.is_first).print(line)
    with lost_process(), drawing.on(here.device) as drawn:
        if notice := compile_network(drawn.generator.networks["network"], cfg.compile):
            Terminal(quiet=not here.is_first).print(notice)
        x = drawn.images(progress_bar=True)
        if x is None:
            return  # rank 0 has the images
        _write(drawn.in_grid(x) if cfg.format == "grid" else x, drawn, places)
        if cfg.trajectory:
            _animate(drawn.trajectory(_ANIMATED), drawn.generator.num_levels, drawn.columns, places[-1])
    names = f"{places[0]} … {places[-1].name}" if len(places) > 2 else "  ".join(map(str, places))
    message = f"{len(x)} samples of {directory.path} ({drawing.weights}), drawn on {here.devices}: {names}"
    Terminal().print(message)


def _places(cfg: DictConfig) -> list[Path]:
    """The files that are written, the animation last."""
    names = {"grid": ["samples.png"], "npz": ["samples.npz"], "npy": ["samples.npy"]}.get(cfg.format) or map(
        _NUMBERED.format, range(cfg.num_images)
    )
    return [Path(cfg.to) / name for name in (*names, *(["trajectory.gif"] if cfg.trajectory else []))]


def _write(x: Tensor, drawn: Drawing, places: list[Path]) -> None:
    begin_folder(places[0].parent, "sample", [path.name for path in places], stale=r"\d{6,}\.png")
    levels, form, units = drawn.generator.num_levels, drawn.cfg.format, drawn.units
    names = None if units is None else units.names
    if form == "grid":
        write_whole(places[0], png(picture(x, levels, drawn.columns, names)))
    elif form == "png":
        for path, image in zip(places, images(x, levels, names), strict=False):
            write_whole(path, png(image))
    else:
        buffer = io.BytesIO()
        if form == "npy":
            np.save(buffer, numbers(x, levels))
        else:
            # Published evaluators read only arr_0. Ours reads classes of the data, not clusters, from arr_1.
            arrays: dict[str, Any] = {
                name: part.cpu().numpy() for name, part in drawn.conditions.by_name(drawn.y).items()
            }
            arrays |= {"arr_1": arrays.pop("classes")} if "classes" in arrays else {}
            arrays |= {} if names is None else {NAMES: np.array(names)}
            np.savez(buffer, arr_0=numbers(x, levels), **arrays)
        write_whole(places[0], buffer.getvalue())


def _animate(trajectory: Iterator[Tensor], num_levels: int | None, columns: int | None, path: Path) -> None:
    """Frames from x_T to x_0 of some samples, side by side."""
    states = [x.cpu() for x in trajectory]
    stride = max(1, len(states) // FRAMES)
    write_whole(path, animation(frames(states[(len(states) - 1) % stride :: stride], num_levels, columns)))
