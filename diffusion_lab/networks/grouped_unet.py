"""diffusers' UNet2DModel with numbers of groups that depend on a norm's channels. This file needs only torch and diffusers.

`diffusion-lab export` copies it into the exported folder, where `DiffusionPipeline.from_pretrained` finds it.
"""

import functools

from diffusers import UNet2DModel
from torch import nn


class GroupedUNet2DModel(UNet2DModel):
    """norm_num_groups: a list of [channels, groups], one for each number of channels. Other options as in UNet2DModel."""

    # Keeps the signature, by which diffusers reads config.json.
    @functools.wraps(UNet2DModel.__init__)  # type: ignore[misc]  # of unknown type
    def __init__(self, norm_num_groups, **options):
        super().__init__(**{**options, "norm_num_groups": 1, "attn_norm_num_groups": 1})
        groups = dict(norm_num_groups)
        for norm in self.modules():
            if isinstance(norm, nn.GroupNorm):
                norm.num_groups = groups[norm.num_channels]
                if norm.num_groups < 1 or norm.num_channels % norm.num_groups:
                    raise ValueError(f"{norm.num_groups} groups do not divide {norm.num_channels} channels")
        self.register_to_config(norm_num_groups=norm_num_groups, attn_norm_num_groups=None)
