"""Export of a diffusion model as a diffusers pipeline: model_index.json, pipeline.py, scheduler/ and unet/ or transformer/.

If the network has no learned variance and no classes, and all its norms have equally many groups, diffusers' own pipelines can read
the folder too. Where diffusers' class is another function, the folder also contains a subclass: grouped_unet.py for a U-Net whose
groups differ, even_dit.py for a transformer whose frequencies of t are those of DiT.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from diffusion_lab.interop.layers import DIFFUSERS, layers
from diffusion_lab.interop.transformer_weights import DIFFUSERS_PERIOD, to_dit
from diffusion_lab.models.diffusion_generator import DiffusionGenerator
from diffusion_lab.networks import Transformer, UNet, other_packages
from diffusion_lab.networks.blocks import AttentionBlock
from diffusion_lab.networks.embeddings import MAX_PERIOD
from diffusion_lab.networks.norm import EPS, GroupNorm
from diffusion_lab.networks.other_packages import EVEN_DIT, EVEN_NORM, EXPORTED, GROUPED, DiffusersUNet
from diffusion_lab.networks.transformer_blocks import EPS as TRANSFORMER_EPS
from diffusion_lab.networks.transformer_blocks import MLP, LayerNorm
from diffusion_lab.sampling import ClassifierFree

if TYPE_CHECKING:
    from diffusion_lab.models.generator import Generator

_PIPELINE = Path(__file__).with_name("pipeline.py")  # copied, and imported only by diffusers
_VERSION = "0.30.0"  # of diffusers, in the files
_THEIRS, _THEIR_DIT, _ELSE = "diffusers' UNet2DModel", "diffusers' DiTTransformer2DModel", "use format=program"
_NUM_STEPS = 50  # of DDIM, for a model whose sampler uses a higher order


def to_diffusers(generator: Generator) -> dict[str, bytes]:
    """Name of a file -> its content, with the generator's weights.

    ValueError, in one sentence, if diffusers cannot represent the model.
    """
    if not isinstance(generator, DiffusionGenerator):
        raise ValueError(f"diffusers has no pipeline for model={generator.protocol()['family']}: {_ELSE}")
    network = generator.networks["network"]
    if isinstance(network, Transformer):
        part, pipeline, config = "transformer", "DiffusionLabDiTPipeline", dit_config(network, generator.shape)
    else:
        part, pipeline, config = "unet", "DiffusionLabPipeline", unet2d_config(network, generator.shape)
    module = EXPORTED.get(config["_class_name"], "diffusers")
    index = {
        "_class_name": [_PIPELINE.stem, pipeline],
        "_diffusers_version": _VERSION,
        part: [module, config["_class_name"]],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "num_inference_steps": _num_steps(generator),
        "guidance_scale": _guidance_scale(generator),
    }
    source = Path(other_packages.__file__).with_name(f"{module}.py")
    weights = to_dit(network) if part == "transformer" else unet2d_weights(network)
    return {
        "model_index.json": _json(index),
        _PIPELINE.name: _PIPELINE.read_bytes(),
        "scheduler/scheduler_config.json": _json(_scheduler(generator)),
        f"{part}/config.json": _json({**config, "_diffusers_version": _VERSION}),
        f"{part}/diffusion_pytorch_model.safetensors": save(weights, {"format": "pt"}),
        **({f"{part}/{source.name}": source.read_bytes()} if module != "diffusers" else {}),
    }


def _num_steps(generator: DiffusionGenerator) -> int:
    """The steps of the model's sampler; if its order is higher than that of DDIM, more."""
    sampler, process = generator.sampler, generator.process
    return len(sampler.spacing(process)) if sampler.order == 1 else min(_NUM_STEPS, process.num_timesteps)


def _scheduler(generator: DiffusionGenerator) -> dict[str, Any]:
    process, schedule = generator.process, type(generator.process.schedule).__name__
    t = torch.arange(1, process.num_timesteps + 1)
    if not process.has_unit_variance:
        raise ValueError(
            f"diffusers' DDPM and DDIM need α_t² + σ_t² = 1, which schedule {schedule} does not have: {_ELSE}"
        )
    if not torch.equal(process.network_time(t).double(), (t - 1).double()):
        raise ValueError(
            f"with schedule {schedule} the network does not get integer t, as diffusers' networks do: {_ELSE}"
        )
    if generator.start.needs_data_moments:
        raise ValueError(f"diffusers' chains start from N(0, I): export with start=noise, or {_ELSE}")
    return {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": _VERSION,
        "num_train_timesteps": process.num_timesteps,
        "trained_betas": process.beta(t).tolist(),
        "prediction_type": _prediction_type(generator, t),
        "clip_sample": _clips(generator),
        "clip_sample_range": 1.0,
        "set_alpha_to_one": True,
        "timestep_spacing": "trailing",  # with "linspace" its DDIM would step to a time that it does not visit next
    }


def _prediction_type(generator: DiffusionGenerator, t: Tensor) -> str:
    """diffusers' name of an output a·x_0 + b·ε."""
    process = generator.process
    signal, noise = process.pair(t)
    named = {
        "epsilon": (torch.zeros_like(noise), torch.ones_like(noise)),
        "sample": (torch.ones_like(noise), torch.zeros_like(noise)),
        "v_prediction": (-noise, signal),
    }
    found = generator.reverse.prediction.coefficients(process, t)
    own = [torch.as_tensor(part, dtype=torch.float64).expand_as(noise) for part in found]
    for name, parts in named.items():
        if all(torch.allclose(ours, theirs) for ours, theirs in zip(own, parts, strict=True)):
            return name
    raise ValueError(
        f"prediction {type(generator.reverse.prediction).__name__} is not one of diffusers' ({', '.join(named)}): {_ELSE}"
    )


def _clips(generator: DiffusionGenerator) -> bool:
    """Whether x̂_0 is clamped to [−1, 1] or unchanged, tested on an image, because diffusers supports nothing else."""
    guess = torch.linspace(-3, 3, 16).view(1, 1, 4, 4)
    shown = generator.reverse.clipping(guess)
    for clips, wanted in ((True, guess.clamp(-1, 1)), (False, guess)):
        if torch.equal(shown, wanted):
            return clips
    raise ValueError(f"the pipeline does not support model.clip_x_0={generator.reverse.clip_x_0}: {_ELSE}")


def _guidance_scale(generator: DiffusionGenerator) -> float:
    """The guidance scale; 1 is no guidance."""
    guidance = generator.guidance
    if not guidance.guides:
        return 1.0
    more = (guidance.worse, guidance.interval, guidance.log_snr_interval)
    if not isinstance(guidance, ClassifierFree) or more != (None, None, None):
        known = "guidance=none, guidance=classifier_free"
        raise ValueError(f"the pipeline does not support guidance {guidance!r}: export with {known}, or {_ELSE}")
    return float(guidance.scale)


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def unet2d_config(network: nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
    """The options of UNet2DModel. ValueError, in one sentence, if it cannot represent this network."""
    if isinstance(network, DiffusersUNet):
        if network.num_classes is not None and not network.null_class:
            raise ValueError(f"the pipeline needs network.null_class=true: {_ELSE}")
        unet: Any = network.unet
        theirs = {name: value for name, value in unet.config.items() if not name.startswith("_")}
        return {"_class_name": type(unet).__name__, **theirs, "sample_size": _sample_size(shape)}
    network = _exportable(network, shape)
    layout, classes = network.layout, network.encoder.conditioning.classes
    groups = {len(part.weight): part.num_groups for part in network.modules() if isinstance(part, GroupNorm)}
    all_groups = next(iter(groups.values())) if len({*groups.values()}) == 1 else None
    attentions = [part for part in network.modules() if isinstance(part, AttentionBlock)]
    heads = sorted({len(part.norm.weight) // part.num_heads for part in attentions})
    if len(heads) > 1:
        raise ValueError(f"diffusers' UNet2DModel has one number of channels in all heads, not {heads}: {_ELSE}")
    if layout.residual_resampling:
        raise ValueError(f"diffusers' UNet2DModel has no network.residual_resampling: {_ELSE}")
    if classes is not None and not network.encoder.conditioning.null_class:
        raise ValueError(f"the pipeline needs network.null_class=true: {_ELSE}")
    blocks = ["AttnDownBlock2D" if attends else "DownBlock2D" for attends in layout.attending]
    return {
        "_class_name": GROUPED if all_groups is None else "UNet2DModel",
        "sample_size": _sample_size(shape),
        "in_channels": network.encoder.input.in_channels,
        "out_channels": network.output.out_channels,
        "time_embedding_type": "positional",
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "down_block_types": blocks,
        "up_block_types": [block.replace("Down", "Up") for block in reversed(blocks)],
        "block_out_channels": layout.widths,
        "layers_per_block": layout.num_res_blocks,
        "downsample_padding": 1,
        "act_fn": "silu",
        "attention_head_dim": heads[0],
        "norm_num_groups": all_groups or [list(pair) for pair in sorted(groups.items())],
        "attn_norm_num_groups": all_groups,
        "norm_eps": EPS,
        "resnet_time_scale_shift": "default" if layout.additive_embedding else "scale_shift",
        "num_class_embeds": None if classes is None else classes.num_embeddings,
    }


def _sample_size(shape: Sequence[int]) -> int | list[int]:
    return shape[1] if shape[1] == shape[2] else [*shape[1:]]


def _exportable(network: nn.Module, shape: Sequence[int]) -> UNet:
    """`network`, if UNet2DModel can represent it. ValueError, in one sentence, if not.

    shape: (C, H, W) of its images.
    """
    if type(network) is not UNet:
        raise ValueError(
            f"only our own UNet and theirs are written as {_THEIRS}, not a {type(network).__name__}: {_ELSE}"
        )
    layout, conditioning = network.layout, network.encoder.conditioning
    if conditioning.sizes:
        raise ValueError(f"{_THEIRS} takes classes or clusters only, and this model is conditioned on other things too")
    if len(shape) != 3:
        raise ValueError(f"{_THEIRS} takes images, and this model draws samples of shape {list(shape)}: {_ELSE}")
    differs = {
        "padding": {*layout.paddings} != {"zeros"},
        "fourier_periods": network.encoder.features.frequencies,
        "embedding_channels": layout.sinusoid_dim != layout.base_channels,
        "timestep_scale": conditioning.timestep_scale != 1,
        "two_times": conditioning.second_time is not None,
        "patch_size": layout.patch_size != 1,
    }
    for option, is_used in differs.items():
        if is_used:
            raise ValueError(f"{_THEIRS} has no network.{option}: {_ELSE}")
    sides, halvings = "×".join(map(str, shape[1:])), len(layout.widths) - 1
    if any(side % 2**halvings for side in shape[1:]):
        raise ValueError(
            f"{_THEIRS} halves only even sides, but {sides} pixels cannot be halved {halvings} times: {_ELSE}"
        )
    return network


def unet2d_weights(network: nn.Module) -> dict[str, Tensor]:
    """The state dict of UNet2DModel, float32 on the CPU, contiguous."""
    own, found = network.state_dict(), dict[str, Tensor]()
    if isinstance(network, DiffusersUNet):
        unet: Any = network.unet
        own, found = {}, unet.state_dict()
    for ours, theirs in layers(network, DIFFUSERS, _place) if own else ():
        for part in ("weight", "bias"):
            tensor = own.pop(f"{ours}.{part}", None)
            if tensor is None:
                continue
            if ours.endswith(".qkv"):  # one layer here, three in diffusers
                for letter, rows in zip("qkv", tensor.chunk(3), strict=True):
                    found[f"{theirs}.to_{letter}.{part}"] = rows
            else:
                is_skip = theirs.endswith("conv_shortcut") and part == "weight"
                found[f"{theirs}.{part}"] = tensor[:, :, None, None] if is_skip else tensor
    if own:
        raise ValueError(f"diffusers' UNet2DModel has no {min(own)}: use format=program")
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in found.items()}


def _place(side: str, numbers: list[int]) -> str:
    match side, numbers:
        case "middle", [i]:
            return f"mid_block.{('resnets.0', 'attentions.0', 'resnets.1')[i]}"
        case (("downsamples" | "upsamples"), [level]):
            way = side.removesuffix("samples")
            return f"{way}_blocks.{level}.{way}samplers.0"
    level, block, i = numbers
    return f"{side}_blocks.{level}.{('resnets', 'attentions')[i]}.{block}"


def dit_config(network: Transformer, shape: Sequence[int]) -> dict[str, Any]:
    """The options of DiTTransformer2DModel. ValueError, in one sentence, if it cannot represent this network.

    shape: (C, H, W) of its images.
    """
    trunk, conditioning, period = network.trunk, network.trunk.conditioning, network.trunk.conditioning.max_period
    block: Any = trunk.blocks[0]
    differs = {
        "learned_positions": isinstance(trunk.inputs.positions, nn.Parameter),
        "rotary": trunk.rotary is not None,
        "qk_norm": type(block.attention.norm_q) is not nn.Identity,
        "rms_norm": type(block.norm_1) is not LayerNorm,
        "gated_mlp": type(block.mlp) is not MLP,
        "bottleneck": type(trunk.inputs.reduce) is not nn.Identity,
        "num_context": trunk.inputs.num_context > 0,
        "timestep_scale": conditioning.timestep_scale != 1,
        "two_times": conditioning.second_time is not None,
        "max_period": period not in (MAX_PERIOD, DIFFUSERS_PERIOD),
    }
    for option, is_used in differs.items():
        if is_used:
            raise ValueError(f"{_THEIR_DIT} has no network.{option}: {_ELSE}")
    if conditioning.classes is None or not conditioning.null_class:
        raise ValueError(
            f"{_THEIR_DIT} needs classes and a null class, so a model with condition=classes or clusters alone: {_ELSE}"
        )
    if len(shape) != 3 or shape[1] != shape[2] or shape[1] % network.patch_size:
        raise ValueError(
            f"{_THEIR_DIT} takes squares of whole patches of {network.patch_size}, and this model draws samples of shape "
            f"{list(shape)}: {_ELSE}"
        )
    outputs = network.output.out_features // network.patch_size**2
    return {
        "_class_name": EVEN_DIT if period == MAX_PERIOD else "DiTTransformer2DModel",
        "num_attention_heads": block.attention.num_heads,
        "attention_head_dim": trunk.inputs.width // block.attention.num_heads,
        "in_channels": shape[0],
        "out_channels": outputs,
        "num_layers": len(trunk.blocks),
        "dropout": block.mlp.dropout.p,
        "sample_size": shape[1],
        "patch_size": network.patch_size,
        "num_embeds_ada_norm": conditioning.classes.num_embeddings - 1,
        "norm_type": EVEN_NORM if period == MAX_PERIOD else "ada_norm_zero",
        "norm_eps": TRANSFORMER_EPS,
    }
