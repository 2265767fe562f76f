"""Default batch, width of the network and number of steps for a training on the user's own images.

They are functions of the size and number of the images, so the same command is the same training on each machine. A CPU has time
for them: each image is shown 10 times, but at least 100,000 images are shown, because fewer give poor samples, and none more than
100 times. A GPU has time for 100 epochs with a larger batch and twice the channels, which are proposed (`for_gpu`): the user types
them. The number of steps after which a model begins to copy its training images grows with their number (Bonnaire et al. 2025,
"Why diffusion models don't memorize"), so epochs are limited: for 300 digits, samples are nearer to a training image than held-out
digits are with probability 0.54 (0.50 to 0.58) after 100 epochs, 0.71 after
200.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffusion_lab.config.overrides import as_options
from diffusion_lab.data.image_folder import usual_batch
from diffusion_lab.data.module import DataModule
from diffusion_lab.networks.sizes import base_for, lengths, multipliers_for, patch_for

MOST_EPOCHS = 100
_EPOCHS, _FEWEST, _MOST, _MOST_ON_GPU = 10, 100_000, 400_000, 20_000_000  # in images shown, except the first
# Number of images from which a GPU gets large batches and twice the channels. Fewer give too few such batches in these epochs.
_MANY = 1000


@dataclass(frozen=True)
class Picked:
    """Values picked for the data. options: option -> value, as on the command line. what_for: a description of the data."""

    options: dict[str, Any]
    what_for: str

    def __str__(self) -> str:
        return f"picked for {self.what_for}: {' '.join(as_options(self.options))}" if self.options else ""


def images_shown(num_images: int, on_gpu: bool = False) -> int:
    """The number of images, counted with repetitions, shown in a training on `num_images`."""
    wanted = _MOST_ON_GPU if on_gpu else max(_FEWEST, min(_MOST, _EPOCHS * num_images))
    return min(MOST_EPOCHS * num_images, wanted)


def for_gpu(cfg: DictConfig, data: DataModule) -> str | None:
    """A sentence on the options that a GPU has time for, in place of those that `pick` picks; None if they are the same."""
    more = pick(cfg, data, on_gpu=True).options
    return (
        None
        if more == pick(cfg, data).options
        else f"on a GPU, larger settings are practical: {' '.join(as_options(more))}"
    )


def pick(cfg: DictConfig, data: DataModule, on_gpu: bool = False) -> Picked:
    """Values for the null ones of batch_size, channels and max_steps of a config that is not settled.

    A data set leaves the number of steps to this function with default_steps=null. on_gpu: see `for_gpu`.
    """
    options: dict[str, Any] = {}
    num_images, network, batch = data.num_trained_on, cfg.get("network") or {}, data.batch_size
    large, is_open = on_gpu and num_images >= _MANY, cfg.get("default_steps", 0) is None
    if cfg.data.get("batch_size", 0) is None:
        options["data.batch_size"] = batch = min(usual_batch(data.shape, large), 2 ** int(math.log2(num_images)))
    channels = [network.get(name, 0) for name in ("base_channels", "channel_multipliers")]
    if is_open and large and channels == [None, None]:
        sides = lengths(data.shape[1:])
        patches = [max(1, side // (network.get("patch_size") or patch_for(sides))) for side in sides]
        options["network.base_channels"] = 2 * base_for(patches)
        options["network.channel_multipliers"] = multipliers_for(patches, base_for(patches))
    if is_open and cfg.trainer.get("max_steps") is None and cfg.trainer.get("max_time") is None:
        options["trainer.max_steps"] = max(1, images_shown(num_images, on_gpu) // batch)
    size = f" of {'x'.join(map(str, data.shape[1:]))} pixels" if len(data.shape) > 1 else ""
    return Picked(options, f"{num_images:,} images{size}")


def fill_in(cfg: DictConfig, options: Mapping[str, Any]) -> None:
    """Set options, named as on the command line."""
    for name, value in options.items():
        OmegaConf.update(cfg, name, value, merge=False, force_add=True)
