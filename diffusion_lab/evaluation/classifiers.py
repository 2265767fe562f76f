"""Small image classifiers that ship with the package: a ruler that is the same on every machine.

Each is two files in `weights/`: NAME.safetensors, and NAME.json, its card, which says how it was made, how well it does, and the SHA-256 of
the weights. `scripts/train_feature_classifiers.py` makes both. A distance measured with other weights is another distance, so weights
that do not match their card are refused.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

FOLDER = Path(__file__).parent / "weights"


class WeightsError(ValueError):
    """Weights of a classifier that are missing or are not the ones its card describes."""


class Classifier(nn.Module):
    """3×3 convolutions in stages of falling resolution, the mean over pixels, one hidden layer, logits.

    stages: the channels of each convolution, stage by stage; 2×2 maxima are taken between stages. There is no normalisation and no dropout:
    what it computes does not depend on a mode or on the rest of the batch.
    """

    def __init__(
        self, in_channels: int, num_classes: int, stages: Sequence[Sequence[int]], num_features: int
    ) -> None:
        super().__init__()
        widths = [in_channels, *(width for stage in stages for width in stage)]
        layers = iter([nn.Conv2d(a, b, 3, padding=1) for a, b in zip(widths[:-1], widths[1:], strict=True)])
        self.stages = nn.ModuleList(nn.ModuleList(next(layers) for _ in stage) for stage in stages)
        self.hidden = nn.Linear(widths[-1], num_features)
        self.logits = nn.Linear(num_features, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """x float32 (B, C, H, W) in [-1, 1] -> (B, num_features), before the last nonlinearity."""
        h = x
        for i, stage in enumerate(self.stages):
            h = h if i == 0 else F.max_pool2d(h, 2)
            for convolution in stage:
                h = F.relu(convolution(h))
        return self.hidden(h.mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        """x float32 (B, C, H, W) in [-1, 1] -> logits (B, num_classes)."""
        return self.logits(F.relu(self.features(x)))
