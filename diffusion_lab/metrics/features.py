"""The features of a Fréchet distance: images in, vectors out. The name of the features is part of the name of the number."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from diffusion_lab.metrics.classifiers import FOLDER, WeightsError, load_classifier, read_shipped
from diffusion_lab.metrics.self_supervised import MOST_BYTES, Encoder, read_encoder
from diffusion_lab.store.records import RunError, read_bytes


class Features(nn.Module, ABC):
    """x float32 in [-1, 1], rounded to the data's levels by the caller -> feature vectors, float32 (B, dim).

    `name`; `identity`, a SHA-256 of whatever decides their values; `dim`, known after `check`. They have no mode
    and no gradient, and row i depends on image i alone.
    """

    name: str
    identity: str
    dim: int
    kind = "features whose training is not stated"  # what they are, and whether they were trained with labels, in words
    moments_suffix = ""  # of mu and sigma in files of statistics; ADM's spatial features have mu_s and sigma_s

    @property
    def metric_name(self) -> str:
        """What a Fréchet distance of these features is called."""
        return f"fd_{self.name}"

    @abstractmethod
    def check(self, shape: Sequence[int]) -> None:
        """ValueError, in one sentence, if these features do not work for data of this shape, (C, H, W) or (D,)."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """x (B, *shape) float32 -> (B, dim) float32."""

    def beside(self) -> Sequence["Features"]:
        """Further features of the same weights, whose moments are in the same file of statistics."""
        return ()

    def class_logits(self, vectors: Tensor) -> Tensor | None:
        """vectors (B, dim) -> logits (B, classes) of which an Inception score is made; None: these features make none."""
        return None

    def classes(self, vectors: Tensor) -> Tensor | None:
        """vectors (B, dim) -> the predicted class of each, int64 (B,); None: these features have no classes."""
        return None


class Pixels(Features):
    """The values of x themselves: exact for points in a few dimensions, a poor judge of pictures."""

    name = "pixels"
    kind = "the values of x themselves"
    identity = hashlib.sha256(b"x, flattened").hexdigest()

    def check(self, shape: Sequence[int]) -> None:
        self.dim = math.prod(shape)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).float()


class ClassifierFeatures(Features):
    """The hidden layer of a shipped classifier trained with labels, 64 numbers per image.

    WeightsError if the weights do not match their card.
    name: "digits_cnn", "digits_resnet" (1×8×8), "fashion_cnn" or "fashion_resnet" (1×28×28).
    Always float32, under autocast too: the same image must always give the same vector.
    """

    kind = "features of a classifier trained with labels"

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.classifier, self.identity = load_classifier(name)
        self.dim = self.classifier.hidden.out_features

    def check(self, shape: Sequence[int]) -> None:
        if tuple(shape) != self.classifier.shape:
            raise ValueError(
                f"features={self.name} work for images of shape {self.classifier.shape}, but the data have shape "
                f"{tuple(shape)}: choose features=pixels, or the features made for these data."
            )

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.classifier.features(x.float().contiguous(memory_format=torch.channels_last))

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """x as in `forward` -> (B, num_classes) float32: which class the classifier takes each image for."""
        with torch.autocast(x.device.type, enabled=False):
            return self.classifier(x.float().contiguous(memory_format=torch.channels_last))

    @torch.no_grad()
    def classes(self, vectors: Tensor) -> Tensor:
        with torch.autocast(vectors.device.type, enabled=False):
            return self.classifier.logits_of(vectors.to(self.classifier.output.weight)).argmax(1)


class SelfSupervisedFeatures(Features):
    """Features trained without labels, for images of one shape: "digits_ssl" (1×8×8), "fashion_ssl" (1×28×28), or a user's own.

    name: of shipped features, or "own": `weights` is then a file that `diffusion-lab features` wrote, else WeightsError.
    Always float32, under autocast too.
    """

    kind = "features trained on images without labels"
    encoder: Encoder

    def __init__(self, name: str, weights: str | Path | None = None) -> None:
        super().__init__()
        self.name = name
        path = FOLDER / name if weights is None else Path(weights)
        try:
            content = read_shipped(name)[0] if weights is None else read_bytes(path, MOST_BYTES)
        except (OSError, RunError) as error:
            raise WeightsError(
                f"features.{name}.weights={path} cannot be read: set a file that `diffusion-lab features data=…` wrote"
            ) from error
        self.encoder, self.identity = read_encoder(content, path)
        self.dim = self.encoder.hidden.out_features

    def check(self, shape: Sequence[int]) -> None:
        trained = self.encoder.image_shape
        if tuple(shape) != trained:
            raise ValueError(
                f"features={self.name} work for images of shape {trained}, but the data have shape {tuple(shape)}: choose "
                "features=pixels, or train features on these data with `diffusion-lab features`."
            )

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.encoder(x.float().contiguous(memory_format=torch.channels_last))
