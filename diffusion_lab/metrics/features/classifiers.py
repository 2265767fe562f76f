"""Small image classifiers, trained with labels and shipped with the package, so their features are equal on every machine.

Each has two files in `weights/`: NAME.safetensors, and NAME.json, its card, with a description, how it was made, its
accuracy, and the SHA-256 of the weights. `scripts/train_features.py` makes both. Weights that do not match
their card are refused, because they would give another distance.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from diffusion_lab.metrics.features import ShapedFeatures, WeightsError
from diffusion_lab.networks.blocks import channels_last

FOLDER = Path(__file__).parents[1] / "weights"


class ShippedClassifier(nn.Module, ABC):
    """A classifier of images with a hidden layer that serves as features.

    x float32 (B, C, H, W) in [-1, 1] -> logits (B, num_classes), independent of training mode and of the rest of the batch.
    shape: (C, H, W) of the images.
    """

    hidden: nn.Linear
    output: nn.Linear

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    @abstractmethod
    def maps(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> the output of the convolutions, (B, channels, H', W')."""

    def features(self, x: Tensor) -> Tensor:
        """x float32 (B, C, H, W) in [-1, 1] -> (B, num_features): the hidden layer before its nonlinearity."""
        return self.hidden(self.maps(x).mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        """x float32 (B, C, H, W) in [-1, 1] -> logits (B, num_classes)."""
        return self.logits_of(self.features(x))

    def logits_of(self, features: Tensor) -> Tensor:
        """Features (B, num_features), as from `features` -> logits (B, num_classes)."""
        return self.output(F.relu(features))


class Classifier(ShippedClassifier):
    """3×3 convolutions in stages of falling resolution, the mean over pixels, one hidden layer, logits.

    stages: the channels of each convolution, stage by stage; between stages the maximum of 2×2 pixels is taken.
    There is no normalisation and no dropout.
    """

    def __init__(
        self, shape: Sequence[int], num_classes: int, stages: Sequence[Sequence[int]], num_features: int
    ) -> None:
        super().__init__(shape)
        channels = shape[0]
        self.stages = nn.ModuleList()
        for widths in stages:
            inputs = [channels, *widths[:-1]]
            pairs = zip(inputs, widths, strict=True)
            self.stages.append(nn.ModuleList(nn.Conv2d(before, width, 3, padding=1) for before, width in pairs))
            channels = widths[-1]
        self.hidden = nn.Linear(channels, num_features)
        self.output = nn.Linear(num_features, num_classes)

    def maps(self, x: Tensor) -> Tensor:
        for i, stage in enumerate(self.stages):
            x = F.max_pool2d(x, 2) if i else x
            for convolution in stage.children():
                x = F.relu(convolution(x))
        return x


class PreActivationBlock(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm(x)))))), with a 1×1 convolution of x where the shape changes (He et al. 2016)."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.norm_1 = nn.GroupNorm(8, channels)
        self.conv_1 = nn.Conv2d(channels, out_channels, 3, stride, padding=1)
        self.norm_2 = nn.GroupNorm(8, out_channels)
        self.conv_2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        changes = stride > 1 or out_channels != channels
        self.skip = nn.Conv2d(channels, out_channels, 1, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_1(F.silu(self.norm_1(x)))
        return self.skip(x) + self.conv_2(F.silu(self.norm_2(h)))


class ResidualClassifier(ShippedClassifier):
    """Residual blocks with group norms, stages of falling resolution, the mean over pixels, one hidden layer, logits.

    stages: (channels, number of blocks), stage by stage; each but the first begins with a stride of two pixels.
    """

    def __init__(
        self, shape: Sequence[int], num_classes: int, stages: Sequence[tuple[int, int]], num_features: int
    ) -> None:
        super().__init__(shape)
        channels = stages[0][0]
        self.input = nn.Conv2d(shape[0], channels, 3, padding=1)
        self.blocks = nn.Sequential()
        for stage, (width, depth) in enumerate(stages):
            for i in range(depth):
                self.blocks.append(PreActivationBlock(channels, width, stride=2 if stage and not i else 1))
                channels = width
        self.norm = nn.GroupNorm(8, channels)
        self.hidden = nn.Linear(channels, num_features)
        self.output = nn.Linear(num_features, num_classes)

    def maps(self, x: Tensor) -> Tensor:
        return F.silu(self.norm(self.blocks(self.input(x))))


NETWORKS = {"convolutional": Classifier, "residual": ResidualClassifier}  # by their name in a card


def load_classifier(name: str, folder: Path = FOLDER) -> tuple[ShippedClassifier, str]:
    """The classifier `name`, frozen, float32, channels-last, and the SHA-256 of its weights.

    WeightsError if they do not match the card.
    """
    weights, card = read_shipped(name, folder)
    classifier = NETWORKS[card.get("network", "convolutional")](**card["architecture"])
    classifier.load_state_dict({key: value.float() for key, value in load(weights).items()})
    return channels_last(classifier.requires_grad_(False).eval()), card["sha256"]


def read_shipped(name: str, folder: Path = FOLDER) -> tuple[bytes, dict[str, Any]]:
    """The weights of shipped features and their card; WeightsError if the two do not match."""
    shipped = sorted(path.stem for path in folder.glob("*.json"))
    if name not in shipped:  # also excludes paths
        raise WeightsError(f"There are no features {name!r}: choose one of {', '.join(shipped)}.")
    path = folder / f"{name}.safetensors"
    weights, card = path.read_bytes(), json.loads(path.with_suffix(".json").read_text())
    if hashlib.sha256(weights).hexdigest() != card["sha256"]:
        raise WeightsError(f"{path} is not the file that its card describes: install the package again.")
    return weights, card


class ClassifierFeatures(ShapedFeatures):
    """The hidden layer of a shipped classifier trained with labels, 64 numbers per image.

    WeightsError if the weights do not match their card.
    name: "digits_cnn", "digits_resnet" (1×8×8), "fashion_cnn" or "fashion_resnet" (1×28×28).
    """

    kind = "features of a classifier trained with labels"

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.classifier, self.identity = load_classifier(name)
        self.image_shape, self.dim = self.classifier.shape, self.classifier.hidden.out_features

    def vectors(self, x: Tensor) -> Tensor:
        return self.classifier.features(x)

    @torch.no_grad()
    def classes(self, vectors: Tensor) -> Tensor:
        with torch.autocast(vectors.device.type, enabled=False):
            return self.classifier.logits_of(vectors.to(self.classifier.output.weight)).argmax(1)
