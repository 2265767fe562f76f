"""Import of a checkpoint of JiT (Li & He 2025): a state dict of its network, or a file of its training with averages.

All sizes follow from the tensors. Its process is the straight path from noise to image, its loss that of the velocity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from diffusion_lab.diffusion import RectifiedSchedule
from diffusion_lab.interop.checkpoints import Imported, require, written
from diffusion_lab.interop.transformer_weights import from_jit

_NETWORK = "net."  # names of the network's parameters begin so in a training's file
_READ = {  # name in a state dict of JiT -> number of its axes
    "x_embedder.proj1.weight": 4,
    "y_embedder.embedding_table.weight": 2,
    "t_embedder.mlp.0.bias": 1,
    "blocks.0.attn.q_norm.weight": 1,
    "pos_embed": 3,
    "final_layer.linear.bias": 1,
}
_SCHEDULE = RectifiedSchedule(1000, log_snr_min=-16)  # to u = 0.9997
_STEP = float(_SCHEDULE.pair(torch.ones(1, dtype=torch.float64))[1])  # of u
_LARGEST = 256  # pixels; larger ones were trained with noise of twice the scale


def is_jit(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of a JiT."""
    names = {name.removeprefix(_NETWORK) for name in tensors}
    return _READ.keys() <= names


def opened(file: Path, tensors: Mapping[str, Tensor]) -> Imported:
    """The model with these tensors. CheckpointError, in one sentence, if it cannot be imported."""
    known = {name.removeprefix(_NETWORK): tensor for name, tensor in tensors.items()}
    for name, axes in _READ.items():
        require(known[name].ndim == axes and known[name].numel(), f"checkpoint={file}: {name} has not {axes} axes")
    proj, classes = known["x_embedder.proj1.weight"], known["y_embedder.embedding_table.weight"]
    width, head = len(known["t_embedder.mlp.0.bias"]), len(known["blocks.0.attn.q_norm.weight"])
    patch, side = proj.shape[2], math.isqrt(known["pos_embed"].shape[1]) * proj.shape[2]
    context = known.get("in_context_posemb")
    require(context is None or context.ndim == 3, f"checkpoint={file}: in_context_posemb has not 3 axes")
    said = f"checkpoint={file}: a JiT for {side}×{side} pixels, whose noise has another scale; only up to {_LARGEST} are imported"
    require(side <= _LARGEST, said)
    require(width % head == 0, f"checkpoint={file}: heads of {head} channels do not divide a width of {width}")
    options = {
        "width": width,
        "num_heads": width // head,
        "num_blocks": sum(name.endswith(".attn.q_norm.weight") for name in known),
        "patch_size": patch,
        "bottleneck": len(proj),
        "num_context": 0 if context is None else context.shape[1],
        "timestep_scale": _STEP,
    }
    return Imported(
        options=(
            *("model=diffusion", "network=diffusion/jit", "schedule=rectified"),
            f"schedule.num_timesteps={_SCHEDULE.num_timesteps}",
            *("schedule.log_snr_max=null", f"schedule.log_snr_min={_SCHEDULE.log_snr_min}"),
            *("prediction=start", "weighting=flow", "objective=simple", "variance=fixed_small", "decoder=gaussian"),
            *("timesteps=logit_normal", "timesteps.mean=0.8", "timesteps.std=0.8", "sampler=heun"),
            *("condition=classes", "model.condition_dropout=0.1", "model.clip_x_0=false"),
            *(f"network.{name}={written(value)}" for name, value in options.items()),
        ),
        shape=(proj.shape[1], side, side),
        num_classes=len(classes) - 1,
        tensors=known,
        weights=partial(from_jit, known, what=f"checkpoint={file}", step=_STEP),
        file=file,
        origin={"code": "JiT"},
    )
