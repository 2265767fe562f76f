"""What is written for guided-diffusion is what the import reads."""

import io
from types import SimpleNamespace

import pytest
import torch

from diffusion_lab.interop.openai_weights import to_our_network
from diffusion_lab.interop.to_openai import to_openai
from diffusion_lab.networks import UNet

SMALL = {"base_channels": 32, "channel_multipliers": (1, 2), "num_res_blocks": 1, "attention_resolutions": (4,)}


@pytest.mark.parametrize(
    "more",
    [{"head_channels": 32}, {"num_heads": 4, "additive_embedding": True, "residual_resampling": True}],
    ids=["ours", "published"],
)
def test_the_import_reads_what_the_export_writes(more):
    network = UNet(3, 6, 8, num_classes=10, num_groups=32, **SMALL, **more)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    content, settings = to_openai(SimpleNamespace(network=network, shape=(3, 8, 8)))
    published = torch.load(io.BytesIO(content), weights_only=True)
    assert published["input_blocks.3.0.skip_connection.weight" if "head_channels" in more else "out.2.weight"].ndim == 4
    assert published["middle_block.1.qkv.weight"].shape == (192, 64, 1)
    back = to_our_network(published, network, legacy_heads=False)
    assert back.keys() == network.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in network.state_dict().items())
    assert settings["attention_resolutions"] == [2]
    assert settings["num_classes"] == 11
    assert settings["use_scale_shift_norm"] is ("head_channels" in more)
