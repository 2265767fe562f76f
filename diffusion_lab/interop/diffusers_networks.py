"""The networks of diffusers that are imported: UNet2DModel, run by that package, and DiTTransformer2DModel as our `Transformer`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from diffusion_lab.interop.checkpoints import CheckpointError, check_fit, image_size_of, require, written
from diffusion_lab.interop.transformer_weights import DIFFUSERS_PERIOD, from_dit
from diffusion_lab.networks.embeddings import MAX_PERIOD
from diffusion_lab.networks.other_packages import EVEN_DIT, EVEN_NORM, GROUPED, STATED, unet_2d_model
from diffusion_lab.store.records import printable

_LARGEST_NUMBER = 2**26  # for options
_INSIDE = "unet."  # names of its parameters in our network begin so
_WORD = re.compile(r"[A-Za-z]\w{0,63}", re.ASCII)
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_DIT_OPTIONS = {  # as DiT has them
    "activation_fn": ("gelu-approximate",),
    "attention_bias": (True,),
    "norm_type": ("ada_norm_zero", EVEN_NORM),
    "norm_elementwise_affine": (False,),
    "norm_eps": (1e-5, 1e-6),
}


@dataclass(frozen=True)
class Network:
    """options: Hydra overrides for the network. shape: (C, H, W) of its images. num_classes: None without classes. has_null: the
    table of classes has a row for "no class". doubled: a second output per channel is for the variance. weights: (tensors, network,
    what) -> the state dict of our network; CheckpointError if it does not fit.
    """

    options: tuple[str, ...]
    shape: tuple[int, int, int]
    num_classes: int | None
    has_null: bool
    doubled: bool
    weights: Callable[[Mapping[str, Tensor], nn.Module, str], dict[str, Tensor]]


def unet(config: Mapping[str, Any], given: Mapping[str, str], said: bool, file: Path) -> Network:
    """A UNet2DModel. given: image_size, null_class. said: the user gave null_class. CheckpointError if it is not supported."""
    channels, doubled = _channels(config, file)
    has_null = given["null_class"].lower() == "true"
    return Network(
        options=(
            "network=diffusion/diffusers",
            *(f"++network.options.{name}={written(value)}" for name, value in _options(config, file).items()),
        ),
        shape=(channels, *_size(config, given, file)),
        num_classes=_num_classes(config, has_null, file, said),
        has_null=has_null,
        doubled=doubled,
        weights=_wrapped,
    )


def dit(config: Mapping[str, Any], given: Mapping[str, str], said: bool, file: Path) -> Network:
    """A DiTTransformer2DModel. CheckpointError if it is not supported."""
    require(not said, f"null_class: the classes in {file} always have a row for no class; remove it")
    for option, supported in _DIT_OPTIONS.items():
        if config.get(option, supported[0]) not in supported:
            raise unsupported(file, option, config[option])
    defaults = {"num_attention_heads": 16, "attention_head_dim": 72, "num_layers": 28, "patch_size": 2}
    numbers = {name: config.get(name, default) for name, default in defaults.items()}
    numbers["num_embeds_ada_norm"] = config.get("num_embeds_ada_norm", 1000)
    for name, value in numbers.items():
        require(
            isinstance(value, int) and 0 < value <= 2**16, f"{file}: {name}={shown(value)} is not a possible number"
        )
    dropout = config.get("dropout", 0.0)
    require(
        isinstance(dropout, int | float) and 0 <= dropout < 1, f"{file}: dropout={shown(dropout)} is not a probability"
    )
    channels, doubled = _channels({"in_channels": 4, **config}, file)
    height, width = _size({"sample_size": 32, **config}, given, file)
    options = {
        "width": numbers["num_attention_heads"] * numbers["attention_head_dim"],
        "num_heads": numbers["num_attention_heads"],
        "num_blocks": numbers["num_layers"],
        "patch_size": numbers["patch_size"],
        "max_period": MAX_PERIOD if config.get("norm_type") == EVEN_NORM else DIFFUSERS_PERIOD,
        "dropout": float(dropout),
    }
    return Network(
        options=("network=diffusion/dit", *(f"network.{name}={written(value)}" for name, value in options.items())),
        shape=(channels, height, width),
        num_classes=numbers["num_embeds_ada_norm"],
        has_null=True,
        doubled=doubled,
        weights=from_dit,
    )


NETWORKS = {"UNet2DModel": unet, "DiTTransformer2DModel": dit}  # of diffusers
OURS = {GROUPED: unet, EVEN_DIT: dit}  # subclasses that our export writes


def shown(value: Any, most: int = 80) -> str:
    """A value from a file, for a message."""
    return printable(str(value))[:most]


def unsupported(file: Path, option: str, value: Any) -> CheckpointError:
    """That an option's value is not supported."""
    return CheckpointError(f"{file}: {option}={shown(value)} is not supported")


def _wrapped(tensors: Mapping[str, Tensor], network: nn.Module, what: str) -> dict[str, Tensor]:
    """The state dict of our `network`, which has the parameters of `tensors` below `unet`, in float32."""
    named = {_new_name(name): tensor for name, tensor in tensors.items()}
    own = {name.removeprefix(_INSIDE): tensor for name, tensor in network.state_dict().items()}
    check_fit(named, {name: tensor.shape for name, tensor in own.items()}, what)
    return {f"{_INSIDE}{name}": named[name].reshape(own[name].shape).float().contiguous() for name in own}


def _new_name(name: str) -> str:
    """Rename attention parameters of folders from before diffusers 0.15."""
    *module, kind, last = ["", *name.split(".")]
    return name if "attentions" not in module else ".".join([*module[1:], _OLD_ATTENTION.get(kind, kind), last])


def _channels(unet: Mapping[str, Any], file: Path) -> tuple[int, bool]:
    """(C, whether a second output per channel is for the variance)."""
    seen, made = unet.get("in_channels", 3), unet.get("out_channels", 3)
    require(
        isinstance(seen, int) and 0 < seen <= 64 and made in (seen, 2 * seen),
        f"{file}: in_channels={shown(seen)} and out_channels={shown(made)}: the network must have one or two outputs for each "
        "channel of its input",
    )
    return seen, made == 2 * seen


def _size(unet: Mapping[str, Any], given: Mapping[str, str], file: Path) -> tuple[int, int]:
    stated, own = unet.get("sample_size"), given.get("image_size")
    said = f"image_size={own}: {file} already states sample_size; remove it"
    require(stated is None or own is None, said)
    said = f"{file} states no sample_size: give the size of the images, such as image_size=32"
    require(stated is not None or own is not None, said)
    height, width = image_size_of(str(own if stated is None else stated))
    levels = unet.get("block_out_channels", (224, 448, 672, 896))
    halved = 2 ** (min(len(levels), 32) - 1) if isinstance(levels, list | tuple) else 1
    fits = height % halved == width % halved == 0
    require(fits, f"{file}: images of {height}×{width} pixels cannot be halved as often as its blocks do")
    return height, width


def _num_classes(unet: Mapping[str, Any], has_null: bool, file: Path, said: bool) -> int | None:
    if unet.get("class_embed_type") is not None:
        raise unsupported(file, "class_embed_type", unet["class_embed_type"])
    rows = unet.get("num_class_embeds")
    if rows is None:
        require(not said, f"null_class: {file} has no classes; remove it")
        return None
    fits = isinstance(rows, int) and has_null < rows <= 2**20
    require(fits, f"{file}: num_class_embeds={shown(rows)} is not a number of classes")
    return rows - has_null


def _options(unet: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Every option of UNet2DModel that does not follow from the data, so that our defaults do not matter."""
    known = {
        name: parameter.default
        for name, parameter in inspect.signature(unet_2d_model().__init__).parameters.items()
        if name not in STATED | {"self"} and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    }
    found = known | {name: value for name, value in unet.items() if name not in STATED and not name.startswith("_")}
    for name, value in found.items():
        said = f"the installed diffusers has no {printable(name)} of a UNet2DModel; update it: pip install -U diffusers"
        require(name in known, f"{file}: {said}")
        require(_is_plain(value), f"{file}: {name} must hold numbers and words")
    said = f"{file}: time_embedding_type=fourier belongs to score models, which cannot be imported"
    require(found["time_embedding_type"] != "fourier", said)
    return found


def _is_plain(value: Any, deep: int = 2) -> bool:
    if isinstance(value, list | tuple):
        return deep > 0 and len(value) <= 64 and all(_is_plain(part, deep - 1) for part in value)
    if isinstance(value, int | float):
        return abs(value) <= _LARGEST_NUMBER  # false for nan and inf
    return value is None or (isinstance(value, str) and bool(_WORD.fullmatch(value)))
