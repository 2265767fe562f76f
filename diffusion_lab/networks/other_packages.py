"""The U-Net of diffusers as a network of ours, for published checkpoints.

The computation is that package's code; it is an optional extra, imported when such a network is built.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lab.networks.embeddings import check_labels
from diffusion_lab.networks.fitting import Names, Origin, Weights, null_embedding

# Options of UNet2DModel that follow from the arguments of every network here.
STATED = frozenset(("sample_size", "in_channels", "out_channels", "num_class_embeds", "class_embed_type"))

GROUPED, EVEN_DIT = "GroupedUNet2DModel", "EvenDiTTransformer2DModel"
EXPORTED = {
    GROUPED: "grouped_unet",
    EVEN_DIT: "even_dit",
}  # class -> module that `diffusion-lab export` writes beside the weights
EVEN_NORM = "ada_norm_zero_even"  # norm_type of EVEN_DIT


class DiffusersUNet(nn.Module):
    """network(x_t (B, in_channels, H, W), timesteps (B,), y int64 (B,) | None) -> (B, out_channels, H, W) float32.

    options: of diffusers' `UNet2DModel`, except sizes and classes; unnamed options have its defaults.
    null_class: the table of classes has num_classes + 1 rows, the last for "no class", also used for y = None; without it every
    sample needs a label. ValueError, in one sentence, if diffusers is not installed or cannot build the network.
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
        with _one_sentence("network.options: UNet2DModel"):
            # With a list of groups: the class that `diffusion-lab export` writes.
            grouped = isinstance(given.get("norm_num_groups"), tuple)
            where = "diffusion_lab.networks.grouped_unet"
            self.unet = (network_class(where, GROUPED, "diffusers") if grouped else unet_2d_model())(
                in_channels=in_channels,
                out_channels=out_channels,
                num_class_embeds=None if num_classes is None else num_classes + null_class,
                **given,
            )

    def forward(self, x_t: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        if self.num_classes is not None and self.null_class and y is None:
            y = torch.full_like(timesteps, self.num_classes, dtype=torch.int64)
        check_labels(y, self.num_classes is not None)
        return self.unet(x_t, timesteps, class_labels=y, return_dict=False)[0].float()

    def fit_weights(self, weights: Weights, origin: Origin) -> tuple[Weights, Names]:
        """As in `Conditioning`: a table of other classes begins at zero, and the null of the old one is added to e."""
        name, bias = "unet.class_embedding.weight", "unet.time_embedding.linear_2.bias"
        own, there = self.state_dict().get(name), weights.get(name)
        if (None if own is None else own.shape) == (None if there is None else there.shape):
            return weights, ()
        others = {key: tensor for key, tensor in weights.items() if key != name}
        if there is not None:
            others[bias] = others[bias] + null_embedding({name: there}, origin)
        return (others, ()) if own is None else ({**others, name: torch.zeros_like(own)}, [name])


def unet_2d_model() -> type[nn.Module]:
    """diffusers' class."""
    return network_class("diffusers", "UNet2DModel", "diffusers")


def _plain(value: Any) -> Any:
    """Lists of a config as tuples."""
    return tuple(map(_plain, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value


class NotInstalledError(ValueError):
    """An optional extra is missing; the message is one sentence on how to install it."""


def network_class(module: str, name: str, extra: str) -> Any:
    """The class `name` of `module`, from `pip install 'diffusion-lab[extra]'`."""
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:  # a folder of the user may have the package's name
        raise NotInstalledError(
            f"the network {name} needs the package {extra} ({error}): pip install 'diffusion-lab[{extra}]'"
        ) from None


@contextmanager
def _one_sentence(network: str) -> Iterator[None]:
    """Turn any error of the package's code, caused by options that do not fit together, into a ValueError."""
    try:
        yield
    except (MemoryError, NotInstalledError):
        raise
    except Exception as error:
        raise ValueError(f"{network} cannot be built: {' '.join(str(error).split())}") from None
