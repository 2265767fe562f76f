"""diffusion-lab sample: images from a trained model, as a grid, as single files, or as published evaluators read them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track

from diffusion_lab.commands.mistakes import MistakeError, users_mistakes
from diffusion_lab.commands.trained import device, load_model, trained_config, with_trained_choices
from diffusion_lab.files import write_whole

if TYPE_CHECKING:
    from torch import Tensor

    from diffusion_lab.models.base import GenerativeModel

FORMATS = ("grid", "png", "npz")
FRAMES = 60  # of an animation, about; the last is x_0


def completed(options: list[str]) -> list[str]:
    """Sampling starts from the sampler that the model was trained with."""
    return with_trained_choices(options, ("sampler",))


def run(cfg: DictConfig) -> None:
    """Draw samples 0 … num_images − 1 of the seed and write them to the folder `to`."""
    import torch

    from diffusion_lab.callbacks.ema import suited_weights

    if cfg.format not in FORMATS:
        raise MistakeError(f"format={cfg.format}: there is no such format; it is one of {', '.join(FORMATS)}")
    for name in ("num_images", "batch_size"):
        if cfg[name] < 1:
            raise MistakeError(f"{name}={cfg[name]}: at least one image is needed")
    if cfg.seed < 0:
        raise MistakeError(f"seed={cfg.seed}: a seed is a non-negative integer")
    with users_mistakes():
        directory, saved = trained_config(cfg)
        model = load_model(directory, saved, device())
        auto = cfg.weights == "auto"
        weights = suited_weights(model.weight_names, directory.read_training()["steps"]) if auto else cfg.weights
        with model.use_weights(weights):
            pass  # says at once if there are no such weights
    if cfg.trajectory and not hasattr(model, "trajectory"):
        raise MistakeError(f"trajectory=true: {directory.path} has no steps between noise and image to show")
    to = Path(cfg.to)
    with torch.no_grad(), model.use_weights(weights):
        batches = torch.arange(cfg.num_images, device=model.device).split(cfg.batch_size)
        x = torch.cat([model.sample(indices, cfg.seed).cpu() for indices in track(batches, "drawing", transient=True)])
        written = _write(x, model, to, cfg.format)
        if cfg.trajectory:
            written = [*written, _animate(model, to, min(cfg.num_images, 64), cfg.seed)]
    names = f"{written[0]} … {written[-1].name}" if len(written) > 2 else "  ".join(map(str, written))
    Console().print(f"{len(x)} samples of {directory.path} ({weights}): {names}", highlight=False, soft_wrap=True)


def _write(x: Tensor, model: GenerativeModel, to: Path, form: str) -> list[Path]:
    import numpy as np

    from diffusion_lab.data.levels import to_uint8
    from diffusion_lab.pictures import picture, png

    if form == "grid":
        path = to / "samples.png"
        write_whole(path, png(picture(x, model.num_levels)))
        return [path]
    if x.ndim != 4:
        raise MistakeError(f"format={form}: the samples are points, not images; use format=grid")
    pixels = to_uint8(x, model.num_levels).permute(0, 2, 3, 1).numpy()
    if form == "npz":
        path = to / "samples.npz"
        buffer = io.BytesIO()
        # arr_1 holds labels; a model without classes has none, and published evaluators read arr_0 only.
        np.savez(buffer, arr_0=pixels, arr_1=np.zeros(len(pixels), dtype=np.int64))
        write_whole(path, buffer.getvalue())
        return [path]
    from PIL import Image

    paths = [to / f"{index:06d}.png" for index in range(len(pixels))]
    for path, image in zip(paths, pixels, strict=True):
        write_whole(path, png(Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)))
    return paths


def _animate(model: GenerativeModel, to: Path, num_images: int, seed: int) -> Path:
    """x_T -> x_0 of the first samples, side by side."""
    import torch

    from diffusion_lab.pictures import animation, picture

    states = [x.cpu() for x in model.trajectory(torch.arange(num_images, device=model.device), seed)]
    stride = max(1, len(states) // FRAMES)
    shown = states[(len(states) - 1) % stride :: stride]
    # x_T reaches beyond [−1, 1]; 256 shades show noise that the data's few levels could not.
    frames = [picture(x.clamp(-1, 1) if x.ndim == 4 else x, 256) for x in shown]
    path = to / "trajectory.gif"
    write_whole(path, animation(frames))
    return path
