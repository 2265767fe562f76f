"""The config of a scheduler of diffusers as options of ours: schedule, prediction, variance, clipping, sampler.

How its own sampling visits the steps (timestep_spacing, steps_offset, set_alpha_to_one, Karras sigmas, …) is left to our samplers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.interop.betas import schedule_options
from diffusion_lab.interop.checkpoints import CheckpointError
from diffusion_lab.interop.imported import MOST_STEPS
from diffusion_lab.store.records import printable

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
