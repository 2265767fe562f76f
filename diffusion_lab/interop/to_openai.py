"""Export of our U-Net as a state dict of openai/guided-diffusion's UNetModel, with the arguments of that class."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import torch

from diffusion_lab.interop.checkpoints import exportable
from diffusion_lab.interop.openai_weights import published_names
from diffusion_lab.networks import UNet
from diffusion_lab.networks.norm import GroupNorm

if TYPE_CHECKING:
    from diffusion_lab.models.base import GenerativeModel

_GROUPS = 32  # of every norm in UNetModel
_TRAILING = {"skip_connection.weight": 2, "qkv.weight": 1, "proj_out.weight": 1}  # 1s in the shape of a 1×1 convolution


def to_openai(model: GenerativeModel) -> tuple[bytes, dict[str, Any]]:
    """(the file, arguments of UNetModel), with the model's current weights; heads are in the new order, as ours.

    ValueError, in one sentence, if that class cannot represent the network.
    """
    network = exportable(model.network, model.shape, "openai's UNetModel")
    settings, own, found = _settings(network, model.shape), network.state_dict(), {}
    for theirs, ours in published_names(network).items():
        trailing = next((count for end, count in _TRAILING.items() if theirs.endswith(end)), 0)
        tensor = own[ours].detach().float().cpu()
        found[theirs] = tensor.reshape(*tensor.shape, *[1] * trailing).contiguous()
    content = io.BytesIO()
    torch.save(found, content)
    return content.getvalue(), settings


def _settings(network: UNet, shape: tuple[int, ...]) -> dict[str, Any]:
    layout, conditioning = network.layout, network.encoder.conditioning
    groups = sorted({part.num_groups for part in network.modules() if isinstance(part, GroupNorm)} - {_GROUPS})
    if groups:
        raise ValueError(
            f"openai's UNetModel has {_GROUPS} groups in every norm, but this network has {groups[0]} in some: "
            "train with +network.num_groups=32, or with network.base_channels=128 or a multiple of it"
        )
    if shape[1] != shape[2]:
        raise ValueError(
            f"openai's UNetModel needs square images, not {shape[1]}×{shape[2]} pixels: use format=program"
        )
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
