"""Folders of diffusers, as the package writes them, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from diffusion_lab.conf_dir import CONF
from diffusion_lab.interop.checkpoints import Imported
from diffusion_lab.models.diffusion import DiffusionModel

UNET = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 8,
    "norm_num_groups": 4,
}
STEPS = 40


def random_weights(network: torch.nn.Module) -> None:
    """Also where a network begins with zeros."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.15, generator=generator)
    network.eval()


def model_of(found: Imported) -> DiffusionModel:
    """The model that a checkpoint describes, with its weights."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=list(found.options))
    channels, *sides = found.shape
    facts = {"shape": [channels, *sides], "channels": channels, "size": sides[0], "num_levels": 256}
    cfg.facts = {**facts, "missing": False, "conditions": [], "num_classes": found.num_classes, "bounded": True}
    model = instantiate(cfg.model)
    model.network.load_state_dict(found.weights(model.network))
    return model.eval()


def diffusers_folder(
    folder: Path, scheduler: str = "DDIMScheduler", unet: dict[str, Any] | None = None, **options: Any
):
    """(UNet2DModel, scheduler), which lie in `folder` as a pipeline's save_pretrained leaves them."""
    import diffusers

    network = diffusers.UNet2DModel(**{**UNET, **(unet or {})})
    random_weights(network)
    process = getattr(diffusers, scheduler)(**{"num_train_timesteps": STEPS, **options})
    kind = diffusers.DDIMPipeline if scheduler == "DDIMScheduler" else diffusers.DDPMPipeline
    pipeline = kind(network, process)
    pipeline.save_pretrained(folder)
    return network, process
