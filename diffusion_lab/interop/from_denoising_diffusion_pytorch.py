"""Import of a milestone of denoising-diffusion-pytorch, the model-N.pt that its Trainer writes.

    {"step", "model", "opt", "ema", "scaler", "version"}
    model: "betas" and other tables of its GaussianDiffusion, and "model.*", the parameters of its Unet
    ema:   the same below "ema_model.", the average used for sampling

The file holds no options. Those of the network follow from the shapes of its parameters, the schedule from `betas`, and the
prediction from `loss_weight`, which is a different function of the SNR for each. The size of images must be given by the user.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.interop.checkpoints import (
    CheckpointError,
    Imported,
    image_size_of,
    require,
    schedule_options,
    tensors_in,
    wrapped_weights,
    written,
)
from diffusion_lab.store.records import printable

TAKES = frozenset(("image_size", "weights"))  # options of the command
_EMA, _MODEL = "ema", "model"  # the two weights, as the file calls them
_NETWORK = "model."
_STEPS = 50  # initial number of sampling steps
_FOREIGN = {  # a parameter -> the reason why it is not supported
    "time_mlp.0.weights": "learned or random frequencies of t, which its GaussianDiffusion does not support",
    "classes_emb.weight": "classes",
    "null_classes_emb": "classes",
}


def is_milestone(saved: Mapping[str, Any]) -> bool:
    """Whether the content is that of the package's Trainer or `GaussianDiffusion`."""
    return isinstance(saved.get(_MODEL), dict) or f"{_NETWORK}init_conv.weight" in saved


def opened(file: Path, saved: Mapping[str, Any], given: Mapping[str, str]) -> Imported:
    """The model in `saved`, read from `file`. given: the user's options of `TAKES`, and their prediction.

    CheckpointError, in one sentence, if it is none, or if information is missing.
    """
    which, found = _chosen(saved, given.get("weights"), file)
    network = {name.removeprefix(_NETWORK): tensor for name, tensor in found.items() if name.startswith(_NETWORK)}
    options, channels, doubled = _described(network, file)
    said = f"checkpoint={file} does not say how large its images are: add image_size=32, or image_size=[height,width]"
    require("image_size" in given, said)
    height, width = image_size_of(given["image_size"])
    factor = 2 ** (len(options["dim_mults"]) - 1)
    said = f"image_size={given['image_size']}: this network needs sides that are divisible by {factor}"
    require(height % factor == width % factor == 0, said)
    betas = _table(found, "betas", file)
    prediction = given.get("prediction") or _prediction(found, betas, file)
    variance = ("learned_jointly", "hybrid") if doubled else ("fixed_small", "simple")
    version = saved.get("version")  # a list that contains itself many times would be endless as text
    notes = ("it is self-conditioned, and is used without: its network gets zeros in place of the last prediction",)
    return Imported(
        options=(
            *("model=diffusion", "network=diffusion/denoising_diffusion_pytorch"),
            *("timesteps=uniform", "decoder=gaussian"),
            *("condition=none", "model.condition_dropout=0", "model.clip_x_0=true", f"prediction={prediction}"),
            *(f"variance={variance[0]}", f"objective={variance[1]}"),
            *(f"network.{name}={written(value)}" for name, value in options.items()),
            *schedule_options(betas, prediction, file),
            *("sampler=strided", f"sampler.spacing.num_steps={min(_STEPS, len(betas))}"),
        ),
        shape=(channels, height, width),
        num_classes=None,
        tensors=network,
        weights=partial(wrapped_weights, tensors=network, inside="unet.", file=file),
        file=file,
        which=which,
        origin={
            "code": "denoising_diffusion_pytorch",
            "weights": which,
            "version": printable(version)[:40] if isinstance(version, str) else "unknown",
        },
        notes=notes if options["self_condition"] else (),
    )


def _chosen(saved: Mapping[str, Any], requested: str | None, file: Path) -> tuple[str, dict[str, Tensor]]:
    """(name of the weights, the state dict of its GaussianDiffusion): the average, unless the user chooses the others."""
    require(requested in (None, _EMA, _MODEL), f"weights={printable(requested or '')}: use {_EMA} or {_MODEL}")
    if not isinstance(saved.get(_MODEL), dict):
        said = f"checkpoint={file} has only one set of weights and no average; remove weights={_EMA}"
        require(requested != _EMA, said)
        return _MODEL, tensors_in(saved, file)
    which = requested or _EMA
    part = saved.get(which)
    if not isinstance(part, dict):
        raise CheckpointError(f"checkpoint={file} has no {which}: add weights={_MODEL if which == _EMA else _EMA}")
    if which == _EMA:
        averaged = f"{_EMA}_model."
        part = {name.removeprefix(averaged): value for name, value in part.items() if str(name).startswith(averaged)}
    return which, tensors_in(part, file)


def _described(network: Mapping[str, Tensor], file: Path) -> tuple[dict[str, Any], int, bool]:
    """(options of the network, channels of an image, whether a second output per channel is for the variance), from the shapes."""
    for name, what in _FOREIGN.items():
        require(name not in network, f"checkpoint={file}: its network has {what}; it cannot be imported")
    init_dim, seen = _shape(network, "init_conv.weight", 4, file)[:2]
    made = _shape(network, "final_conv.weight", 4, file)[0]
    self_condition, doubled = seen == 2 * made, made == 2 * seen
    fits = seen == made or self_condition or doubled
    require(fits, f"checkpoint={file}: a network with {seen} channels in and {made} out cannot be imported")
    dim = _shape(network, "time_mlp.1.weight", 2, file)[0] // 4
    levels = len({name.split(".")[1] for name in network if name.startswith("downs.")})
    widths = [
        _shape(network, f"downs.{level}.3.weight" if level == levels - 1 else f"downs.{level}.3.1.weight", 4, file)[0]
        for level in range(levels)
    ]
    fits = bool(widths) and dim >= 1 and not any(width % dim for width in widths)
    require(fits, f"checkpoint={file}: levels of {widths} channels are not multiples of {dim}")
    full = [f"downs.{level}.2.to_out.weight" in network for level in range(levels)]
    memories = [_shape(network, f"downs.{level}.2.mem_kv", 4, file) for level in range(levels)]
    options = {
        "dim": dim,
        "init_dim": init_dim,
        "dim_mults": [width // dim for width in widths],
        "full_attn": full,
        "attn_heads": [shape[1] for shape in memories],
        "attn_dim_head": [shape[3 if whole else 2] for shape, whole in zip(memories, full, strict=True)],
        "self_condition": self_condition,
    }
    return options, min(seen, made), doubled


def _shape(network: Mapping[str, Tensor], name: str, dimensions: int, file: Path) -> tuple[int, ...]:
    tensor = network.get(name)
    if tensor is None or tensor.ndim != dimensions or 0 in tensor.shape:
        raise CheckpointError(
            f"checkpoint={file} is not from the Unet of denoising-diffusion-pytorch 2: "
            f"{name} {'is missing' if tensor is None else f'is {tuple(tensor.shape)}'}"
        )
    return tuple(tensor.shape)


def _table(found: Mapping[str, Tensor], name: str, file: Path) -> Tensor:
    table = found.get(name)
    if table is None or table.ndim != 1 or not table.is_floating_point() or not table.isfinite().all():
        raise CheckpointError(f"checkpoint={file} states no {name}: only models of its GaussianDiffusion are imported")
    return table.double()


def _prediction(found: Mapping[str, Tensor], betas: Tensor, file: Path) -> str:
    """The prediction, by the weight of the loss at t: 1, SNR or SNR/(SNR + 1), possibly clipped for SNR > 1."""
    alpha_bar = torch.cumprod(1 - betas, dim=0)
    snr = alpha_bar / (1 - alpha_bar)
    weight = found.get("loss_weight")
    if weight is not None and weight.shape == betas.shape:
        noisy = snr < 1
        for name, expected in (("noise", torch.ones_like(snr)), ("start", snr), ("velocity", snr / (snr + 1))):
            if bool(noisy.any()) and torch.allclose(weight.double()[noisy], expected[noisy], rtol=0.02, atol=1e-12):
                return name
    raise CheckpointError(
        f"checkpoint={file} does not say what its network predicts: add prediction=noise, prediction=start or prediction=velocity"
    )
