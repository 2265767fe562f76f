"""Names of our U-Net's layers in OpenAI's code and in diffusers.

The networks are equal functions; each code names its blocks in its own way (`place`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import nn

from diffusion_lab.networks.blocks import AttentionBlock, Downsample, ResidualBlock, Upsample

OPENAI, DIFFUSERS = 0, 1  # columns of the tables below
_BLOCKS = {  # kind of a block -> our name of a layer -> OpenAI's, diffusers'
    ResidualBlock: {
        "norm_1": ("in_layers.0", "norm1"),
        "conv_1": ("in_layers.2", "conv1"),
        "modulation": ("emb_layers.1", "time_emb_proj"),
        "norm_2": ("out_layers.0", "norm2"),
        "conv_2": ("out_layers.3", "conv2"),
        "skip": ("skip_connection", "conv_shortcut"),
    },
    AttentionBlock: {"norm": ("norm", "group_norm"), "qkv": ("qkv", ""), "project": ("proj_out", "to_out.0")},
    Downsample: {"": ("op", "conv")},
    Upsample: {"": ("conv", "conv")},
}
_AROUND = {
    "encoder.conditioning.time.0": ("time_embed.0", "time_embedding.linear_1"),
    "encoder.conditioning.time.2": ("time_embed.2", "time_embedding.linear_2"),
    "encoder.conditioning.classes": ("label_emb", "class_embedding"),
    "encoder.input": ("input_blocks.0.0", "conv_in"),
    "output_norm": ("out.0", "conv_norm_out"),
    "output": ("out.2", "conv_out"),
}


def blocks_of(network: nn.Module) -> dict[str, nn.Module]:
    """Name -> block, without the layers around them."""
    return {name: part for name, part in network.named_modules() if type(part) in _BLOCKS}


def layers(network: nn.Module, code: int, place: Callable[[str, list[int]], str]) -> Iterator[tuple[str, str]]:
    """(our name of a layer, theirs). code: OPENAI or DIFFUSERS. place: the name of a block there, from our side and numbers."""
    for name, part in blocks_of(network).items():
        side, *numbers = name.removeprefix("encoder.").split(".")
        theirs = place(side, [int(number) for number in numbers])
        for ours, published in _BLOCKS[type(part)].items():
            yield f"{name}.{ours}".rstrip("."), f"{theirs}.{published[code]}".rstrip(".")
    yield from ((ours, published[code]) for ours, published in _AROUND.items())
