"""State dicts of openai/improved-diffusion and openai/guided-diffusion as state dicts of our U-Net and our classifier.

The networks are the same functions; the parameters have other names and, in places, another shape or order:

    1×1 convolutions     (out, in, 1[, 1])                ours (out, in)
    legacy attention     rows of qkv are (head, q|k|v, c)  ours (q|k|v, head, c)
    attention pooling    qkv_proj in one, positions (C, 1 + pixels)      ours a query, a key_value, positions (1 + pixels, C)
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diffusion_lab.interop.checkpoints import CheckpointError
from diffusion_lab.networks import UNet
from diffusion_lab.networks.blocks import AttentionBlock, Downsample, ResidualBlock, Upsample
from diffusion_lab.networks.norm import GroupNorm
from diffusion_lab.store.records import printable

Pair = tuple[str, str]  # our name of a module, the published one

_INSIDE = {  # kind of a module -> the names of its layers: ours, published
    ResidualBlock: {
        "norm_1": "in_layers.0",
        "conv_1": "in_layers.2",
        "modulation": "emb_layers.1",
        "norm_2": "out_layers.0",
        "conv_2": "out_layers.3",
        "skip": "skip_connection",
    },
    AttentionBlock: {"norm": "norm", "qkv": "qkv", "project": "proj_out"},
    Downsample: {"": "op"},
    Upsample: {"": "conv"},
}


def to_our_network(published: Mapping[str, Tensor], network: nn.Module, legacy_heads: bool) -> dict[str, Tensor]:
    """The state dict of `network`, a `UNet` or the classifier of one, from a published state dict, in float32.

    legacy_heads: rows of qkv are head by head. CheckpointError, naming the first difference, where it is of another network.
    """
    own, expected = network.state_dict(), published_names(network)
    _check(published, published_shapes(network))
    found = {ours: published[theirs].reshape(own[ours].shape) for theirs, ours in expected.items()}
    if legacy_heads:
        for name, module in network.named_modules():
            if isinstance(module, AttentionBlock):
                for key in (f"{name}.qkv.weight", f"{name}.qkv.bias"):
                    found[key] = heads_last(found[key], module.num_heads)
    if "pool.positions" in own:
        found |= _pool(published)
    return {name: tensor.float().contiguous() for name, tensor in found.items()}


def published_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Published name -> shape, without the trailing 1s of a convolution, of every parameter of our network's counterpart."""
    own = network.state_dict()
    return {theirs: tuple(own[ours].shape) for theirs, ours in published_names(network).items()} | _pool_shapes(own)


def published_names(network: nn.Module) -> dict[str, str]:
    """Published name of a parameter -> ours, but for the pooling's."""
    own = network.state_dict().keys()
    pairs = ((f"{theirs}.{part}", f"{ours}.{part}") for ours, theirs in _names(network) for part in ("weight", "bias"))
    return {theirs: ours for theirs, ours in pairs if ours in own}


def heads_last(rows: Tensor, num_heads: int) -> Tensor:
    """(heads · 3 · c, …) -> (3 · heads · c, …): rows head by head become all queries, all keys, all values."""
    return rows.unflatten(0, (num_heads, 3, -1)).transpose(0, 1).flatten(0, 2)


def _check(published: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> None:
    missing, unknown = sorted(shapes.keys() - published.keys()), sorted(published.keys() - shapes.keys())
    if missing or unknown:
        differences = [f"it has no {missing[0]}"] if missing else []
        differences += [f"it has {printable(unknown[0])}, which that network does not have"] if unknown else []
        raise CheckpointError(
            f"the checkpoint does not fit the network that the flags describe: {', and '.join(differences)}"
        )
    for name, shape in shapes.items():
        tensor = published[name]
        there = tuple(tensor.shape)
        if there[: len(shape)] != tuple(shape) or set(there[len(shape) :]) - {1}:
            raise CheckpointError(
                f"the checkpoint does not fit the network that the flags describe: {name} is {there} in the file and "
                f"{tuple(shape)} in that network"
            )
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise CheckpointError(f"the checkpoint is damaged: {name} holds values that are not finite")


def _names(network: nn.Module) -> Iterator[Pair]:
    """Every layer that has parameters, but for the pooling's."""
    encoder = network.encoder
    yield "encoder.conditioning.time.0", "time_embed.0"
    yield "encoder.conditioning.time.2", "time_embed.2"
    yield "encoder.conditioning.classes", "label_emb"
    yield "encoder.input", "input_blocks.0.0"
    number = 1
    for level, blocks in enumerate(encoder.down):
        if level > 0:
            part = encoder.downsamples[level - 1]
            yield from _inside(part, f"encoder.downsamples.{level - 1}", f"input_blocks.{number}.0")
            number += 1
        for place, block in enumerate(blocks):
            for i, part in enumerate(block):
                yield from _inside(part, f"encoder.down.{level}.{place}.{i}", f"input_blocks.{number}.{i}")
            number += 1
    for i, part in enumerate(encoder.middle):
        yield from _inside(part, f"encoder.middle.{i}", f"middle_block.{i}")
    if hasattr(network, "up"):
        yield from _way_up(network)
        yield "output_norm", "out.0"
        yield "output", "out.2"


def _way_up(network: nn.Module) -> Iterator[Pair]:
    number = 0
    for level, blocks in enumerate(network.up):
        for place, block in enumerate(blocks):
            for i, part in enumerate(block):
                yield from _inside(part, f"up.{level}.{place}.{i}", f"output_blocks.{number}.{i}")
            if place == len(blocks) - 1 and level < len(network.upsamples):
                part = network.upsamples[level]
                yield from _inside(part, f"upsamples.{level}", f"output_blocks.{number}.{len(block)}")
            number += 1


def _inside(module: nn.Module, ours: str, theirs: str) -> Iterator[Pair]:
    for layer, published in _INSIDE[type(module)].items():
        yield f"{ours}.{layer}".rstrip("."), f"{theirs}.{published}"


def _pool_shapes(own: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Published name -> shape of the pooling's parameters; none for a network without."""
    if "pool.positions" not in own:
        return {}
    seen, channels = own["pool.positions"].shape
    num_logits = len(own["pool.project.bias"])
    return {
        "out.0.weight": (channels,),
        "out.0.bias": (channels,),
        "out.2.positional_embedding": (channels, seen),
        "out.2.qkv_proj.weight": (3 * channels, channels),
        "out.2.qkv_proj.bias": (3 * channels,),
        "out.2.c_proj.weight": (num_logits, channels),
        "out.2.c_proj.bias": (num_logits,),
    }


def _pool(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    channels = len(published["out.0.weight"])
    found = {
        "pool.norm.weight": published["out.0.weight"],
        "pool.norm.bias": published["out.0.bias"],
        "pool.positions": published["out.2.positional_embedding"].T,
        "pool.project.weight": published["out.2.c_proj.weight"].flatten(1),
        "pool.project.bias": published["out.2.c_proj.bias"],
    }
    for part in ("weight", "bias"):
        rows = published[f"out.2.qkv_proj.{part}"]
        query, key_value = torch.split(rows.flatten(1) if rows.ndim > 1 else rows, (channels, 2 * channels))
        found |= {f"pool.query.{part}": query, f"pool.key_value.{part}": key_value}
    return found


if TYPE_CHECKING:
    from diffusion_lab.models.base import GenerativeModel

_GROUPS = 32  # of every norm of theirs
_TRAILING = {"skip_connection.weight": 2, "qkv.weight": 1, "proj_out.weight": 1}  # 1s in the shape of a 1×1 convolution


def to_openai(model: GenerativeModel) -> tuple[bytes, dict[str, Any]]:
    """(the file, what UNetModel is built with), of the weights that the model has now.

    ValueError, in one sentence, where that class has no such network.
    """
    network = model.network
    if type(network) is not UNet:
        raise ValueError(f"openai's UNetModel is not a {type(network).__name__}: export with format=program")
    settings = _settings(network, model.shape)
    content = io.BytesIO()
    torch.save(to_published(network), content)
    return content.getvalue(), settings


def to_published(network: UNet) -> dict[str, Tensor]:
    """Published name -> parameter, float32 on the CPU, in the shapes of the published file."""
    own, found = network.state_dict(), {}
    for theirs, ours in published_names(network).items():
        trailing = next((count for end, count in _TRAILING.items() if theirs.endswith(end)), 0)
        tensor = own[ours].detach().float().cpu()
        found[theirs] = tensor.reshape(*tensor.shape, *[1] * trailing).contiguous()
    return found


def _settings(network: UNet, shape: tuple[int, ...]) -> dict[str, Any]:
    layout, conditioning = network.layout, network.encoder.conditioning
    groups = sorted({part.num_groups for part in network.modules() if isinstance(part, GroupNorm)} - {_GROUPS})
    if groups:
        raise ValueError(
            f"openai's UNetModel has {_GROUPS} groups in every norm, but this network has {groups[0]} in some: "
            "train with +network.num_groups=32, or with network.base_channels=128 or a multiple of it"
        )
    if network.encoder.features.frequencies:
        raise ValueError("openai's UNetModel has no network.fourier_periods: export with format=program")
    if shape[1] != shape[2] or shape[1] % 2 ** (len(layout.widths) - 1):
        raise ValueError(
            f"openai's UNetModel needs square images that can be halved evenly, not {shape[1]}×{shape[2]} pixels: export with "
            "format=program"
        )
    if layout.sinusoid_dim != layout.base_channels or conditioning.timestep_scale != 1:
        raise ValueError("network.embedding_channels and network.timestep_scale are not exported: use format=program")
    heads = {"num_heads": layout.num_heads} if layout.num_heads else {"num_head_channels": layout.head_channels}
    return {
        "image_size": shape[1],
        "in_channels": shape[0],
        "model_channels": layout.base_channels,
        "out_channels": network.output.out_channels,
        "num_res_blocks": layout.num_res_blocks,
        "attention_resolutions": [2**level for level, attends in enumerate(layout.attending) if attends],
        "channel_mult": list(layout.channel_multipliers),
        "num_classes": None if conditioning.classes is None else conditioning.classes.num_embeddings,
        **heads,
        "use_scale_shift_norm": not layout.additive_embedding,
        "resblock_updown": layout.residual_resampling,
        "use_new_attention_order": True,
    }
