"""Our U-Net and diffusers' UNet2DModel with the weights that we export are one function; what it cannot represent is refused.

Transformers: `test_diffusers_folder` and `test_export`; here what DiTTransformer2DModel cannot represent.
"""

import pytest
import torch

from diffusion_lab.interop.to_diffusers import dit_config, unet2d_config, unet2d_weights
from diffusion_lab.networks import MLP, Transformer, UNet

WIDE = {"base_channels": 128, "channel_multipliers": (1, 2), "num_res_blocks": 1, "attention_resolutions": (4,)}


def randomised(network: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.03, generator=generator)
    return network.eval()


@pytest.mark.thorough
@pytest.mark.needs("diffusers")
@pytest.mark.parametrize(
    ("num_classes", "more"),
    [
        (None, {}),
        (10, {}),
        (10, {"additive_embedding": True, "num_groups": 8, "base_channels": 32, "head_channels": 32}),
    ],
    ids=["plain", "classes", "additive"],
)
def test_both_networks_say_the_same(num_classes, more):
    diffusers = pytest.importorskip("diffusers")
    network = randomised(UNet(3, 6, 8, num_classes=num_classes, **{**WIDE, **more}))
    theirs = diffusers.UNet2DModel.from_config(unet2d_config(network, (3, 8, 8)))
    theirs.load_state_dict(unet2d_weights(network))  # no name is missing, none is left over
    x, t = torch.randn(3, 3, 8, 8), torch.tensor([0, 500, 999])
    y = None if num_classes is None else torch.tensor([0, 9, 10])
    with torch.no_grad():
        ours = network(x, t, y)
        assert ours.std() > 0.01
        assert torch.allclose(theirs.eval()(x, t, class_labels=y).sample, ours, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "size", "said"),
    [
        (UNet(1, 1, 7, **{**WIDE, "attention_resolutions": ()}), 7, "7×7 pixels cannot be halved 1 times"),
        (UNet(1, 1, 8, num_levels=16, fourier_periods=(1,), **WIDE), 8, "fourier_periods"),
        (MLP(2, 2), 8, "not a MLP"),
        (UNet(1, 1, 8, residual_resampling=True, **WIDE), 8, "residual_resampling"),
        (UNet(1, 1, 8, timestep_scale=2.0, **WIDE), 8, "timestep_scale"),
        (UNet(1, 1, 8, num_classes=3, null_class=False, **WIDE), 8, "null_class"),
    ],
    ids=["odd", "fourier", "points", "resampling", "scale", "null_class"],
)
def test_another_network_is_refused_with_the_reason(network, size, said):
    with pytest.raises(ValueError, match=said):
        unet2d_config(network, (1, size, size))


@pytest.mark.parametrize(
    ("image_size", "options", "said"),
    [
        *(
            (8, {option: True}, option)
            for option in ("learned_positions", "rotary", "qk_norm", "rms_norm", "gated_mlp")
        ),
        (8, {"bottleneck": 2}, "bottleneck"),
        (8, {"num_context": 2}, "num_context"),
        (8, {"timestep_scale": 2.0}, "timestep_scale"),
        (8, {"max_period": 100.0}, "max_period"),
        (8, {"num_classes": None}, "needs classes"),
        (8, {"null_class": False}, "needs classes"),
        (7, {}, "whole patches"),
        ((4, 8), {}, "whole patches"),
        ((8,), {}, "whole patches"),
    ],
    ids=str,
)
def test_another_transformer_is_refused_with_the_reason(image_size, options, said):
    with torch.device("meta"):
        network = Transformer(
            1, 1, image_size, **{"num_classes": 3, "width": 8, "num_heads": 2, "patch_size": 2} | options
        )
    sides = (image_size, image_size) if isinstance(image_size, int) else image_size
    with pytest.raises(ValueError, match=said):
        dit_config(network, (1, *sides))
