"""Import of a checkpoint of openai/improved-diffusion or openai/guided-diffusion: a state dict, and flags for its network.

The flags of the published files, by name, are in openai_flags.yaml.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import yaml
from torch import Tensor

from diffusion_lab.interop.checkpoints import CheckpointError, Imported, require, written
from diffusion_lab.interop.openai_weights import to_our_network

TAKES = frozenset(("flags", "code"))  # options of the command
IMPROVED, GUIDED = CODES = "improved_diffusion", "guided_diffusion"

_FLAGS_OF_FILES = yaml.safe_load(Path(__file__).with_name("openai_flags.yaml").read_text(encoding="utf-8"))
PRESETS: dict[str, tuple[str, str]] = {  # published file -> code, flags
    name: (code, flags) for code, files in _FLAGS_OF_FILES.items() for name, flags in files.items()
}
# Upsamplers, which also need a smaller image as input; no network here does.
_UPSAMPLERS = ("upsample_cond_500K", "64_256_upsampler", "128_512_upsampler")

# Code -> its flags with their default values.
_BOTH = (
    "--learn_sigma False --diffusion_steps 1000 --noise_schedule linear --timestep_respacing '' --use_kl False "
    "--predict_xstart False --image_size 64 --num_channels 128 --num_res_blocks 2 --num_heads 4 --num_heads_upsample -1 "
    "--attention_resolutions 16,8 --dropout 0.0 --class_cond False --use_checkpoint False --use_scale_shift_norm True "
)
_FLAGS = {
    IMPROVED: f"{_BOTH} --sigma_small False --rescale_timesteps True --rescale_learned_sigmas True",
    GUIDED: f"{_BOTH} --rescale_timesteps False --rescale_learned_sigmas False --num_head_channels -1 --channel_mult '' "
    "--resblock_updown False --use_fp16 False --use_new_attention_order False --classifier_width 128 --classifier_depth 2 "
    "--classifier_attention_resolutions 32,16,8 --classifier_use_scale_shift_norm True --classifier_resblock_updown True "
    "--classifier_pool attention --classifier_use_fp16 False",
}
# Flags of training, sampling and files, which affect neither the network nor its process.
_BESIDE = (
    "data_dir schedule_sampler lr weight_decay lr_anneal_steps batch_size microbatch ema_rate log_interval save_interval "
    "resume_checkpoint fp16_scale_growth iterations anneal_lr noised clip_denoised num_samples use_ddim model_path "
    "classifier_path classifier_scale val_data_dir"
)
_LEVELS = {
    32: (1, 2, 2, 2),
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
}
_WITH_LEVELS = {IMPROVED: (32, 64, 256), GUIDED: (64, 128, 256, 512)}
_TRUE, _FALSE = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")
_STEPS = 50  # number of sampling steps if the flags have none
_LOGITS, _LABELS = "out.2.c_proj.bias", "label_emb.weight"  # their length is the number of classes


def opened(file: Path, tensors: Mapping[str, Tensor], given: Mapping[str, str]) -> Imported:
    """The model in `file`, which holds `tensors`. given: the user's options of `TAKES`.

    CheckpointError, in one sentence, if it cannot be imported.
    """
    code, flags = _code_and_flags(file, given.get("code"), given.get("flags"))
    found = described(code, flags, classifier=_LOGITS in tensors)
    return Imported(
        options=found.options,
        shape=(3, found.image_size, found.image_size),
        num_classes=_num_classes(tensors) if found.conditional else None,
        tensors=tensors,
        weights=partial(to_our_network, tensors, legacy_heads=found.legacy_heads),
        file=file,
        origin={"code": code, "flags": flags},
    )


def _code_and_flags(path: Path, code: str | None, flags: str | None) -> tuple[str, str]:
    """The given flags, or those of the published file with this name. CheckpointError if there are none."""
    said = f"checkpoint={path}: upsamplers cannot be imported, because they need a smaller image as a second input"
    require(path.stem not in _UPSAMPLERS, said)
    preset = PRESETS.get(path.stem)
    if flags is None:
        if preset is not None:
            return preset
        raise CheckpointError(
            f"checkpoint={path}: no published file is called {path.stem}; give its flags, as in "
            'flags="--image_size 64 --num_channels 128" code=improved_diffusion'
        )
    code = code or (GUIDED if only_guided(flags) else preset[0] if preset is not None else None)
    if code is None:
        raise CheckpointError(
            "flags: the two repositories read them differently; add code=improved_diffusion or code=guided_diffusion"
        )
    return code, flags


def _num_classes(tensors: Mapping[str, Any]) -> int:
    """The number of logits, or of rows in the table of labels; 1000 without either, which the weights then do not fit."""
    rows = tensors.get(_LOGITS, tensors.get(_LABELS))
    return 1000 if rows is None or rows.ndim == 0 else len(rows)


@dataclass(frozen=True)
class Described:
    """The model that the flags describe. options: Hydra overrides. legacy_heads: whether rows of qkv are grouped by head."""

    options: tuple[str, ...]
    image_size: int
    conditional: bool
    legacy_heads: bool


def described(code: str, flags: str, classifier: bool) -> Described:
    """The model, or the classifier, that `code` builds from these flags. CheckpointError if none here is equal to it."""
    values = _values(code, flags)
    size, steps, schedule = values["image_size"], values["diffusion_steps"], values["noise_schedule"]
    require(steps >= 1, f"flags: --diffusion_steps {steps}: use at least 1")
    require(schedule in ("linear", "cosine"), f"flags: --noise_schedule {schedule}: use linear or cosine")
    process = [f"schedule={schedule}", f"schedule.num_timesteps={steps}", "schedule.log_snr_max=null"]
    if classifier:
        parts = ["model=noisy_classifier", "network=noisy_classifier/published", "timesteps=uniform"]
        network, conditional, legacy = _classifier_network(values), True, True
    else:
        conditional, legacy = values["class_cond"], not values.get("use_new_attention_order", False)
        parts = ["model=diffusion", "network=diffusion/published", "timesteps=uniform", "decoder=gaussian"]
        parts += [f"condition={'classes' if conditional else 'none'}", "model.condition_dropout=0"]
        parts += [
            f"prediction={'start' if values['predict_xstart'] else 'noise'}",
            *_variance(values),
            *_sampler(values),
        ]
        network = _network(code, values) | ({"null_class": False} if conditional else {})
    options = (*parts, *process, *(f"network.{name}={written(value)}" for name, value in network.items()))
    return Described(options, size, conditional, legacy)


def only_guided(flags: str) -> bool:
    """Whether there is a flag that guided-diffusion has and improved-diffusion lacks."""
    own = {*_FLAGS[GUIDED].split()} - {*_FLAGS[IMPROVED].split()}
    return any(word.partition("=")[0] in own for word in flags.split() if word.startswith("--"))


class _Flags(argparse.ArgumentParser):
    """A parser of the published flags, which raises CheckpointError."""

    def error(self, message: str) -> NoReturn:
        raise CheckpointError(f"flags: {self.prog}: {message}")


def _values(code: str, flags: str) -> dict[str, Any]:
    """Every flag with its value."""
    require(code in CODES, f"code={code}: choose {' or '.join(CODES)}")
    parser = _Flags(code, add_help=False, allow_abbrev=False)
    known = shlex.split(_FLAGS[code])
    for flag, default in zip(known[::2], known[1::2], strict=True):
        parser.add_argument(flag, type=_type_of(default), default=default)
    for name in _BESIDE.split():
        parser.add_argument(f"--{name}")
    try:
        words = shlex.split(flags)
    except ValueError as error:
        raise CheckpointError(f"flags: {error}") from None
    return vars(parser.parse_args(words))


def _type_of(default: str) -> Callable[[str], bool | int | float | str]:
    if default in ("True", "False"):
        return _boolean
    if not re.fullmatch(r"-?[\d.]+", default):
        return str
    return float if "." in default else int


def _boolean(text: str) -> bool:
    if text.lower() not in (*_TRUE, *_FALSE):
        raise argparse.ArgumentTypeError(f"{text}: use True or False")
    return text.lower() in _TRUE


def _levels(code: str, size: int, multipliers: str) -> list[int | float]:
    """The width of each level, in num_channels."""
    if multipliers:
        return [*_numbers("channel_mult", multipliers)]
    said = f"flags: --image_size {size}: {code} has networks only for {_WITH_LEVELS[code]} pixels a side"
    require(size in _WITH_LEVELS[code], said)
    return [*_LEVELS[size]]


def _network(code: str, values: Mapping[str, Any]) -> dict[str, Any]:
    fits = values["num_heads_upsample"] in (-1, values["num_heads"])
    require(fits, "flags: --num_heads_upsample is supported only if it equals --num_heads")
    levels = _levels(code, values["image_size"], values.get("channel_mult", ""))
    by_channels = values.get("num_head_channels", -1) != -1
    heads = {"head_channels": values["num_head_channels"]} if by_channels else {"num_heads": values["num_heads"]}
    return heads | {
        **_widths(levels, values["num_channels"]),
        "num_res_blocks": values["num_res_blocks"],
        "attention_resolutions": _attending("attention_resolutions", values, len(levels)),
        "dropout": values["dropout"],
        "activation_checkpointing": values["use_checkpoint"],
        "additive_embedding": not values["use_scale_shift_norm"],
        "residual_resampling": values.get("resblock_updown", False),
        **_of_both(values),
    }


def _classifier_network(values: Mapping[str, Any]) -> dict[str, Any]:
    pool = values["classifier_pool"]
    require(pool == "attention", f"flags: --classifier_pool {pool}: only attention is supported")
    levels = _levels(GUIDED, values["image_size"], "")
    return {
        **_widths(levels, values["classifier_width"]),
        "num_res_blocks": values["classifier_depth"],
        "attention_resolutions": _attending("classifier_attention_resolutions", values, len(levels)),
        "head_channels": 64,
        "additive_embedding": not values["classifier_use_scale_shift_norm"],
        "residual_resampling": values["classifier_resblock_updown"],
        **_of_both(values),
        "pool_positions": True,
    }


def _of_both(values: Mapping[str, Any]) -> dict[str, Any]:
    scale = 1000 / values["diffusion_steps"] if values["rescale_timesteps"] else 1.0
    return {"num_groups": 32, "timestep_scale": scale}


def _widths(levels: list[int | float], channels: int) -> dict[str, Any]:
    """Our multipliers are integers relative to the finest level; the sinusoids of t always have num_channels."""
    base, widths = int(levels[0] * channels), [int(level * channels) for level in levels]
    fits = base >= 1 and not any(width % base for width in widths)
    require(fits, f"flags: levels of {widths} channels: each must be a multiple of the first")
    multipliers = [width // base for width in widths]
    return {"base_channels": base, "channel_multipliers": multipliers, "embedding_channels": channels}


def _attending(flag: str, values: Mapping[str, Any], num_levels: int) -> list[int]:
    """Sides in pixels with attention; resolutions that the network lacks are ignored, as in the published code."""
    size = values["image_size"]
    strides = {size // side for side in _numbers(flag, values[flag])}
    return [size // 2**level for level in range(num_levels) if 2**level in strides]


def _numbers(flag: str, text: str) -> list[int]:
    numbers = [int(number) if number.strip().isdecimal() else 0 for number in text.split(",")]
    require(min(numbers) > 0, f"flags: --{flag} {text}: use a list of whole numbers, such as 32,16,8")
    return numbers


def _variance(values: Mapping[str, Any]) -> list[str]:
    """Σ and the loss that trained it. Without rescaling, the term of the bound has a weight T times smaller."""
    if not values["learn_sigma"]:
        variance = "fixed_small" if values.get("sigma_small", False) else "fixed_large"
        return [f"variance={variance}", f"objective={'vlb' if values['use_kl'] else 'simple'}"]
    if values["use_kl"]:
        return ["variance=learned_jointly", "objective=vlb"]
    weight = 0.001 if values["rescale_learned_sigmas"] else 1 / values["diffusion_steps"]
    return ["variance=learned_jointly", "objective=hybrid", f"objective.vlb_weight={weight!r}"]


def _sampler(values: Mapping[str, Any]) -> list[str]:
    respacing = values["timestep_respacing"] or str(min(_STEPS, values["diffusion_steps"]))
    steps = respacing.removeprefix("ddim")
    said = f"flags: --timestep_respacing {respacing}: only one number of steps is supported, such as 250"
    require(steps.isdecimal(), said)
    sampler = "ddim" if respacing.startswith("ddim") else "strided"
    return [f"sampler={sampler}", f"sampler.spacing.num_steps={int(steps)}"]
