"""Conversion of the parameters of our U-Net and classifier between our names, shapes and orders and those of OpenAI's code.

The networks are equal functions; parameters have other names and, in places, another shape or order:

    1×1 convolutions     (out, in, 1[, 1])                ours (out, in)
    legacy attention     rows of qkv are (head, q|k|v, c)  ours (q|k|v, head, c)
    attention pooling    qkv_proj in one, positions (C, 1 + pixels)      ours a query, a key_value, positions (1 + pixels, C)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from diffusion_lab.interop.checkpoints import check_fit
from diffusion_lab.interop.layers import OPENAI, blocks_of, layers
from diffusion_lab.networks.blocks import AttentionBlock


def to_our_network(published: Mapping[str, Tensor], network: nn.Module, legacy_heads: bool) -> dict[str, Tensor]:
    """The state dict of `network`, a `UNet` or the classifier of one, from a published state dict, in float32.

    legacy_heads: rows of qkv are grouped by head. CheckpointError, naming the first difference, if it belongs to another network.
    """
    own = network.state_dict()
    check_fit(published, published_shapes(network), "the checkpoint")
    found = {ours: published[theirs].reshape(own[ours].shape) for theirs, ours in published_names(network).items()}
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
    found = {theirs: tuple(own[ours].shape) for theirs, ours in published_names(network).items()}
    if "pool.positions" not in own:
        return found
    seen, channels = own["pool.positions"].shape
    num_logits = len(own["pool.project.bias"])
    return found | {
        "out.0.weight": (channels,),
        "out.0.bias": (channels,),
        "out.2.positional_embedding": (channels, seen),
        "out.2.qkv_proj.weight": (3 * channels, channels),
        "out.2.qkv_proj.bias": (3 * channels,),
        "out.2.c_proj.weight": (num_logits, channels),
        "out.2.c_proj.bias": (num_logits,),
    }


def heads_last(rows: Tensor, num_heads: int) -> Tensor:
    """(heads · 3 · c, …) -> (3 · heads · c, …): rows grouped by head become all queries, all keys, all values."""
    return rows.unflatten(0, (num_heads, 3, -1)).transpose(0, 1).flatten(0, 2)


def published_names(network: nn.Module) -> dict[str, str]:
    """Published name of a parameter -> our name, except for the pooling's."""
    own, blocks = network.state_dict().keys(), blocks_of(network)
    count = 1 + max(int(name.split(".")[3]) for name in blocks if name.startswith("encoder.down."))  # per level

    def place(side: str, numbers: list[int]) -> str:
        """Published blocks are numbered through all levels, including resampling."""
        match side, numbers:
            case "down", [level, block, i]:
                return f"input_blocks.{1 + level * (count + 1) + block}.{i}"
            case "downsamples", [level]:
                return f"input_blocks.{(level + 1) * (count + 1)}.0"
            case "middle", [i]:
                return f"middle_block.{i}"
            case "up", [level, block, i]:
                return f"output_blocks.{level * (count + 1) + block}.{i}"
        level = numbers[0]  # of an additional part after the last block of its level
        return f"output_blocks.{level * (count + 1) + count}.{1 + (f'up.{level}.{count}.1' in blocks)}"

    named = layers(network, OPENAI, place)
    pairs = ((f"{theirs}.{part}", f"{ours}.{part}") for ours, theirs in named for part in ("weight", "bias"))
    return {theirs: ours for theirs, ours in pairs if ours in own}


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
        query, key_value = torch.split(rows.flatten(1) if rows.ndim > 1 else rows, [channels, 2 * channels])
        found |= {f"pool.query.{part}": query, f"pool.key_value.{part}": key_value}
    return found
