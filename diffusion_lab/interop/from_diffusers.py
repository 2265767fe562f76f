"""Import of a diffusers folder with a UNet2DModel and a scheduler, as written by `save_pretrained`. None of its code is run.

model_index.json                                   the classes of the parts; optional
unet/config.json, unet/diffusion_pytorch_model.*   the network; older folders have both next to model_index.json
scheduler/scheduler_config.json                    the process; likewise

The time steps of the scheduler's own sampling (timestep_spacing, steps_offset, Karras sigmas, …) are ignored: our samplers choose.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lab.interop.checkpoints import (
    MOST_STEPS,
    CheckpointError,
    Imported,
    check_fit,
    image_size_of,
    read_tensors,
    require,
    schedule_options,
    written,
)
from diffusion_lab.networks.other_packages import GROUPED, STATED, network_class, unet_2d_model
from diffusion_lab.store.records import LARGEST_CONFIG, printable, read_json

_LARGEST_NUMBER = 2**26  # for options
_INSIDE = "unet."  # names of its parameters in our network begin so
TAKES = frozenset(("image_size", "null_class"))  # options of the command
_UNET, _OWN_PIPELINE = "UNet2DModel", "DiffusionLabPipeline"
_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_WORD = re.compile(r"[A-Za-z]\w{0,63}", re.ASCII)
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_SAMPLERS = {  # with the most steps used initially
    "DDPMScheduler": ("strided", 50),
    "DDIMScheduler": ("ddim", 50),
    "DPMSolverMultistepScheduler": ("dpm_solver", 20),
}
_OF_BETAS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
)
_PREDICTIONS = {"epsilon": "noise", "sample": "start", "v_prediction": "velocity"}


def opened(folder: Path, given: Mapping[str, str]) -> Imported:
    """The model in `folder`. given: the user's options of `TAKES`. CheckpointError or RunError, in one sentence, if it is none."""
    index, unet_file = folder / "model_index.json", _part(folder, "unet", "config.json")
    parts = _object(index) if index.is_file() else {}
    said = "not a folder of diffusers, because it has neither model_index.json nor unet/config.json"
    require(parts or unet_file.is_file(), f"checkpoint={folder}: {said}")
    _check_parts(parts, folder)
    scheduler_file = _part(folder, "scheduler", "scheduler_config.json")
    unet, scheduler = _object(unet_file), _object(scheduler_file)
    name = _class_of(parts.get("unet")) or unet.get("_class_name")
    said = f"a {_shown(name)} cannot be imported; only a {_UNET} can, with an image, a time and a class as input"
    require(name in (_UNET, GROUPED), f"{unet_file}: {said}")
    channels, doubled = _channels(unet, unet_file)
    shape = (channels, *_size(unet, given, unet_file))
    has_null = given.get("null_class", str(_class_of(parts.get("_class_name")) == _OWN_PIPELINE)).lower() == "true"
    num_classes = _num_classes(unet, has_null, unet_file, "null_class" in given)
    conditional = num_classes is not None
    weights = _weights(folder)
    tensors = {_new_name(name): tensor for name, tensor in read_tensors(weights).items()}
    kind = _class_of(parts.get("scheduler")) or str(scheduler.get("_class_name"))
    return Imported(
        options=(
            *("model=diffusion", "network=diffusion/diffusers", "timesteps=uniform", "decoder=gaussian"),
            f"condition={'classes' if conditional else 'none'}",
            f"model.condition_dropout={0.1 if conditional and has_null else 0}",
            f"network.null_class={written(has_null or not conditional)}",
            *(f"++network.options.{name}={written(value)}" for name, value in _network(unet, unet_file).items()),
            *_process(kind, scheduler, doubled, scheduler_file),
        ),
        shape=shape,
        num_classes=num_classes,
        tensors=tensors,
        weights=partial(_wrapped, tensors=tensors, file=weights),
        file=weights,
        origin={"code": "diffusers", "version": _shown(unet.get("_diffusers_version"), 40)},
    )


def _wrapped(network: nn.Module, tensors: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The state dict of our `network`, which has the parameters of `tensors` below `unet`, in float32.

    CheckpointError, naming the first difference, if they belong to another network.
    """
    own = {name.removeprefix(_INSIDE): tensor for name, tensor in network.state_dict().items()}
    check_fit(tensors, {name: tensor.shape for name, tensor in own.items()}, f"checkpoint={file}")
    return {f"{_INSIDE}{name}": tensors[name].reshape(own[name].shape).float().contiguous() for name in own}


def _object(file: Path) -> dict[str, Any]:
    """A JSON object in which NaN and infinity count as null. RunError if there is none."""
    return read_json(file, LARGEST_CONFIG, constant=lambda name: None)


def _part(folder: Path, part: str, name: str) -> Path:
    """A file of a part, from its own folder if that exists."""
    return folder / part / name if (folder / part).is_dir() else folder / name


def _class_of(entry: Any) -> str | None:
    """A class from model_index.json, which has [library, class] or a class."""
    name = entry[-1] if isinstance(entry, list) and entry else entry
    return name if isinstance(name, str) else None


def _shown(value: Any, most: int = 80) -> str:
    return printable(str(value))[:most]


def _unsupported(file: Path, option: str, value: Any) -> CheckpointError:
    return CheckpointError(f"{file}: {option}={_shown(value)} is not supported")


def _check_parts(parts: Mapping[str, Any], folder: Path) -> None:
    """Refuse pipelines with more than a UNet2DModel and a scheduler, and networks of other libraries."""
    modules = {
        name: entry
        for name, entry in parts.items()
        if not name.startswith("_") and isinstance(entry, list) and any(part is not None for part in entry)
    }
    others = ", ".join(printable(name) for name in modules if name not in ("unet", "scheduler"))
    require(
        not others,
        f"checkpoint={folder}: a {_shown(_class_of(parts.get('_class_name')))} with {others} needs more than its UNet to generate "
        "images; only pipelines of a UNet2DModel and a scheduler are imported",
    )
    for name, entry in modules.items():
        fits = len(entry) == 2 and (entry[0] == "diffusers" or entry == ["grouped_unet", GROUPED])
        require(fits, f"checkpoint={folder}: its {name} is a custom class, which is not run")


def _channels(unet: Mapping[str, Any], file: Path) -> tuple[int, bool]:
    """(C, whether a second output per channel is for the variance)."""
    seen, made = unet.get("in_channels", 3), unet.get("out_channels", 3)
    require(
        isinstance(seen, int) and 0 < seen <= 64 and made in (seen, 2 * seen),
        f"{file}: in_channels={_shown(seen)} and out_channels={_shown(made)}: the network must have one or two outputs for each "
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
        raise _unsupported(file, "class_embed_type", unet["class_embed_type"])
    rows = unet.get("num_class_embeds")
    if rows is None:
        require(not said, f"null_class: {file} has no classes; remove it")
        return None
    fits = isinstance(rows, int) and has_null < rows <= 2**20
    require(fits, f"{file}: num_class_embeds={_shown(rows)} is not a number of classes")
    return rows - has_null


def _network(unet: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Every option of UNet2DModel that does not follow from the data, so that our defaults do not matter."""
    known = {
        name: parameter.default
        for name, parameter in inspect.signature(unet_2d_model().__init__).parameters.items()
        if name not in STATED | {"self"} and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    }
    found = known | {name: value for name, value in unet.items() if name not in STATED and not name.startswith("_")}
    for name, value in found.items():
        said = f"the installed diffusers has no {printable(name)} of a {_UNET}; update it: pip install -U diffusers"
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


def _weights(folder: Path) -> Path:
    files = [_part(folder, "unet", name) for name in _WEIGHTS]
    for file in files:
        if file.is_file():
            return file
    raise CheckpointError(f"checkpoint={folder}: there is no {files[0]} and no {files[1].name} next to it")


def _new_name(name: str) -> str:
    """Rename attention parameters of folders from before diffusers 0.15."""
    *module, kind, last = ["", *name.split(".")]
    return name if "attentions" not in module else ".".join([*module[1:], _OLD_ATTENTION.get(kind, kind), last])


def _process(name: str, config: Mapping[str, Any], doubled: bool, file: Path) -> list[str]:
    """Overrides for the options of the scheduler `name`. doubled: the network has two outputs per channel."""
    require(name in _SAMPLERS, f"{file}: {printable(name)} cannot be imported; only {', '.join(_SAMPLERS)} can")
    for option in ("use_flow_sigmas", "use_dynamic_shifting"):
        if config.get(option):
            raise _unsupported(file, option, config[option])
    prediction = _PREDICTIONS.get(str(config.get("prediction_type", "epsilon")))
    if prediction is None:
        raise _unsupported(file, "prediction_type", config["prediction_type"])
    sampler, most = _SAMPLERS[name]
    variance, betas = _variance(name, config, doubled, file), _betas(name, config, file)
    return [
        f"prediction={prediction}",
        *variance,
        *schedule_options(betas, prediction, file),
        f"sampler={sampler}",
        f"sampler.spacing.num_steps={min(most, len(betas))}",
        f"model.clip_x_0={written(_clips(name, config, file))}",
    ]


def _betas(name: str, config: Mapping[str, Any], file: Path) -> Tensor:
    """β_1 … β_T, float64, as diffusers' scheduler `name` computes them."""
    steps = config.get("num_train_timesteps", 1000)
    if not isinstance(steps, int) or not 2 <= steps <= MOST_STEPS:
        raise _unsupported(file, "num_train_timesteps", steps)
    options = {option: config[option] for option in _OF_BETAS if option in config}
    try:
        betas = network_class("diffusers", name, "diffusers")(**options).betas.double()
        if config.get("trained_betas") is not None and not config.get("rescale_betas_zero_snr"):
            betas = torch.tensor(config["trained_betas"], dtype=torch.float64)  # not rounded to float32
    except Exception as error:  # diffusers does not check values: TypeError, OverflowError and others
        raise CheckpointError(f"{file}: {name} cannot be built ({' '.join(str(error).split())})") from None
    require(len(betas) == steps, f"{file}: trained_betas must be a list of num_train_timesteps={steps} numbers")
    return betas


def _variance(name: str, config: Mapping[str, Any], doubled: bool, file: Path) -> list[str]:
    """DDIM has no variance_type: with η = 1 it uses β̃; our export uses DDIM also for networks with a learned variance."""
    otherwise = "learned_range" if doubled and name == "DDIMScheduler" else "fixed_small"
    kind = str(config.get("variance_type") or otherwise).removesuffix("_log")
    if kind not in ("fixed_small", "fixed_large", "learned_range"):
        raise _unsupported(file, "variance_type", config["variance_type"])
    outputs = "two outputs" if doubled else "one output"
    fits = (kind == "learned_range") == doubled
    require(fits, f"{file}: variance_type={kind} does not fit a network with {outputs} a channel")
    return ["variance=learned_jointly", "objective=hybrid"] if doubled else [f"variance={kind}", "objective=simple"]


def _clips(name: str, config: Mapping[str, Any], file: Path) -> bool:
    if config.get("thresholding"):  # with a limit of 1 it is a clamp
        option, clips = "sample_max_value", True
    else:
        option, clips = "clip_sample_range", name != "DPMSolverMultistepScheduler" and config.get("clip_sample", True)
    if clips and config.get(option, 1.0) != 1:
        raise _unsupported(file, option, config[option])
    return bool(clips)
