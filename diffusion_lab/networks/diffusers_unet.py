"""The U-Net of the package diffusers as a network of ours: for checkpoints that people share in its format.

What it computes is diffusers' own code; it is an optional extra, and is imported when such a network is built.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

# Options of UNet2DModel that follow from what every network here is given.
STATED = frozenset(("sample_size", "in_channels", "out_channels", "num_class_embeds", "class_embed_type"))

GROUPED = "GroupedUNet2DModel"


class DiffusersUNet(nn.Module):
    """network(x_t (B, in_channels, H, W), timesteps (B,), y int64 (B,) | None) -> (B, out_channels, H, W) float32.

    options: of diffusers' `UNet2DModel`, but for those of the sizes and classes; what is not named has its default there.
    null_class: the table of classes has num_classes + 1 rows, the last for "no class", which y = None means too; without it every
    sample needs a label. ValueError, in one sentence, where diffusers is not installed or builds no such network.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_classes: int | None = None,
        null_class: bool = True,
        options: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.num_classes, self.null_class = num_classes, null_class
        given = {name: _plain(value) for name, value in (options or {}).items()}
        stated = sorted(STATED & given.keys())
        if stated:
            raise ValueError(f"network.options.{stated[0]} follows from the data and the model: remove it")
        try:
            grouped = isinstance(given.get("norm_num_groups"), tuple)
            self.unet = (_grouped_unet() if grouped else unet_2d_model())(
                in_channels=in_channels,
                out_channels=out_channels,
                num_class_embeds=None if num_classes is None else num_classes + null_class,
                **given,
            )
        except (MemoryError, NotInstalledError):
            raise
        except Exception as error:  # whatever options that do not fit together lead to
            raise ValueError(f"network.options: UNet2DModel cannot be built: {' '.join(str(error).split())}") from None

    def forward(self, x_t: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        if self.num_classes is None and y is not None:
            raise ValueError("class labels y were given to a network that has no classes; pass y=None")
        if self.num_classes is not None and y is None:
            if not self.null_class:
                raise ValueError("this network was trained with a label for every sample: it has no output without one")
            y = torch.full_like(timesteps, self.num_classes, dtype=torch.int64)
        return self.unet(x_t, timesteps, class_labels=y, return_dict=False)[0].float()


def unet_2d_model() -> type[nn.Module]:
    """diffusers' class."""
    return network_class("diffusers", "UNet2DModel", "diffusers")


def _grouped_unet() -> type[nn.Module]:
    """The class that `diffusion-lab export` writes for networks whose norms have different numbers of groups."""
    return network_class("diffusion_lab.networks.grouped_unet", GROUPED, "diffusers")


def _plain(value: Any) -> Any:
    """Lists of a config as tuples."""
    return tuple(map(_plain, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value


class NotInstalledError(ValueError):
    """An optional extra is missing; one sentence that says how to install it."""


def network_class(module: str, name: str, extra: str) -> Any:
    """The class `name` of `module`, which `pip install 'diffusion-lab[extra]'` brings."""
    try:
        return getattr(import_module(module), name)
    except ImportError as error:
        raise NotInstalledError(
            f"the network {name} needs the package {extra} ({error}): pip install 'diffusion-lab[{extra}]'"
        ) from None
