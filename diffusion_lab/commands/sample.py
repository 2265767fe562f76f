"""diffusion-lab sample: draw images from a trained model.

As a grid, as single files, or as an npz for published evaluators.

Samples start from noise, or from images that the user gives (see `editing`).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig

from diffusion_lab.config.composing import with_trained_choices
from diffusion_lab.config.loading import DRAWING_GROUPS
from diffusion_lab.config.mistakes import MistakeError, lost_process, users_mistakes
from diffusion_lab.config.overrides import in_full, options_of_this_job
from diffusion_lab.store.files import check_free, write_whole
from diffusion_lab.store.written import ours
from diffusion_lab.terminal import Terminal
from diffusion_lab.training.ranks import must_start_ranks, ranks, request_of, start_ranks

if TYPE_CHECKING:
    from torch import Tensor

    from diffusion_lab.config.sample_options import Drawing
    from diffusion_lab.diffusion.shapes import Conditions

FORMATS = ("grid", "png", "npz", "npy")
_NUMBERED = "{:06d}.png"
FRAMES = 60  # of an animation, approximately; the last is x_0


def completed(options: list[str]) -> list[str]:
    """Sampling defaults to the sampler and the guidance of training."""
    return with_trained_choices([*map(in_full, options)], DRAWING_GROUPS)


def run(cfg: DictConfig) -> None:
    """Draw samples 0 … num_images − 1 of the seed and write them to the folder `to`."""
    from diffusion_lab.config.sample_options import drawing_of  # imports torch
    from diffusion_lab.data.pictures import check_images
    from diffusion_lab.training.speed import check_compile, compile_network

    if cfg.format not in FORMATS:
        raise MistakeError(f"format={cfg.format}: unknown format; choose one of {', '.join(FORMATS)}")
    with users_mistakes():
        request = request_of(cfg, prefix="")
        drawing = drawing_of(cfg)
        check_compile(cfg.compile, request.on_gpu, None, drawing.model)
        if cfg.format == "png":
            check_images(drawing.model.shape, drawing.model.num_levels)
        if cfg.devices is None:
            request = replace(request, size=min(request.size, ceil(cfg.num_images / drawing.cfg.batch_size)))
    if cfg.trajectory:
        drawing.check_trajectory("trajectory=true")
    places = _places(cfg)
    check_free(places)
    directory = drawing.directory
    if must_start_ranks(request):
        with users_mistakes():
            start_ranks("sample", options_of_this_job(model_dir=str(directory.path)), request)
        return
    with ranks(request) as here, lost_process(), drawing.on(here.device) as (edit, indices, y):
        if notice := compile_network(drawing.model.network, cfg.compile):
            Terminal(quiet=not here.is_first).print(notice)
        x = drawing.draw(edit, indices, y, progress_bar=True)
        if x is None:
            return  # rank 0 has the images
        shown = drawing.in_grid(x, edit) if cfg.format == "grid" else x
        _write(shown, y, drawing, places)
        if cfg.trajectory:
            from diffusion_lab.diffusion.parts import rows

            some = slice(0, 64)
            trajectory = drawing.trajectory(indices[some], rows(y, some))
            _animate(trajectory, drawing.model.num_levels, drawing.columns(y), places[-1])
    names = f"{places[0]} … {places[-1].name}" if len(places) > 2 else "  ".join(map(str, places))
    message = f"{len(x)} samples of {directory.path} ({drawing.weights}), drawn on {here.place}: {names}"
    Terminal().print(message)


def _places(cfg: DictConfig) -> list[Path]:
    """The files that are written, the animation last."""
    names = {"grid": ["samples.png"], "npz": ["samples.npz"], "npy": ["samples.npy"]}.get(cfg.format) or map(
        _NUMBERED.format, range(cfg.num_images)
    )
    return [Path(cfg.to) / name for name in (*names, *(["trajectory.gif"] if cfg.trajectory else []))]


def _write(x: Tensor, y: Conditions, drawing: Drawing, places: list[Path]) -> None:
    from diffusion_lab.data.array_files import NAMES
    from diffusion_lab.data.pictures import images, numbers, picture, png

    model, form = drawing.model, drawing.cfg.format
    names = None if drawing.units is None else drawing.units.names
    if form == "grid":
        write_whole(places[0], png(picture(x, model.num_levels, drawing.columns(y), names)))
    elif form == "png":
        for earlier in ours(places[0].parent):  # images of two calls must not mix
            if re.fullmatch(r"\d{6,}\.png", earlier.name):
                earlier.unlink(missing_ok=True)  # `clear` would read the record again each time
        for path, image in zip(places, images(x, model.num_levels, names), strict=False):
            write_whole(path, png(image))
    else:
        buffer = io.BytesIO()
        if form == "npy":
            np.save(buffer, numbers(x, model.num_levels))
        else:
            # Published evaluators read only arr_0. Ours reads classes of the data, not clusters, from arr_1.
            arrays: dict[str, Any] = {name: part.cpu().numpy() for name, part in drawing.conditions.by_name(y).items()}
            arrays |= {"arr_1": arrays.pop("classes")} if "classes" in arrays else {}
            arrays |= {} if names is None else {NAMES: np.array(names)}
            np.savez(buffer, arr_0=numbers(x, model.num_levels), **arrays)
        write_whole(places[0], buffer.getvalue())


def _animate(trajectory: Iterator[Tensor], num_levels: int | None, columns: int | None, path: Path) -> None:
    """Frames from x_T to x_0 of some samples, side by side."""
    from diffusion_lab.data.pictures import animation, frames

    states = [x.cpu() for x in trajectory]
    stride = max(1, len(states) // FRAMES)
    write_whole(path, animation(frames(states[(len(states) - 1) % stride :: stride], num_levels, columns)))
