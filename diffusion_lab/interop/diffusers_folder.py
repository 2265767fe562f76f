"""A folder of diffusers with a UNet2DModel and a scheduler, as its `save_pretrained` writes it. Nothing in it runs.

model_index.json                                   which classes the parts are of; may be missing
unet/config.json, unet/diffusion_pytorch_model.*   the network; older folders have both next to model_index.json
scheduler/scheduler_config.json                    the process; likewise
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from diffusion_lab.interop.checkpoints import CheckpointError, read_tensors
from diffusion_lab.interop.diffusers_scheduler import scheduler_options
from diffusion_lab.interop.imported import Imported, image_size_of, wrapped_weights, written
from diffusion_lab.networks.diffusers_unet import GROUPED
from diffusion_lab.store.records import LARGEST_CONFIG, LARGEST_NUMBER, RunError, printable, read_bytes

TAKES = frozenset(("image_size", "null_class"))  # options of the command
_UNET, _OWN_PIPELINE = "UNet2DModel", "DiffusionLabPipeline"
_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_WORD = re.compile(r"[A-Za-z]\w{0,63}", re.ASCII)
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def opened(folder: Path, given: Mapping[str, str]) -> Imported:
    """The model in `folder`. given: the user's options of `TAKES`. CheckpointError or RunError, in one sentence, for any other."""
    index = folder / "model_index.json"
    parts = _object(index) if index.is_file() else {}
    if not parts and not _part(folder, "unet", "config.json").is_file():
        raise CheckpointError(
            f"checkpoint={folder}: not a folder of diffusers, because it has neither model_index.json nor unet/config.json"
        )
    _check_parts(parts, folder)
    unet_file, scheduler_file = (
        _part(folder, "unet", "config.json"),
        _part(folder, "scheduler", "scheduler_config.json"),
    )
    unet, scheduler = _object(unet_file), _object(scheduler_file)
    _check_class(_class_of(parts.get("unet")) or unet.get("_class_name"), unet_file)
    channels, doubled = _channels(unet, unet_file)
    shape = (channels, *_size(unet, given, unet_file))
    has_null = given.get("null_class", str(_class_of(parts.get("_class_name")) == _OWN_PIPELINE)).lower() == "true"
    num_classes = _num_classes(unet, has_null, unet_file, "null_class" in given)
    weights = _weights(folder)
    tensors = _renamed(read_tensors(weights))
    conditional = num_classes is not None
    options = [
        *("model=diffusion", "network=diffusion/diffusers", "timesteps=uniform", "decoder=gaussian"),
        f"conditional={written(conditional)}",
        f"model.label_dropout={0.1 if conditional and has_null else 0}",
        f"network.null_class={written(has_null or not conditional)}",
        *(f"++network.options.{name}={written(value)}" for name, value in _network(unet, unet_file).items()),
        *scheduler_options(
            _class_of(parts.get("scheduler")) or str(scheduler.get("_class_name")), scheduler, doubled, scheduler_file
        ),
    ]
    return Imported(
        options=tuple(options),
        shape=shape,
        num_classes=num_classes,
        tensors=tensors,
        weights=partial(_of_network, tensors, weights),
        file=weights,
        origin={"code": "diffusers", "version": printable(str(unet.get("_diffusers_version")))[:40]},
    )


def _of_network(tensors: Mapping[str, Tensor], file: Path, network: nn.Module) -> dict[str, Tensor]:
    return wrapped_weights(tensors, network, "unet.", file)


def _object(file: Path) -> dict[str, Any]:
    """A JSON object, in which what Python writes for no number or infinity counts as null. RunError where there is none."""
    try:
        content = json.loads(read_bytes(file, LARGEST_CONFIG), parse_constant=lambda name: None)
    except (ValueError, RecursionError) as error:  # also what is not UTF-8
        raise RunError(f"{file} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise RunError(f"{file} does not hold a JSON object")
    return content


def _part(folder: Path, part: str, name: str) -> Path:
    """A file of a part, in its own folder where there is one."""
    return folder / part / name if (folder / part).is_dir() else folder / name


def _class_of(entry: Any) -> str | None:
    """model_index.json names [library, class], or a class."""
    name = entry[-1] if isinstance(entry, list) and entry else entry
    return name if isinstance(name, str) else None


def _check_parts(parts: Mapping[str, Any], folder: Path) -> None:
    """Refuse pipelines with more than a UNet2DModel and a scheduler, and networks of other libraries."""
    modules = {
        name: entry
        for name, entry in parts.items()
        if not name.startswith("_") and isinstance(entry, list) and any(part is not None for part in entry)
    }
    others = [printable(name) for name in modules if name not in ("unet", "scheduler")]
    if others:
        raise CheckpointError(
            f"checkpoint={folder}: a {printable(str(_class_of(parts.get('_class_name'))))} with {', '.join(others)} needs "
            "more than its UNet to generate images; only pipelines of a UNet2DModel and a scheduler are imported"
        )
    for name, entry in modules.items():
        if len(entry) != 2 or (entry[0] != "diffusers" and entry != ["grouped_unet", GROUPED]):
            raise CheckpointError(f"checkpoint={folder}: its {name} is a custom class, which is not run")


def _check_class(name: Any, file: Path) -> None:
    if name not in (_UNET, GROUPED):
        raise CheckpointError(
            f"{file}: a {printable(str(name))} cannot be imported; only a {_UNET} can, with an image, a time and a class as input"
        )


def _channels(unet: Mapping[str, Any], file: Path) -> tuple[int, bool]:
    """(C, whether a second output a channel is for the variance)."""
    seen, made = unet.get("in_channels", 3), unet.get("out_channels", 3)
    if not (isinstance(seen, int) and 0 < seen <= 64 and made in (seen, 2 * seen)):
        raise CheckpointError(
            f"{file}: in_channels={printable(str(seen))} and out_channels={printable(str(made))}: the network must have one or two "
            "outputs for each channel of its input"
        )
    return seen, made == 2 * seen


def _size(unet: Mapping[str, Any], given: Mapping[str, str], file: Path) -> tuple[int, int]:
    stated = unet.get("sample_size")
    if stated is not None and "image_size" in given:
        raise CheckpointError(f"image_size={given['image_size']}: {file} already states sample_size; remove it")
    if stated is None and "image_size" not in given:
        raise CheckpointError(f"{file} states no sample_size: give the size of the images, such as image_size=32")
    height, width = image_size_of(str(stated) if stated is not None else given["image_size"])
    levels = unet.get("block_out_channels", (224, 448, 672, 896))
    halved = 2 ** (min(len(levels), 32) - 1) if isinstance(levels, list | tuple) else 1
    if height % halved or width % halved:
        raise CheckpointError(f"{file}: images of {height}×{width} pixels cannot be halved as often as its blocks do")
    return height, width


def _num_classes(unet: Mapping[str, Any], has_null: bool, file: Path, said: bool) -> int | None:
    if unet.get("class_embed_type") is not None:
        raise CheckpointError(f"{file}: class_embed_type={printable(str(unet['class_embed_type']))} is not supported")
    rows = unet.get("num_class_embeds")
    if rows is None and said:
        raise CheckpointError(f"null_class: {file} has no classes; remove it")
    if rows is None:
        return None
    if not isinstance(rows, int) or not has_null < rows <= 2**20:
        raise CheckpointError(f"{file}: num_class_embeds={printable(str(rows))} is not a number of classes")
    return rows - has_null


def _network(unet: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Every option of UNet2DModel but those that follow from the data, so that no default of ours counts."""
    import inspect

    from diffusion_lab.networks.diffusers_unet import STATED, unet_2d_model

    known = {
        name: parameter.default
        for name, parameter in inspect.signature(unet_2d_model().__init__).parameters.items()
        if name not in STATED | {"self"} and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    }
    stated = {name: value for name, value in unet.items() if name not in STATED and not name.startswith("_")}
    unknown = sorted(stated.keys() - known.keys())
    if unknown:
        raise CheckpointError(
            f"{file}: the installed diffusers has no {printable(unknown[0])} of a {_UNET}; update it: pip install -U diffusers"
        )
    if stated.get("time_embedding_type", "positional") == "fourier":
        raise CheckpointError(f"{file}: time_embedding_type=fourier belongs to score models, which cannot be imported")
    found = known | stated
    for name, value in found.items():
        if not _is_plain(value):
            raise CheckpointError(f"{file}: {name} must hold numbers and words")
    return found


def _is_plain(value: Any, deep: int = 2) -> bool:
    if isinstance(value, list | tuple):
        return deep > 0 and len(value) <= 64 and all(_is_plain(part, deep - 1) for part in value)
    if isinstance(value, int | float):
        return abs(value) <= LARGEST_NUMBER  # which neither nan nor inf is
    return value is None or (isinstance(value, str) and bool(_WORD.fullmatch(value)))


def _weights(folder: Path) -> Path:
    files = [_part(folder, "unet", name) for name in _WEIGHTS]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise CheckpointError(f"checkpoint={folder}: there is no {files[0]} and no {files[1].name} next to it")
    return found


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Attention of folders before diffusers 0.15 has other names."""
    found = {}
    for name, tensor in tensors.items():
        layer, _, last = name.rpartition(".")
        module, _, kind = layer.rpartition(".")
        old = ".attentions." in f".{module}." and kind in _OLD_ATTENTION
        found[f"{module}.{_OLD_ATTENTION[kind]}.{last}" if old else name] = tensor
    return found
