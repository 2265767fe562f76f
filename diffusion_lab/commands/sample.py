"""diffusion-lab sample: draw images from a trained model.

As a grid, as single files, or as published evaluators read them.

They come out of noise, or out of images that the user gives: `editing` says how.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import repeat
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track

from diffusion_lab.files import write_whole
from diffusion_lab.from_config.editing import Edit, wanted_edit
from diffusion_lab.from_config.measured import use_measured
from diffusion_lab.from_config.mistakes import MistakeError, lost_process, users_mistakes
from diffusion_lab.from_config.ranks import must_start_ranks, ranks, request_of, start_ranks
from diffusion_lab.from_config.trained import load_model, trained_config, trained_data, with_trained_choices
from diffusion_lab.runs import cache_directory

if TYPE_CHECKING:
    from torch import Tensor

    from diffusion_lab.models.base import GenerativeModel

FORMATS = ("grid", "png", "npz")
MOST_COLUMNS = 20  # of a grid with a column for each class
FRAMES = 60  # of an animation, about; the last is x_0


def completed(options: list[str]) -> list[str]:
    """Sampling starts from the sampler and the guidance that the model was trained with."""
    return with_trained_choices(options, ("sampler", "guidance", "sampling", "rounding", "start"))


def run(cfg: DictConfig) -> None:
    """Draw samples 0 … num_images − 1 of the seed and write them to the folder `to`."""
    import torch

    from diffusion_lab.callbacks.ema import suited_weights
    from diffusion_lab.diffusion.noise import check_seed

    if cfg.format not in FORMATS:
        raise MistakeError(f"format={cfg.format}: there is no such format; it is one of {', '.join(FORMATS)}")
    for name in ("num_images", "batch_size"):
        if cfg[name] < 1:
            raise MistakeError(f"{name}={cfg[name]}: at least one image is needed")
    with users_mistakes():
        check_seed(cfg.seed)
        request = request_of(cfg, prefix="")
        if cfg.devices is None:
            request = replace(request, size=min(request.size, ceil(cfg.num_images / cfg.batch_size)))
        directory, saved = trained_config(cfg)
        model = load_model(directory, saved, cfg.weights)
        auto = cfg.weights == "auto"
        weights = suited_weights(model.weight_names, directory.read_training()["steps"]) if auto else cfg.weights
        if cfg.label is not None and not 0 <= cfg.label < (model.num_classes or 0):
            known = f"are 0 … {model.num_classes - 1}" if model.num_classes else "are none: it is not conditional"
            raise MistakeError(f"label={cfg.label}: the classes of {directory.path} {known}")
        with model.use_weights(weights):
            pass  # says at once if there are no such weights
    if cfg.trajectory and model.trajectory(torch.arange(1), cfg.seed) is None:
        raise MistakeError(f"trajectory=true: {directory.path} has no steps between noise and image to show")
    if must_start_ranks(request):
        start_ranks("sample", request, model_dir=str(directory.path))
        return
    to = Path(cfg.to)
    with ranks(request) as here, lost_process(), torch.no_grad(), model.to(here.device).use_weights(weights):
        with users_mistakes():
            cache = cache_directory(Path(cfg.outputs))
            use_measured(model, lambda: trained_data(saved), saved, directory, weights, cache)
            edit = wanted_edit(cfg, model, saved)
        indices = torch.arange(cfg.num_images, device=model.device)
        y = _labels(indices, cfg.label, model, edit)
        by_class = cfg.label is None and y is not None and model.num_classes <= MOST_COLUMNS
        x = _draw(model.sample if edit is None else edit.draw, indices, cfg.seed, y, cfg.batch_size)
        if x is None:
            return  # rank 0 has them
        shown = torch.cat([edit.given.cpu(), x]) if edit is not None and cfg.format == "grid" else x
        written = _write(shown, y, model, to, cfg.format, model.num_classes if by_class else None)
        if cfg.trajectory:
            some = slice(0, 64)
            written = [*written, _animate(model.trajectory(indices[some], cfg.seed, y if y is None else y[some]), to)]
    names = f"{written[0]} … {written[-1].name}" if len(written) > 2 else "  ".join(map(str, written))
    said = f"{len(x)} samples of {directory.path} ({weights}), drawn on {here.place}: {names}"
    Console().print(said, highlight=False, soft_wrap=True)


def _labels(indices: Tensor, label: int | None, model: GenerativeModel, edit: Edit | None) -> Tensor | None:
    """The label asked for; without one each class in turn, and for given images, of which nobody said what they show, none."""
    import torch

    if label is not None:
        return torch.full_like(indices, label)
    return model.classes_in_turn(indices) if edit is None else None


def _draw(
    sample: Callable[[Tensor, int, Tensor | None], Tensor],
    indices: Tensor,
    seed: int,
    y: Tensor | None,
    batch_size: int,
) -> Tensor | None:
    """All samples, drawn by all ranks together, on rank 0; None on the others."""
    import torch

    from diffusion_lab.evaluation.ranks import gathered, num_ranks, rank

    size = min(batch_size, ceil(len(indices) / num_ranks()))
    batches = list(zip(indices.split(size), repeat(None) if y is None else y.split(size), strict=False))
    mine = track(batches[rank() :: num_ranks()], "drawing", transient=True, disable=rank() > 0)
    drawn = gathered([sample(some, seed, classes).cpu() for some, classes in mine])
    if drawn is None:
        return None
    return torch.cat([drawn[number % num_ranks()][number // num_ranks()] for number in range(len(batches))])


def _write(x: Tensor, y: Tensor | None, model: GenerativeModel, to: Path, form: str, columns: int | None) -> list[Path]:
    import numpy as np

    from diffusion_lab.data.levels import to_uint8
    from diffusion_lab.pictures import picture, png

    if form == "grid":
        path = to / "samples.png"
        write_whole(path, png(picture(x, model.num_levels, columns)))
        return [path]
    if x.ndim != 4:
        raise MistakeError(f"format={form}: the samples are points, not images; use format=grid")
    pixels = to_uint8(x, model.num_levels).permute(0, 2, 3, 1).numpy()
    if form == "npz":
        path = to / "samples.npz"
        buffer = io.BytesIO()
        # arr_1 holds labels; a model without classes has none, and published evaluators read arr_0 only.
        np.savez(buffer, arr_0=pixels, arr_1=np.zeros(len(pixels), np.int64) if y is None else y.cpu().numpy())
        write_whole(path, buffer.getvalue())
        return [path]
    from PIL import Image

    paths = [to / f"{index:06d}.png" for index in range(len(pixels))]
    for path, image in zip(paths, pixels, strict=True):
        write_whole(path, png(Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)))
    return paths


def _animate(trajectory: Iterator[Tensor], to: Path) -> Path:
    """x_T -> x_0 of some samples, side by side."""
    from diffusion_lab.pictures import animation, picture

    states = [x.cpu() for x in trajectory]
    stride = max(1, len(states) // FRAMES)
    shown = states[(len(states) - 1) % stride :: stride]
    # x_T reaches beyond [−1, 1]; 256 shades show noise that the data's few levels could not.
    frames = [picture(x.clamp(-1, 1) if x.ndim == 4 else x, 256) for x in shown]
    path = to / "trajectory.gif"
    write_whole(path, animation(frames))
    return path
