"""The Inception-v3 of the FID with random weights: the real ones are not shipped, and every equation can be checked without."""

import hashlib
import io
from pathlib import Path
from unittest import mock

import torch
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3


def write_random_weights(path: Path) -> str:
    """Weights under which features and logits of different small images differ by about 1; their SHA-256."""
    torch.manual_seed(0)
    with mock.patch("torch.load"), mock.patch.object(FeatureExtractorInceptionV3, "load_state_dict"):
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], "unread")
    weights = network.state_dict()
    for weight in weights.values():
        if weight.ndim == 4:  # He's variance keeps signals alive through 48 layers
            weight.normal_(0, (2 / weight[0].numel()) ** 0.5)
    weights["fc.weight"].normal_(0, 0.5)
    content = io.BytesIO()
    torch.save(weights, content)
    path.write_bytes(content.getvalue())
    return hashlib.sha256(content.getvalue()).hexdigest()


class RandomFeatures(nn.Module):
    """`num_features` random projections of images (B, 3, H, W) of any size and type, in place of a network's features."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[1] == 3
        generator = torch.Generator().manual_seed(0)
        directions = torch.randn(x[0].numel(), self.num_features, generator=generator) / x[0].numel() ** 0.5
        return x.flatten(1).float() / 64 @ directions
