"""Our U-Net as the config and the weights of diffusers' UNet2DModel, which computes the same function.

That class has one number of groups for all its norms; a network whose groups follow the channels is written as its subclass
GroupedUNet2DModel. It has one number of channels a head, and halves sides that are even: a network that differs is refused.
Writing needs no diffusers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from diffusion_lab.networks import UNet
from diffusion_lab.networks.blocks import AttentionBlock, Downsample, ResidualBlock, Upsample
from diffusion_lab.networks.diffusers_unet import GROUPED
from diffusion_lab.networks.norm import EPS, GroupNorm

_INSIDE = {  # kind of a module -> the names of its layers: ours, theirs
    ResidualBlock: {
        "norm_1": "norm1",
        "conv_1": "conv1",
        "modulation": "time_emb_proj",
        "norm_2": "norm2",
        "conv_2": "conv2",
        "skip": "conv_shortcut",
    },
    AttentionBlock: {"norm": "group_norm", "project": "to_out.0"},
    Downsample: {"": "conv"},
    Upsample: {"": "conv"},
}


def unet2d_config(network: nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
    """The options of UNet2DModel. ValueError, in one sentence, where no such model is this network."""
    if type(network) is not UNet:
        raise ValueError(
            f"only our own UNet is written as diffusers' UNet2DModel, not a {type(network).__name__}: use format=program"
        )
    encoder = network.encoder
    if encoder.features.frequencies:
        raise ValueError("diffusers' UNet2DModel has no network.fourier_periods: use format=program")
    groups = {len(part.weight): part.num_groups for part in network.modules() if isinstance(part, GroupNorm)}
    is_uniform = len({*groups.values()}) == 1
    all_groups = next(iter(groups.values())) if is_uniform else None
    attentions = [part for part in network.modules() if isinstance(part, AttentionBlock)]
    heads = sorted({len(part.norm.weight) // part.num_heads for part in attentions})
    if len(heads) > 1:
        raise ValueError(
            f"diffusers' UNet2DModel has one number of channels in all heads, not {' and '.join(map(str, heads))}: "
            "use format=program"
        )
    layout, conditioning = network.layout, encoder.conditioning
    if layout.residual_resampling:
        raise ValueError("diffusers' UNet2DModel has no network.residual_resampling: use format=program")
    if layout.sinusoid_dim != layout.base_channels or conditioning.timestep_scale != 1:
        raise ValueError("network.embedding_channels and network.timestep_scale are not exported: use format=program")
    if conditioning.classes is not None and not conditioning.null_class:
        raise ValueError("the pipeline needs network.null_class=true: use format=program")
    halvings = len(encoder.downsamples)
    if any(side % 2**halvings for side in shape[1:]):
        raise ValueError(
            f"diffusers' UNet2DModel halves only even sides, but {shape[1]}×{shape[2]} pixels cannot be halved {halvings} "
            "times: use format=program"
        )
    attends = [len(blocks[0]) > 1 for blocks in encoder.down]
    return {
        "_class_name": "UNet2DModel" if is_uniform else GROUPED,
        "sample_size": shape[1] if shape[1] == shape[2] else list(shape[1:]),
        "in_channels": encoder.input.in_channels,
        "out_channels": network.output.out_channels,
        "time_embedding_type": "positional",
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "down_block_types": ["AttnDownBlock2D" if attention else "DownBlock2D" for attention in attends],
        "up_block_types": ["AttnUpBlock2D" if attention else "UpBlock2D" for attention in reversed(attends)],
        "block_out_channels": [blocks[0][0].conv_1.out_channels for blocks in encoder.down],
        "layers_per_block": len(encoder.down[0]),
        "downsample_padding": 1,
        "act_fn": "silu",
        "attention_head_dim": heads[0],
        "norm_num_groups": all_groups or [list(pair) for pair in sorted(groups.items())],
        "attn_norm_num_groups": all_groups,
        "norm_eps": EPS,
        "resnet_time_scale_shift": "default" if layout.additive_embedding else "scale_shift",
        "num_class_embeds": None
        if encoder.conditioning.classes is None
        else encoder.conditioning.classes.num_embeddings,
    }


def unet2d_weights(network: UNet) -> dict[str, Tensor]:
    """The state dict of UNet2DModel, float32 on the CPU, contiguous."""
    own = network.state_dict()
    found = {}
    for ours, theirs in _names(network):
        for part in ("weight", "bias"):
            tensor = own.pop(f"{ours}.{part}", None)
            if tensor is not None:
                is_skip = theirs.endswith("conv_shortcut") and part == "weight"
                found[f"{theirs}.{part}"] = tensor[:, :, None, None] if is_skip else tensor
    for name, theirs in _attentions(network):
        for part in ("weight", "bias"):
            rows = own.pop(f"{name}.qkv.{part}").chunk(3)
            found |= {f"{theirs}.to_{letter}.{part}": some for letter, some in zip("qkv", rows, strict=True)}
    if own:
        raise ValueError(f"diffusers' UNet2DModel has no {min(own)}: use format=program")
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in found.items()}


def _parts(network: UNet) -> Iterator[tuple[nn.Module, str, str]]:
    """(a block, our name of it, theirs)."""
    encoder = network.encoder
    for level, blocks in enumerate(encoder.down):
        yield from _blocks(blocks, f"encoder.down.{level}", f"down_blocks.{level}")
    for level, part in enumerate(encoder.downsamples):
        yield part, f"encoder.downsamples.{level}", f"down_blocks.{level}.downsamplers.0"
    for number, kind in enumerate(("resnets.0", "attentions.0", "resnets.1")):
        yield encoder.middle[number], f"encoder.middle.{number}", f"mid_block.{kind}"
    for level, blocks in enumerate(network.up):
        yield from _blocks(blocks, f"up.{level}", f"up_blocks.{level}")
    for level, part in enumerate(network.upsamples):
        yield part, f"upsamples.{level}", f"up_blocks.{level}.upsamplers.0"


def _blocks(blocks: nn.ModuleList, ours: str, theirs: str) -> Iterator[tuple[nn.Module, str, str]]:
    for place, block in enumerate(blocks):
        for i, (part, kind) in enumerate(zip(block, ("resnets", "attentions"), strict=False)):
            yield part, f"{ours}.{place}.{i}", f"{theirs}.{kind}.{place}"


def _names(network: UNet) -> Iterator[tuple[str, str]]:
    """(our name of a layer, theirs), but for the queries, keys and values, which are one layer here and three there."""
    yield "encoder.conditioning.time.0", "time_embedding.linear_1"
    yield "encoder.conditioning.time.2", "time_embedding.linear_2"
    yield "encoder.conditioning.classes", "class_embedding"
    yield "encoder.input", "conv_in"
    for part, ours, theirs in _parts(network):
        for layer, published in _INSIDE[type(part)].items():
            yield f"{ours}.{layer}".rstrip("."), f"{theirs}.{published}"
    yield "output_norm", "conv_norm_out"
    yield "output", "conv_out"


def _attentions(network: UNet) -> Iterator[tuple[str, str]]:
    return ((ours, theirs) for part, ours, theirs in _parts(network) if isinstance(part, AttentionBlock))
