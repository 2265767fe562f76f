"""Import of a diffusers folder with a network and a scheduler, as written by `save_pretrained`. None of its code is run.

model_index.json                                   the classes of the parts; optional
unet/config.json, unet/diffusion_pytorch_model.*   a UNet2DModel; older folders have both next to model_index.json
transformer/…                                      in its place, a DiTTransformer2DModel
scheduler/scheduler_config.json                    the process; likewise

The time steps of the scheduler's own sampling (timestep_spacing, steps_offset, Karras sigmas, …) are ignored: our samplers choose.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.interop.checkpoints import (
    MOST_STEPS,
    CheckpointError,
    Imported,
    read_tensors,
    require,
    schedule_options,
    written,
)
from diffusion_lab.interop.diffusers_networks import NETWORKS, OURS, shown, unsupported
from diffusion_lab.networks.other_packages import EXPORTED, network_class
from diffusion_lab.store.records import LARGEST_CONFIG, printable, read_json

TAKES = frozenset(("image_size", "null_class"))  # options of the command
_OWN_PIPELINE = "DiffusionLabPipeline"
_PARTS = ("unet", "transformer")
_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
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
    index = folder / "model_index.json"
    part = next((part for part in _PARTS[1:] if (folder / part).is_dir()), _PARTS[0])
    file = _part(folder, part, "config.json")
    parts = _object(index) if index.is_file() else {}
    said = "not a folder of diffusers, because it has neither model_index.json nor unet/config.json"
    require(parts or file.is_file(), f"checkpoint={folder}: {said}")
    _check_parts(parts, folder)
    scheduler_file = _part(folder, "scheduler", "scheduler_config.json")
    config, scheduler = _object(file), _object(scheduler_file)
    name = _class_of(parts.get(part)) or str(config.get("_class_name"))
    known = {**NETWORKS, **OURS}
    said = f"a {shown(name)} cannot be imported; only a {' or a '.join(NETWORKS)} can, with an image, a time and a class as input"
    require(name in known, f"{file}: {said}")
    own = _class_of(parts.get("_class_name")) == _OWN_PIPELINE
    network = known[name](config, {"null_class": str(own), **given}, "null_class" in given, file)
    weights = _weights(folder, part)
    tensors = read_tensors(weights)
    kind = _class_of(parts.get("scheduler")) or str(scheduler.get("_class_name"))
    conditional = network.num_classes is not None
    return Imported(
        options=(
            *("model=diffusion", "timesteps=uniform", "decoder=gaussian"),
            f"condition={'classes' if conditional else 'none'}",
            f"model.condition_dropout={0.1 if conditional and network.has_null else 0}",
            f"network.null_class={written(network.has_null or not conditional)}",
            *network.options,
            *_process(kind, scheduler, network.doubled, scheduler_file),
        ),
        shape=network.shape,
        num_classes=network.num_classes,
        tensors=tensors,
        weights=lambda ours: network.weights(tensors, ours, f"checkpoint={weights}"),
        file=weights,
        origin={"code": "diffusers", "version": shown(config.get("_diffusers_version"), 40)},
    )


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


def _check_parts(parts: Mapping[str, Any], folder: Path) -> None:
    """Refuse pipelines with more than a UNet2DModel and a scheduler, and networks of other libraries."""
    modules = {
        name: entry
        for name, entry in parts.items()
        if not name.startswith("_") and isinstance(entry, list) and any(part is not None for part in entry)
    }
    others = ", ".join(printable(name) for name in modules if name not in (*_PARTS, "scheduler"))
    require(
        not others,
        f"checkpoint={folder}: a {shown(_class_of(parts.get('_class_name')))} with {others} needs more than its network to "
        "generate images; only pipelines of a network and a scheduler are imported",
    )
    ours = [[module, name] for name, module in EXPORTED.items()]
    for name, entry in modules.items():
        fits = len(entry) == 2 and (entry[0] == "diffusers" or entry in ours)
        require(fits, f"checkpoint={folder}: its {name} is a custom class, which is not run")


def _weights(folder: Path, part: str) -> Path:
    files = [_part(folder, part, name) for name in _WEIGHTS]
    for file in files:
        if file.is_file():
            return file
    raise CheckpointError(f"checkpoint={folder}: there is no {files[0]} and no {files[1].name} next to it")


def _process(name: str, config: Mapping[str, Any], doubled: bool, file: Path) -> list[str]:
    """Overrides for the options of the scheduler `name`. doubled: the network has two outputs per channel."""
    require(name in _SAMPLERS, f"{file}: {printable(name)} cannot be imported; only {', '.join(_SAMPLERS)} can")
    for option in ("use_flow_sigmas", "use_dynamic_shifting"):
        if config.get(option):
            raise unsupported(file, option, config[option])
    prediction = _PREDICTIONS.get(str(config.get("prediction_type", "epsilon")))
    if prediction is None:
        raise unsupported(file, "prediction_type", config["prediction_type"])
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
        raise unsupported(file, "num_train_timesteps", steps)
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
        raise unsupported(file, "variance_type", config["variance_type"])
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
        raise unsupported(file, option, config[option])
    return bool(clips)
