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

import torch
from torch import Tensor, nn

from diffusion_lab.interop.checkpoints import (
    MOST_STEPS,
    CheckpointError,
    Imported,
    image_size_of,
    read_tensors,
    schedule_options,
    wrapped_weights,
    written,
)
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


_SAMPLERS = {  # with the most steps that it starts with
    "DDPMScheduler": ("strided", 50),
    "DDIMScheduler": ("ddim", 50),
    "DPMSolverMultistepScheduler": ("dpm_solver", 20),
}
_PREDICTIONS = {"epsilon": "noise", "sample": "start", "v_prediction": "velocity"}
_VARIANCES = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",
    "fixed_large": "fixed_large",
    "fixed_large_log": "fixed_large",
}
_UNSUPPORTED = ("use_flow_sigmas", "use_dynamic_shifting")


def scheduler_options(name: str, config: Mapping[str, Any], doubled: bool, file: Path) -> list[str]:
    """Overrides for what the scheduler `name` states. doubled: the network has two outputs a channel.

    CheckpointError, in one sentence that names the option, for what nothing here does.
    """
    if name not in _SAMPLERS:
        raise CheckpointError(f"{file}: {printable(name)} cannot be imported; only {', '.join(_SAMPLERS)} can")
    for option in _UNSUPPORTED:
        if config.get(option):
            raise _unsupported(file, option, config[option])
    prediction_type = str(config.get("prediction_type", "epsilon"))
    if prediction_type not in _PREDICTIONS:
        raise _unsupported(file, "prediction_type", prediction_type)
    prediction = _PREDICTIONS[prediction_type]
    sampler, most = _SAMPLERS[name]
    betas = _betas(config, file)
    steps = f"sampler.spacing.num_steps={min(most, len(betas))}"
    return [
        f"prediction={prediction}",
        *_variance(name, config, doubled, file),
        *schedule_options(betas, prediction, file),
        f"sampler={sampler}",
        steps,
        f"model.clip_x_0={str(_clips(name, config, file)).lower()}",
    ]


def _betas(config: Mapping[str, Any], file: Path) -> Tensor:
    """β_1 … β_T, float64."""
    steps = config.get("num_train_timesteps", 1000)
    if not isinstance(steps, int) or not 2 <= steps <= MOST_STEPS:
        raise _unsupported(file, "num_train_timesteps", steps)
    given = config.get("trained_betas")
    if given is not None:
        if not (isinstance(given, list) and len(given) == steps and all(map(_is_beta, given))):
            raise CheckpointError(
                f"{file}: trained_betas must be a list of num_train_timesteps={steps} numbers up to 1"
            )
        betas = torch.tensor(given, dtype=torch.float64)
    else:
        betas = _by_formula(config, steps, file)
    return _without_terminal_signal(betas) if config.get("rescale_betas_zero_snr") else betas


def _by_formula(config: Mapping[str, Any], steps: int, file: Path) -> Tensor:
    start, end = (
        _beta(config, option, otherwise, file) for option, otherwise in (("beta_start", 1e-4), ("beta_end", 0.02))
    )
    match config.get("beta_schedule", "linear"):
        case "linear":
            return torch.linspace(start, end, steps, dtype=torch.float64)
        case "scaled_linear":
            return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64).square()
        case "sigmoid":
            return torch.linspace(-6, 6, steps, dtype=torch.float64).sigmoid() * (end - start) + start
        case "squaredcos_cap_v2":
            time = torch.arange(steps + 1, dtype=torch.float64) / steps
            alpha_bar = ((time + 0.008) / 1.008 * torch.pi / 2).cos().square()
            return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)
        case other:
            raise _unsupported(file, "beta_schedule", other)


def _beta(config: Mapping[str, Any], option: str, otherwise: float, file: Path) -> float:
    value = config.get(option, otherwise)
    if not _is_beta(value):
        raise _unsupported(file, option, value)
    return float(value)


def _is_beta(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1


def _without_terminal_signal(betas: Tensor) -> Tensor:
    """√ᾱ moved and stretched so that it ends at 0 and begins where it did (Lin et al. 2023, algorithm 1)."""
    root = torch.cumprod(1 - betas, dim=0).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    alpha_bar = root.square()
    return 1 - torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])


def _variance(name: str, config: Mapping[str, Any], doubled: bool, file: Path) -> list[str]:
    """DDIM states none: with η = 1 it has β̃; our export writes it for networks with a learned variance too."""
    otherwise = {"DDPMScheduler": "fixed_small", "DDIMScheduler": "learned_range" if doubled else "fixed_small"}
    variance_type = str(config.get("variance_type") or otherwise.get(name, "fixed_small"))
    if variance_type == "learned_range" and doubled:
        return ["variance=learned_jointly", "objective=hybrid"]
    if variance_type in _VARIANCES and not doubled:
        return [f"variance={_VARIANCES[variance_type]}", "objective=simple"]
    if variance_type == "learned_range" or variance_type in _VARIANCES:
        raise CheckpointError(
            f"{file}: variance_type={variance_type} does not fit a network with "
            f"{'two outputs' if doubled else 'one output'} a channel"
        )
    raise _unsupported(file, "variance_type", variance_type)


def _clips(name: str, config: Mapping[str, Any], file: Path) -> bool:
    if config.get("thresholding"):  # one that may not exceed 1 is a clamp
        if config.get("sample_max_value", 1.0) != 1:
            raise _unsupported(file, "sample_max_value", config["sample_max_value"])
        return True
    clips = name != "DPMSolverMultistepScheduler" and bool(config.get("clip_sample", True))
    if clips and config.get("clip_sample_range", 1.0) != 1:
        raise _unsupported(file, "clip_sample_range", config["clip_sample_range"])
    return clips


def _unsupported(file: Path, option: str, value: Any) -> CheckpointError:
    return CheckpointError(f"{file}: {option}={printable(str(value))[:80]} is not supported")
