"""Small image classifiers that ship with the package: a ruler that is the same on every machine.

Each is two files in `weights/`: NAME.safetensors, and NAME.json, its card, which says what it is, how it was made,
how well it does, and the SHA-256 of the weights. `scripts/train_feature_classifiers.py` makes both. A distance
measured with other weights is another distance, so weights that do not match their card are refused.
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
    """A classifier's weights are missing, or are not those that its card describes."""


class Classifier(nn.Module):
    """3×3 convolutions in stages of falling resolution, the mean over pixels, one hidden layer, logits.

    shape: (C, H, W) of the images. stages: the channels of each convolution, stage by stage; between stages the
    maximum of 2×2 pixels is taken. There is no normalisation and no dropout: what it computes does not depend on a
    mode or on the rest of the batch.
    """

    def __init__(
        self, shape: Sequence[int], num_classes: int, stages: Sequence[Sequence[int]], num_features: int
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        channels = shape[0]
        self.stages = nn.ModuleList()
        for widths in stages:
            self.stages.append(nn.ModuleList())
            for width in widths:
                self.stages[-1].append(nn.Conv2d(channels, width, 3, padding=1))
                channels = width
        self.hidden = nn.Linear(channels, num_features)
        self.output = nn.Linear(num_features, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """x float32 (B, C, H, W) in [-1, 1] -> (B, num_features): the hidden layer before its nonlinearity."""
        for i, stage in enumerate(self.stages):
            x = F.max_pool2d(x, 2) if i else x
            for convolution in stage:
                x = F.relu(convolution(x))
        return self.hidden(x.mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        """x float32 (B, C, H, W) in [-1, 1] -> logits (B, num_classes)."""
        return self.logits_of(self.features(x))

    def logits_of(self, features: Tensor) -> Tensor:
        """(B, num_features), as `features` gives them -> logits (B, num_classes)."""
        return self.output(F.relu(features))


def load_classifier(name: str, folder: Path = FOLDER) -> tuple[Classifier, str]:
    """The classifier `name`, frozen, float32, channels-last, and its weights' SHA-256; WeightsError if it is not the card's."""
    shipped = sorted(path.stem for path in folder.glob("*.json"))
    if name not in shipped:  # so it is no path either
        raise WeightsError(f"There is no classifier {name!r}: there are {', '.join(shipped)}.")
    path, card_path = folder / f"{name}.safetensors", folder / f"{name}.json"
    try:
        weights, card = path.read_bytes(), json.loads(card_path.read_text())
    except OSError as error:
        raise WeightsError(
            f"{error.filename} of the classifier {name} is missing: install the package again."
        ) from error
    identity = hashlib.sha256(weights).hexdigest()
    if identity != card["sha256"]:
        raise WeightsError(f"{path} is not the file that its card describes: install the package again.")
    classifier = Classifier(**card["architecture"])
    classifier.load_state_dict({key: value.float() for key, value in load(weights).items()})
    return classifier.requires_grad_(False).eval().to(memory_format=torch.channels_last), identity
