"""A diffusion model as the files of a diffusers pipeline: model_index.json, pipeline.py, scheduler/ and unet/.

Where the network has learned no variance and has no classes, and all its norms have as many groups, diffusers' own pipelines read
the folder too. Where the groups differ, unet/ also has the class of the network, grouped_unet.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save
from torch import Tensor

from diffusion_lab.interop.unet2d import unet2d_config, unet2d_weights
from diffusion_lab.networks import diffusers_unet

if TYPE_CHECKING:
    from diffusion_lab.models.base import GenerativeModel
    from diffusion_lab.models.diffusion import DiffusionModel

_PIPELINE = Path(__file__).with_name("pipeline.py")  # is copied, and imported by diffusers only
_GROUPED_UNET = Path(diffusers_unet.__file__).with_name("grouped_unet.py")  # likewise
_VERSION = "0.30.0"  # of diffusers, in the files
_ELSE = "export with format=program"
_NUM_STEPS = 50  # of DDIM, for a model whose sampler gets by with fewer


def to_diffusers(model: GenerativeModel) -> dict[str, bytes]:
    """Name of a file -> its content, with the weights that the model has now.

    ValueError, in one sentence, where diffusers has no such model.
    """
    if not hasattr(model, "process"):
        raise ValueError(f"diffusers has no pipeline for a {type(model).__name__}: {_ELSE}")
    if len(model.shape) != 3:
        raise ValueError(f"diffusers' pipelines draw images, and this model draws points: {_ELSE}")
    unet = unet2d_config(model.network, model.shape)
    is_grouped = unet["_class_name"] == diffusers_unet.GROUPED
    index = {
        "_class_name": [_PIPELINE.stem, "DiffusionLabPipeline"],
        "_diffusers_version": _VERSION,
        "unet": [_GROUPED_UNET.stem if is_grouped else "diffusers", unet["_class_name"]],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "num_inference_steps": _num_steps(model),
        "guidance_scale": _guidance_scale(model),
    }
    return {
        "model_index.json": _json(index),
        _PIPELINE.name: _PIPELINE.read_bytes(),
        "scheduler/scheduler_config.json": _json(_scheduler(model)),
        "unet/config.json": _json({**unet, "_diffusers_version": _VERSION}),
        "unet/diffusion_pytorch_model.safetensors": save(unet2d_weights(model.network), {"format": "pt"}),
        **({f"unet/{_GROUPED_UNET.name}": _GROUPED_UNET.read_bytes()} if is_grouped else {}),
    }


def _num_steps(model: DiffusionModel) -> int:
    """Those of the model's sampler, unless its order is higher than that of DDIM, which then needs more."""
    return (
        len(model.sampler.spacing(model.process))
        if model.sampler.order == 1
        else min(_NUM_STEPS, model.process.num_timesteps)
    )


def _scheduler(model: DiffusionModel) -> dict[str, Any]:
    process = model.process
    t = torch.arange(1, process.num_timesteps + 1)
    if not process.has_unit_variance:
        raise ValueError(
            f"diffusers' DDPM and DDIM need α_t² + σ_t² = 1, which schedule {type(model.schedule).__name__} does not have: {_ELSE}"
        )
    if not torch.equal(process.network_time(t).double(), (t - 1).double()):
        raise ValueError(
            f"with schedule {type(model.schedule).__name__} the network does not get integer t, as diffusers' networks do: {_ELSE}"
        )
    if model.start.needs_data_moments:
        raise ValueError(f"diffusers' chains start from N(0, I): export with start=noise, or {_ELSE}")
    return {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": _VERSION,
        "num_train_timesteps": process.num_timesteps,
        "trained_betas": process.beta(t).tolist(),
        "prediction_type": _prediction_type(model, t),
        "clip_sample": _clips(model),
        "clip_sample_range": 1.0,
        "set_alpha_to_one": True,
        "timestep_spacing": "trailing",  # with "linspace" its DDIM steps to a time that it does not visit next
    }


def _prediction_type(model: DiffusionModel, t: Tensor) -> str:
    """What diffusers calls an output a·x_0 + b·ε."""
    process = model.process
    signal, noise = process.pair(t)
    named = {
        "epsilon": (torch.zeros_like(noise), torch.ones_like(noise)),
        "sample": (torch.ones_like(noise), torch.zeros_like(noise)),
        "v_prediction": (-noise, signal),
    }
    found = model.reverse.prediction.coefficients(process, t)
    own = [torch.as_tensor(part, dtype=torch.float64).expand_as(noise) for part in found]
    for name, parts in named.items():
        if all(torch.allclose(ours, theirs) for ours, theirs in zip(own, parts, strict=True)):
            return name
    raise ValueError(
        f"prediction {type(model.reverse.prediction).__name__} is not one of diffusers' ({', '.join(named)}): {_ELSE}"
    )


def _clips(model: DiffusionModel) -> bool:
    """Whether x̂_0 is clamped to [−1, 1] or left alone: tried on an image, as diffusers can do nothing else."""
    guess = torch.linspace(-3, 3, 16).view(1, 1, 4, 4)
    shown = model.reverse.clip_x_0(guess)
    for clips, wanted in ((True, guess.clamp(-1, 1)), (False, guess)):
        if torch.equal(shown, wanted):
            return clips
    raise ValueError(f"the pipeline does not support model.clip_x_0={model.reverse.clip_x_0}: {_ELSE}")


def _guidance_scale(model: DiffusionModel) -> float:
    """1 is no guidance."""
    guidance = model.guided.guidance
    if not guidance.guides:
        return 1.0
    alone = guidance.worse is None and guidance.interval is None and guidance.log_snr_interval is None
    if guidance.needs_null_class and alone:
        return float(guidance.scale)
    raise ValueError(
        f"the pipeline does not support guidance {guidance!r}: export with guidance=none, guidance=classifier_free, or {_ELSE}"
    )


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
