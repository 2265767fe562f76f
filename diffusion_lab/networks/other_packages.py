"""U-Nets of other packages as networks of ours, for published checkpoints: diffusers and denoising-diffusion-pytorch.

The computation is those packages' code; both are optional extras, imported when such a network is built.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lab.networks.embeddings import check_labels

# Options of UNet2DModel that follow from the arguments of every network here.
STATED = frozenset(("sample_size", "in_channels", "out_channels", "num_class_embeds", "class_embed_type"))

GROUPED = "GroupedUNet2DModel"


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


class DenoisingUNet(nn.Module):
    """network(x_t (B, in_channels, H, W), timesteps (B,), None) -> (B, out_channels, H, W) float32. It has no classes.

    dim, init_dim, dim_mults, full_attn, attn_heads, attn_dim_head, dropout, sinusoidal_pos_emb_theta, flash_attn: as in
    denoising-diffusion-pytorch. A network with self_condition is given x̂_0 = 0, as in half of its training. H and W are divisible
    by 2^(len(dim_mults) − 1). ValueError, in one sentence, if the package is not installed or cannot build the network.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_classes: int | None = None,
        dim: int = 64,
        init_dim: int | None = None,
        dim_mults: Sequence[int] = (1, 2, 4, 8),
        full_attn: Sequence[bool] = (False, False, False, True),
        attn_heads: int | Sequence[int] = 4,
        attn_dim_head: int | Sequence[int] = 32,
        self_condition: bool = False,
        dropout: float = 0.0,
        sinusoidal_pos_emb_theta: float = 10000,
        flash_attn: bool = False,
    ):
        super().__init__()
        if num_classes is not None:
            raise ValueError("the Unet of denoising-diffusion-pytorch has no classes: use condition=none")
        with _one_sentence("network: this Unet"):
            self.unet = network_class("denoising_diffusion_pytorch", "Unet", "denoising-diffusion-pytorch")(
                dim,
                init_dim=init_dim,
                out_dim=out_channels,
                dim_mults=tuple(dim_mults),
                channels=in_channels,
                self_condition=self_condition,
                sinusoidal_pos_emb_theta=sinusoidal_pos_emb_theta,
                dropout=dropout,
                attn_dim_head=_plain(attn_dim_head),
                attn_heads=_plain(attn_heads),
                full_attn=tuple(full_attn),
                flash_attn=flash_attn,
            )

    def forward(self, x_t: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        check_labels(y, has_classes=False)
        factor = self.unet.downsample_factor
        if any(side % factor for side in x_t.shape[-2:]):
            raise ValueError(
                f"network.dim_mults: images of {tuple(x_t.shape[-2:])} pixels need sides divisible by {factor}"
            )
        return self.unet(x_t, timesteps).float()


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
    except ImportError as error:
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
