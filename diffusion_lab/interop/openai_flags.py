"""Flags of openai/improved-diffusion and openai/guided-diffusion, as their authors publish them, as options of this package."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusion_lab.interop.checkpoints import CheckpointError
from diffusion_lab.interop.openai_presets import GUIDED, IMPROVED

CODES = (IMPROVED, GUIDED)
Value = bool | int | float | str

_PROCESS: dict[str, Value] = {
    "learn_sigma": False,
    "diffusion_steps": 1000,
    "noise_schedule": "linear",
    "timestep_respacing": "",
    "use_kl": False,
    "predict_xstart": False,
}
_NETWORK: dict[str, Value] = {
    "image_size": 64,
    "num_channels": 128,
    "num_res_blocks": 2,
    "num_heads": 4,
    "num_heads_upsample": -1,
    "attention_resolutions": "16,8",
    "dropout": 0.0,
    "class_cond": False,
    "use_checkpoint": False,
    "use_scale_shift_norm": True,
}
_OF_GUIDED: dict[str, Value] = {
    "num_head_channels": -1,
    "channel_mult": "",
    "resblock_updown": False,
    "use_fp16": False,
    "use_new_attention_order": False,
}
_OF_CLASSIFIER: dict[str, Value] = {
    "classifier_width": 128,
    "classifier_depth": 2,
    "classifier_attention_resolutions": "32,16,8",
    "classifier_use_scale_shift_norm": True,
    "classifier_resblock_updown": True,
    "classifier_pool": "attention",
    "classifier_use_fp16": False,
}
# Code -> flag -> its value where it is not given.
_DEFAULTS: dict[str, dict[str, Value]] = {
    IMPROVED: {
        **_PROCESS,
        **_NETWORK,
        "sigma_small": False,
        "rescale_timesteps": True,
        "rescale_learned_sigmas": True,
    },
    GUIDED: {
        **_PROCESS,
        **_NETWORK,
        **_OF_GUIDED,
        **_OF_CLASSIFIER,
        "rescale_timesteps": False,
        "rescale_learned_sigmas": False,
    },
}
# Of training, sampling and files: they change neither the network nor its process.
_BESIDE = frozenset(
    (
        *(
            "data_dir",
            "schedule_sampler",
            "lr",
            "weight_decay",
            "lr_anneal_steps",
            "batch_size",
            "microbatch",
            "ema_rate",
        ),
        *(
            "log_interval",
            "save_interval",
            "resume_checkpoint",
            "fp16_scale_growth",
            "iterations",
            "anneal_lr",
            "noised",
        ),
        *(
            "clip_denoised",
            "num_samples",
            "use_ddim",
            "model_path",
            "classifier_path",
            "classifier_scale",
            "val_data_dir",
        ),
    )
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
_STEPS = 50  # to sample in, where the flags do not say
_WIDEST = 2**13  # channels; what is larger could not be allocated, to be found too large
_MOST = 2**16  # of a number; a network that large does not exist


@dataclass(frozen=True)
class Described:
    """What the flags say. options: Hydra overrides that make the model. legacy_heads: how rows of qkv are stored."""

    options: tuple[str, ...]
    image_size: int
    conditional: bool
    legacy_heads: bool


def described(code: str, flags: str, classifier: bool) -> Described:
    """The model, or the classifier, that `code` makes of these flags. CheckpointError where none here is like it."""
    values = _values(code, flags)
    size = values["image_size"]
    if classifier:
        if values["classifier_pool"] != "attention":
            raise CheckpointError(f"flags: --classifier_pool {values['classifier_pool']}: only attention is supported")
        network = _classifier_network(values)
        parts = ["model=noisy_classifier", "network=noisy_classifier/published", "timesteps=uniform"]
        return Described((*parts, *_schedule(values), *_set("network", network)), size, True, legacy_heads=True)
    conditional = values["class_cond"]
    network = _network(code, values) | ({"null_class": False} if conditional else {})
    parts = ["model=diffusion", "network=diffusion/published", "timesteps=uniform", "decoder=gaussian"]
    parts += [f"conditional={str(conditional).lower()}", "model.label_dropout=0"]
    parts += [f"prediction={'start' if values['predict_xstart'] else 'noise'}", *_variance(values), *_sampler(values)]
    legacy = not values.get("use_new_attention_order", False)
    return Described((*parts, *_schedule(values), *_set("network", network)), size, conditional, legacy)


def only_guided(flags: str) -> bool:
    """Whether a flag stands there that improved-diffusion does not have and guided-diffusion has."""
    own = _DEFAULTS[GUIDED].keys() - _DEFAULTS[IMPROVED].keys()
    return any(word.partition("=")[0].removeprefix("--") in own for word in flags.split())


def _values(code: str, flags: str) -> dict[str, Any]:
    """Every flag with its value; of one that is given twice the last counts."""
    if code not in CODES:
        raise CheckpointError(f"code={code}: choose {' or '.join(CODES)}")
    known = _DEFAULTS[code]
    values = dict(known)
    try:
        words = shlex.split(flags.replace("=", " "))
    except ValueError as error:
        raise CheckpointError(f"flags: {error}") from None
    if len(words) % 2:
        raise CheckpointError("flags: each flag needs a value, as in --image_size 64 --learn_sigma True")
    for flag, value in zip(words[::2], words[1::2], strict=True):
        name = flag.removeprefix("--")
        if not flag.startswith("--"):
            raise CheckpointError(f"flags: {flag} is not a flag; write --name value")
        if name in known:
            values[name] = _read(name, value, known[name])
        elif name not in _BESIDE:
            close = difflib.get_close_matches(name, known, n=1)
            raise CheckpointError(f"flags: {code} has no --{name}{f'; did you mean --{close[0]}?' if close else ''}")
    if values["diffusion_steps"] < 1:
        raise CheckpointError(f"flags: --diffusion_steps {values['diffusion_steps']}: use at least 1")
    return values


def _read(name: str, text: str, default: Value) -> Value:
    """A value of the kind of the default."""
    if isinstance(default, bool):
        if text.lower() not in (*_TRUE, *_FALSE):
            raise CheckpointError(f"flags: --{name} {text}: use True or False")
        return text.lower() in _TRUE
    if isinstance(default, str):
        return text
    try:
        value = type(default)(text)
    except ValueError:
        value = None
    if value is None or not abs(value) <= _MOST:
        raise CheckpointError(f"flags: --{name} {text}: use a number")
    return value


def _levels(code: str, values: Mapping[str, Any]) -> list[int | float]:
    """The width of each level, in num_channels."""
    size, given = values["image_size"], values.get("channel_mult", "")
    if given:
        return _numbers("channel_mult", given)
    if size not in _WITH_LEVELS[code]:
        raise CheckpointError(
            f"flags: --image_size {size}: {code} has networks only for {_WITH_LEVELS[code]} pixels a side"
        )
    return list(_LEVELS[size])


def _network(code: str, values: Mapping[str, Any]) -> dict[str, Any]:
    if values["num_heads_upsample"] not in (-1, values["num_heads"]):
        raise CheckpointError("flags: --num_heads_upsample is supported only if it equals --num_heads")
    levels = _levels(code, values)
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
        "num_groups": 32,
        "timestep_scale": 1000 / values["diffusion_steps"] if values["rescale_timesteps"] else 1.0,
    }


def _classifier_network(values: Mapping[str, Any]) -> dict[str, Any]:
    levels = _levels(GUIDED, {"image_size": values["image_size"]})
    return {
        **_widths(levels, values["classifier_width"]),
        "num_res_blocks": values["classifier_depth"],
        "attention_resolutions": _attending("classifier_attention_resolutions", values, len(levels)),
        "head_channels": 64,
        "additive_embedding": not values["classifier_use_scale_shift_norm"],
        "residual_resampling": values["classifier_resblock_updown"],
        "num_groups": 32,
        "timestep_scale": 1000 / values["diffusion_steps"] if values["rescale_timesteps"] else 1.0,
        "pool_positions": True,
    }


def _widths(levels: list[int | float], channels: int) -> dict[str, Any]:
    """Our multipliers are whole numbers, of the finest level; the sinusoids of t always have num_channels."""
    base = int(levels[0] * channels)
    widths = [int(level * channels) for level in levels]
    if base < 1 or any(width % base for width in widths):
        raise CheckpointError(f"flags: levels of {widths} channels: each must be a multiple of the first")
    if max(*widths, channels) > _WIDEST:
        raise CheckpointError(f"flags: levels of {widths} channels: at most {_WIDEST} are supported")
    multipliers = [width // base for width in widths]
    return {"base_channels": base, "channel_multipliers": multipliers, "embedding_channels": channels}


def _attending(flag: str, values: Mapping[str, Any], num_levels: int) -> list[int]:
    """Sides in pixels with attention, as ours; a resolution that the network never has is left out, as there."""
    size = values["image_size"]
    strides = {size // side for side in _numbers(flag, values[flag])}
    return [size // 2**level for level in range(num_levels) if 2**level in strides]


def _numbers(flag: str, text: str) -> list[int]:
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < number <= _MOST for number in numbers) or len(numbers) > 16:
        raise CheckpointError(f"flags: --{flag} {text}: use a list of whole numbers, such as 32,16,8")
    return numbers


def _schedule(values: Mapping[str, Any]) -> list[str]:
    name = values["noise_schedule"]
    if name not in ("linear", "cosine"):
        raise CheckpointError(f"flags: --noise_schedule {name}: use linear or cosine")
    return [f"schedule={name}", f"schedule.num_timesteps={values['diffusion_steps']}", "schedule.log_snr_max=null"]


def _variance(values: Mapping[str, Any]) -> list[str]:
    """Σ and the loss that trained it. Without rescaling, the bound's term counts T times less."""
    if not values["learn_sigma"]:
        variance = "fixed_small" if values.get("sigma_small", False) else "fixed_large"
        return [f"variance={variance}", f"objective={'vlb' if values['use_kl'] else 'simple'}"]
    if values["use_kl"]:
        return ["variance=learned_jointly", "objective=vlb"]
    weight = 0.001 if values["rescale_learned_sigmas"] else 1 / values["diffusion_steps"]
    return ["variance=learned_jointly", "objective=hybrid", f"objective.vlb_weight={weight!r}"]


def _sampler(values: Mapping[str, Any]) -> list[str]:
    respacing = values["timestep_respacing"]
    if not respacing:
        return ["sampler=strided", f"sampler.spacing.num_steps={min(_STEPS, values['diffusion_steps'])}"]
    steps = respacing.removeprefix("ddim")
    if not steps.isdecimal():
        raise CheckpointError(
            f"flags: --timestep_respacing {respacing}: only one number of steps is supported, such as 250"
        )
    sampler = "ddim" if respacing.startswith("ddim") else "strided"
    return [f"sampler={sampler}", f"sampler.spacing.num_steps={int(steps)}"]


def _set(group: str, values: Mapping[str, Any]) -> list[str]:
    """Overrides that give options of a group these values."""
    return [f"{group}.{name}={_written(value)}" for name, value in values.items()]


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else repr(value)
