"""What a training of one's own images is made of where no option says so: batch, width of the network and number of steps.

Functions of the size and number of the images and of the kind of device, never of timings, so that the same command is the same
training.

Shown are each of n images 10 times on a CPU and 100 times on a GPU, within limits, and never more than 200 times. For the number of
steps after which a model begins to copy its training images grows in proportion to n, while the number that good images take does
not depend on n (Bonnaire et al. 2025, "Why diffusion models don't memorize"). Of few images it copies sooner than it draws well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, open_dict

from diffusion_lab.data.image_folder import usual_batch
from diffusion_lab.networks.sizes import base_for, lengths, multipliers_for, patch_for

if TYPE_CHECKING:
    from diffusion_lab.data.module import DataModule

MOST_EPOCHS = 200
# (epochs, fewest and most images shown), on a CPU and on a GPU
_SHOWN = {False: (10, 100_000, 400_000), True: (100, 1_000_000, 20_000_000)}
# Images, from which on a GPU has large batches and twice the channels. Of fewer there are too few such batches in the epochs above.
_MANY = 1000


@dataclass(frozen=True)
class Picked:
    """Option -> value, as they could have been typed, and what for."""

    options: dict[str, Any]
    what_for: str

    def __str__(self) -> str:
        return f"picked for {self.what_for}: {' '.join(self.overrides)}"

    @property
    def overrides(self) -> list[str]:
        return [f"{name}={str(value).replace(' ', '')}" for name, value in self.options.items()]


def images_shown(num_images: int, on_gpu: bool) -> int:
    """How many images, counted with repetitions, a training on `num_images` is shown."""
    epochs, fewest, most = _SHOWN[on_gpu]
    return min(MOST_EPOCHS * num_images, max(fewest, min(most, epochs * num_images)))


def pick(cfg: DictConfig, data: DataModule, on_gpu: bool) -> Picked | None:
    """Fill in batch_size, channels and max_steps where `cfg` leaves them open (null), once the data are read; None: nowhere.

    A data set leaves the number of steps open by default_steps=null.
    """
    options: dict[str, Any] = {}
    num_images, network = data.num_trained_on, cfg.get("network") or {}
    large = on_gpu and num_images >= _MANY
    if cfg.data.get("batch_size", 0) is None:
        options["data.batch_size"] = data.batch_size = min(
            usual_batch(data.shape, large), 2 ** int(math.log2(num_images))
        )
    channels = [network.get(name, 0) for name in ("base_channels", "channel_multipliers")]
    if cfg.get("default_steps", 0) is None:
        if large and channels == [None, None]:
            sides = lengths(data.shape[1:])
            patch = network.get("patch_size") or patch_for(sides)
            sides = [max(1, side // patch) for side in sides]
            options["network.base_channels"] = 2 * base_for(sides)
            options["network.channel_multipliers"] = multipliers_for(sides, base_for(sides))
        if cfg.trainer.get("max_steps") is None and cfg.trainer.get("max_time") is None:
            options["trainer.max_steps"] = max(1, images_shown(num_images, on_gpu) // data.batch_size)
    with open_dict(cfg):
        for name, value in options.items():
            group, _, key = name.partition(".")
            cfg[group][key] = value
    size = "x".join(map(str, data.shape[1:]))
    what_for = f"{num_images:,} images of {size} pixels on a {'GPU' if on_gpu else 'CPU'}"
    return Picked(options, what_for) if options else None
