"""diffusers' DiTTransformer2DModel with the frequencies of t of DiT, 10000^(−i/128). This file needs only diffusers.

diffusers' own are 10000^(−i/127). `diffusion-lab export` copies this file into the exported folder, where
`DiffusionPipeline.from_pretrained` finds it.
"""

import functools

from diffusers import DiTTransformer2DModel


class EvenDiTTransformer2DModel(DiTTransformer2DModel):
    """norm_type: a name that diffusers' class, which is another function, refuses. Other options as in DiTTransformer2DModel."""

    # Keeps the signature, by which diffusers reads config.json.
    @functools.wraps(DiTTransformer2DModel.__init__)  # type: ignore[misc]  # of unknown type
    def __init__(self, norm_type, **options):
        super().__init__(**options)
        for block in self.transformer_blocks:
            block.norm1.emb.time_proj.downscale_freq_shift = 0
        self.register_to_config(norm_type=norm_type)
