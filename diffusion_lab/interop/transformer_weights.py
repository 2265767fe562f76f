"""Weights of published transformers as those of our `Transformer`: DiT as diffusers writes it, and JiT.

Both split images into patches whose values are ordered (row, column, channel) at the output, where ours are (channel, row, column).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from diffusion_lab.interop.checkpoints import check_fit, require
from diffusion_lab.networks.embeddings import MAX_PERIOD
from diffusion_lab.networks.positions import sinusoidal_positions

# diffusers spaces the frequencies of t by 1/127 instead of 1/128, which is this period with ours.
DIFFUSERS_PERIOD = MAX_PERIOD ** (128 / 127)

_EMBEDDER = "norm1.emb"  # in every block of diffusers' DiT, all with equal weights as DiT has one
_DIT = {
    "pos_embed.proj": "trunk.inputs.embed",
    f"transformer_blocks.0.{_EMBEDDER}.timestep_embedder.linear_1": "trunk.conditioning.time.0",
    f"transformer_blocks.0.{_EMBEDDER}.timestep_embedder.linear_2": "trunk.conditioning.time.2",
    f"transformer_blocks.0.{_EMBEDDER}.class_embedder.embedding_table": "trunk.conditioning.classes",
    "proj_out_1": "output_norm.modulation",
    "proj_out_2": "output",
}
_DIT_BLOCK = {
    "norm1.linear": "modulation",
    "attn1.to_q": "attention.q",
    "attn1.to_k": "attention.k",
    "attn1.to_v": "attention.v",
    "attn1.to_out.0": "attention.project",
    "ff.net.0.proj": "mlp.first",
    "ff.net.2": "mlp.last",
}
_JIT = {
    "x_embedder.proj1": "trunk.inputs.reduce",
    "x_embedder.proj2": "trunk.inputs.embed",
    "t_embedder.mlp.0": "trunk.conditioning.time.0",
    "t_embedder.mlp.2": "trunk.conditioning.time.2",
    "y_embedder.embedding_table": "trunk.conditioning.classes",
    "final_layer.norm_final": "output_norm.norm",
    "final_layer.adaLN_modulation.1": "output_norm.modulation",
    "final_layer.linear": "output",
}
_JIT_POSITIONS = ("pos_embed", "in_context_posemb")  # (1, N, width)
_JIT_BLOCK = {
    "norm1": "norm_1",
    "norm2": "norm_2",
    "attn.qkv": "attention.qkv",
    "attn.q_norm": "attention.norm_q",
    "attn.k_norm": "attention.norm_k",
    "attn.proj": "attention.project",
    "mlp.w12": "mlp.first",
    "mlp.w3": "mlp.last",
    "adaLN_modulation.1": "modulation",
}
_BLOCK = re.compile(r"(?:transformer_)?blocks\.(\d+)\.(.+)")


def from_dit(published: Mapping[str, Tensor], network: nn.Module, what: str) -> dict[str, Tensor]:
    """The state dict of `network` from diffusers' DiTTransformer2DModel, float32. CheckpointError if it does not fit.

    what: the file, for messages.
    """
    for name, tensor in published.items():
        first = re.sub(r"^transformer_blocks\.\d+", "transformer_blocks.0", name)
        same = _EMBEDDER not in name or torch.equal(tensor, published.get(first, tensor))
        require(same, f"{what}: {name} and {first} differ, but DiT embeds the time and the class once for all blocks")
    found = _renamed(published, _DIT, _DIT_BLOCK)
    for block in [name.removesuffix("q.weight") for name in found if name.endswith("attention.q.weight")]:
        for kind in ("weight", "bias"):
            parts = [found.pop(f"{block}{letter}.{kind}", None) for letter in "qkv"]
            known = [part for part in parts if part is not None]
            if len(known) == 3:
                found[f"{block}qkv.{kind}"] = torch.cat(known)
    return _fitting(found, network, what)


def to_dit(network: nn.Module) -> dict[str, Tensor]:
    """The state dict of diffusers' DiTTransformer2DModel, float32 on the CPU; `from_dit` reads it."""
    own = {name: tensor.detach().float().cpu() for name, tensor in network.state_dict().items()}
    patch, blocks = network.patch_size, range(len(network.trunk.blocks))  # type: ignore[union-attr,arg-type]
    embed = "trunk.inputs.embed.weight"
    own[embed] = own[embed].unflatten(1, (-1, patch, patch))
    names = {ours: theirs for theirs, ours in _DIT.items()}
    for number in blocks:
        block = f"trunk.blocks.{number}."
        names |= {block + ours: f"transformer_blocks.{number}.{theirs}" for theirs, ours in _DIT_BLOCK.items()}
        for kind in ("weight", "bias"):
            for letter, part in zip("qkv", own.pop(f"{block}attention.qkv.{kind}").chunk(3), strict=True):
                own[f"{block}attention.{letter}.{kind}"] = part
    for kind in ("weight", "bias"):
        rows = own[f"output.{kind}"]
        own[f"output.{kind}"] = rows.unflatten(0, (-1, patch, patch)).movedim(0, 2).flatten(0, 2)
    found: dict[str, Tensor] = {}
    for name, tensor in own.items():
        module, _, kind = name.rpartition(".")
        place, embedder, layer = f"{names[module]}.{kind}".partition(f".0.{_EMBEDDER}")
        copies = [f"{place}.{number}.{_EMBEDDER}{layer}" for number in blocks] if embedder else [place]
        found |= {copy: tensor.clone() if embedder else tensor.contiguous() for copy in copies}
    return found


def from_jit(published: Mapping[str, Tensor], network: nn.Module, what: str, step: float) -> dict[str, Tensor]:
    """The state dict of `network` from JiT, float32. CheckpointError if it does not fit. what: the file, for messages.

    JiT's time is 1 for the image and 0 for noise. Ours, which the network multiplies by its timestep_scale `step`, is 0 at the
    first of steps of this length from the image, so JiT's is 1 − step − ours. By the formulas for cos(a − b) and sin(a − b) that
    is another first matrix on our sinusoids.
    """
    found = _renamed(
        {name: tensor for name, tensor in published.items() if name not in _JIT_POSITIONS}, _JIT, _JIT_BLOCK
    )
    fixed = published["pos_embed"].float().flatten(0, 1)
    own = sinusoidal_positions(network.trunk.inputs.grid, network.trunk.inputs.width)  # type: ignore[union-attr,arg-type]
    require(
        fixed.shape == own.shape and torch.allclose(fixed, own, atol=1e-5), f"{what}: pos_embed is not JiT's sinusoids"
    )
    if (context := published.get("in_context_posemb")) is not None:
        found["trunk.inputs.context"] = context.float().flatten(0, -2)
    first = "trunk.conditioning.time.0.weight"
    if first in found and found[first].ndim == 2:
        cos, sin = found[first].chunk(2, dim=1)
        half = cos.shape[1]
        frequencies = torch.exp(-math.log(MAX_PERIOD) * torch.arange(half, dtype=torch.float64) / half)
        shift = frequencies * (1 - step)
        turned = cos * shift.cos() + sin * shift.sin(), cos * shift.sin() - sin * shift.cos()
        found[first] = torch.cat(turned, dim=1).float()
    return _fitting(found, network, what)


def _renamed(
    published: Mapping[str, Tensor], around: Mapping[str, str], inside: Mapping[str, str]
) -> dict[str, Tensor]:
    """Our names; unknown ones stay as they are, and copies of the embedder are left out."""
    found = {}
    for name, tensor in published.items():
        module, _, kind = name.rpartition(".")
        block = _BLOCK.fullmatch(module)
        if module in around:
            found[f"{around[module]}.{kind}"] = tensor.float()
        elif block and block[2] in inside:
            found[f"trunk.blocks.{block[1]}.{inside[block[2]]}.{kind}"] = tensor.float()
        elif not (block and _EMBEDDER in name):
            found[name] = tensor.float()
    return found


def _fitting(found: dict[str, Tensor], network: nn.Module, what: str) -> dict[str, Tensor]:
    own = network.state_dict()
    check_fit(
        {name: tensor.flatten(1) if tensor.ndim == 4 else tensor for name, tensor in found.items()},
        {name: tensor.shape for name, tensor in own.items()},
        what,
    )
    patch = network.patch_size
    for kind in ("weight", "bias"):
        rows = found[f"output.{kind}"]
        found[f"output.{kind}"] = rows.unflatten(0, (patch, patch, -1)).movedim(2, 0).flatten(0, 2)
    return {name: found[name].reshape(own[name].shape).contiguous() for name in own}
