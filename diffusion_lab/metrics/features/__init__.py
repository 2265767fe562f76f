"""Features for distances: functions from images to vectors. The name of the features is part of the name of the number.

Published weights are hashed before the file is parsed, and downloaded only on request.
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lab.diffusion.levels import to_levels

CHUNK = 32  # images through a published network at a time: at 299×299 Inception's first layers take 25 MiB an image


class WeightsError(ValueError):
    """Weights of features are missing, or do not match their card."""


class Features(nn.Module, ABC):
    """Feature vectors, float32 (B, dim), of images x float32 in [-1, 1] that are rounded to the data's levels.

    name: of the features. identity: a SHA-256 of everything that affects the values. dim: known after `check`. Features have no
    training mode and no gradient, and row i depends on image i alone.
    """

    name: str
    identity: str
    dim: int
    kind = "features whose training is not stated"  # a description, including whether they were trained with labels
    reads_levels = False  # whether they round to 256 levels, which makes them meaningless for real numbers
    moments_suffix = ""  # of mu and sigma in files of statistics; ADM's spatial features have mu_s and sigma_s

    @property
    def metric_name(self) -> str:
        """The name of a Fréchet distance of these features."""
        return f"fd_{self.name}"

    @abstractmethod
    def check(self, shape: Sequence[int]) -> None:
        """ValueError, in one sentence, if these features do not support data of this shape, (C, H, W) or (D,)."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """x (B, *shape) float32 -> (B, dim) float32."""

    def beside(self) -> Sequence["Features"]:
        """Further features of the same weights, whose moments are stored in the same file of statistics."""
        return ()

    def class_logits(self, vectors: Tensor) -> Tensor | None:
        """vectors (B, dim) -> logits (B, classes) for an Inception score; None if these features have none."""
        return None

    def classes(self, vectors: Tensor) -> Tensor | None:
        """vectors (B, dim) -> predicted classes, int64 (B,); None if these features have no classes."""
        return None


class Pixels(Features):
    """The values of x themselves: exact for points in a few dimensions, but a poor measure for images."""

    name = "pixels"
    kind = "raw values of pixels or coordinates"
    identity = hashlib.sha256(b"x, flattened").hexdigest()

    def check(self, shape: Sequence[int]) -> None:
        self.dim = math.prod(shape)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).float()


class ShapedFeatures(Features):
    """A small convolutional network for images of one shape, in float32 even under autocast, so that results are reproducible."""

    image_shape: tuple[int, ...]

    def check(self, shape: Sequence[int]) -> None:
        if tuple(shape) != self.image_shape:
            raise ValueError(
                f"features={self.name} work for images of shape {self.image_shape}, but the data have shape {tuple(shape)}: choose "
                "features=pixels, or train features on these data with `diffusion-lab features`."
            )

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.vectors(x.float().contiguous(memory_format=torch.channels_last))

    @abstractmethod
    def vectors(self, x: Tensor) -> Tensor:
        """x float32 (B, C, H, W), channels last -> (B, dim) float32."""


class PublishedFeatures(Features):
    """A published network in evaluation mode. Images of any size are converted to uint8, grey ones to three channels.

    float32, also under autocast. Raises WeightsError, in one sentence. name: of the features. url: where the weights are published.
    build: content of the file -> (network, length of its vectors). path: the file; None: `file_name`, or the last part of `url`, in
    the checkpoint folder of torch hub. download: fetch a missing file. sha256: the digest of the file.
    """

    reads_levels = True
    network: Any  # a module, with layers of its own

    def __init__(
        self,
        name: str,
        url: str,
        build: Callable[[bytes], tuple[nn.Module, int]],
        path: str | Path | None,
        download: bool,
        sha256: str,
        file_name: str | None = None,
    ) -> None:
        super().__init__()
        self.name, self.identity = name, sha256
        self.file = Path(path) if path is not None else usual_place(file_name or url.rsplit("/", 1)[1])
        content = read_weights(self.file, name, url, sha256, download)
        try:
            self.network, self.dim = build(content)
        except (RuntimeError, UnpicklingError, AttributeError, LookupError, TypeError, ValueError, EOFError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise WeightsError(f"{self.file} does not hold the weights of features={name}: {reason}") from error

    def check(self, shape: Sequence[int]) -> None:
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise ValueError(
                f"features={self.name} works for images with 1 or 3 channels, but the data have shape {tuple(shape)}: "
                "choose features=pixels."
            )

    def train(self, mode: bool = True) -> "PublishedFeatures":
        """Stay in evaluation mode: batch normalisation always uses the stored moments."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        pixels = to_levels(x, 256).expand(-1, 3, -1, -1)
        with torch.autocast(x.device.type, enabled=False):
            return torch.cat([self.vectors(chunk) for chunk in pixels.split(CHUNK)])

    @abstractmethod
    def vectors(self, pixels: Tensor) -> Tensor:
        """pixels uint8 (B, 3, H, W) -> (B, dim) float32."""


def usual_place(file_name: str) -> Path:
    """The path of a file in the checkpoint folder of torch hub, which other toolkits use too."""
    return Path(torch.hub.get_dir(), "checkpoints", file_name)


def read_weights(file: Path, features: str, url: str, sha256: str, download: bool) -> bytes:
    """The content of a file of weights, whose SHA-256 is checked.

    file: its path. features: the name of the features, for messages. url: where it is published. sha256: of its content, hex.
    download: fetch a missing file first.
    WeightsError, in one sentence, if the file is missing, cannot be fetched, or has another digest.
    """
    if download and not file.is_file():
        try:  # torch hub writes beside the target and checks the digest before it puts the file in place
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), hash_prefix=sha256, progress=False)
        except (OSError, RuntimeError) as error:
            raise WeightsError(f"{url} could not be downloaded to {file} ({error}); put it there.") from error
    name = url.rsplit("/", 1)[1]
    try:
        content = file.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"features={features} needs the file {name}: download {url} to {file.absolute()}, or set "
            f"features.{features}.download=true or features.{features}.path=FILE."
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise WeightsError(f"{file} is not {name}: its SHA-256 is {found}, not {sha256}; download it again from {url}.")
    return content
