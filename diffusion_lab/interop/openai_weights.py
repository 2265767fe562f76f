"""State dicts of openai/improved-diffusion and openai/guided-diffusion as state dicts of our U-Net and our classifier.

The networks are the same functions; the parameters have other names and, in places, another shape or order:

    1×1 convolutions     (out, in, 1[, 1])                ours (out, in)
    legacy attention     rows of qkv are (head, q|k|v, c)  ours (q|k|v, head, c)
    attention pooling    qkv_proj in one, positions (C, 1 + pixels)      ours a query, a key_value, positions (1 + pixels, C)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from diffusion_lab.interop.checkpoints import CheckpointError
from diffusion_lab.networks.blocks import AttentionBlock, Downsample, ResidualBlock, Upsample
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
