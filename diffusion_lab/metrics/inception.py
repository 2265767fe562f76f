"""The Inception-v3 of the original FID: TensorFlow's graph of 2015-12-05 as torch-fidelity ported it.

2048 pooled features, whose Fréchet distance is "fid", and 2023 spatial ones, whose Fréchet distance is "sfid". With other weights
than the published ones the distances have other names. The weights are not shipped: 91 MiB, published by torch-fidelity. The file
is hashed before anything looks into it, and nothing in it is unpickled but tensors.
"""

import hashlib
import io
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from diffusion_lab.diffusion.levels import to_levels
from diffusion_lab.metrics.classifiers import WeightsError
from diffusion_lab.metrics.features import Features
from diffusion_lab.metrics.weight_files import read_weights, usual_place

FILE_NAME = URL_INCEPTION_V3.rsplit("/", 1)[1]
# Its first eight digits end the file's name; all of them are as several users of the file have published them.
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
CHUNK = 32  # images through the network at a time: at 299×299 its first layers take 25 MiB an image


class _OfInception(Features):
    """What one layer says, float32, under autocast too. Grey images are shown in three channels.

    path: the weights; None: FILE_NAME in the checkpoint folder of torch hub. download: fetch a file that is not there,
    once. sha256: what the file must hash to; with another than the published one the distance is no FID and is not called
    so. Raises WeightsError, in one sentence.
    """

    distance: str  # what the Fréchet distance is called with the published weights
    reached: str  # torch-fidelity's name of the features up to which the network runs

    def __init__(self, path: str | Path | None = None, download: bool = False, sha256: str = SHA256) -> None:
        super().__init__()
        self.file, self.sha256 = Path(path) if path is not None else usual_file(), sha256
        content = read_weights(self.file, self.name, URL_INCEPTION_V3, sha256, download)
        self.network = _network(content, self.file, self.reached)

    @property
    def metric_name(self) -> str:
        return self.distance if self.sha256 == SHA256 else super().metric_name

    def check(self, shape: Sequence[int]) -> None:
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise ValueError(
                f"features={self.name} works for images with 1 or 3 channels, but the data have shape {tuple(shape)}: "
                "choose features=pixels."
            )

    def train(self, mode: bool = True) -> "_OfInception":
        """Batch normalisation always uses the stored moments: feature networks have no training mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """x (B, 1 or 3, H, W) of any size: shown as uint8, which is what this network was defined on."""
        pixels = to_levels(x, 256).expand(-1, 3, -1, -1)
        with torch.autocast(x.device.type, enabled=False):
            return torch.cat([self._seen(chunk) for chunk in pixels.split(CHUNK)])

    @abstractmethod
    def _seen(self, pixels: Tensor) -> Tensor:
        """pixels uint8 (B, 3, H, W) -> (B, dim) float32."""


class InceptionFeatures(_OfInception):
    """The 2048 averages of the last pooling layer, `pool_3:0` of the original graph."""

    name, dim = "inception", 2048
    kind = "the Inception-v3 of the original FID, a classifier trained with labels"
    distance, reached = "fid", "2048"

    @property
    def identity(self) -> str:
        return self.sha256

    def beside(self) -> Sequence[Features]:
        return (InceptionSpatialFeatures(self.file, sha256=self.sha256),)

    def _seen(self, pixels: Tensor) -> Tensor:
        return self.network(pixels)[0]

    @torch.no_grad()
    def class_logits(self, vectors: Tensor) -> Tensor:
        """Without the bias, as the published Inception scores have it (Salimans et al. 2016)."""
        return vectors @ self.network.fc.weight.T.to(vectors)


class InceptionSpatialFeatures(_OfInception):
    """The first 7 channels of `mixed_6/conv:0` at each of 17 × 17 places: 2023 numbers, which say where something is in the image.

    As ADM's evaluator defines sFID (openai/guided-diffusion, `evaluations/evaluator.py`, commit 22e0df8), after Nash et al. 2021
    ("Generating images with sparse representations"). In the original graph that tensor is the first 1×1 convolution of the block
    `mixed_6` with its batch normalisation and its ReLU; torch-fidelity's converter of the weights names it `Mixed_6d.branch1x1`.
    Channels vary fastest, then columns, as TensorFlow lays them out: published mu_s and sigma_s have this order. Equality with
    ADM's evaluator has not been measured with the published weights.
    """

    name, dim = "inception_spatial", 7 * 17 * 17
    kind = "spatial features of the original FID's Inception-v3, a classifier trained with labels"
    distance, reached = "sfid", "768"  # the first features that torch-fidelity offers behind that layer
    moments_suffix = "_s"

    @property
    def identity(self) -> str:
        return hashlib.sha256(f"{self.sha256} mixed_6/conv:0 [..., :7]".encode()).hexdigest()

    def _seen(self, pixels: Tensor) -> Tensor:
        found: list[Tensor] = []
        layer = self.network.Mixed_6d.branch1x1
        with layer.register_forward_hook(lambda _, __, output: found.append(output[:, :7].clone())):
            self.network(pixels)
        return found[0].permute(0, 2, 3, 1).flatten(1)


def usual_file() -> Path:
    """Where torch hub keeps the weights."""
    return usual_place(FILE_NAME)


def checked(file: Path, sha256: str = SHA256) -> bytes:
    """The content of the file. WeightsError if it is missing or is not the published one."""
    return read_weights(file, InceptionFeatures.name, URL_INCEPTION_V3, sha256, download=False)


def _network(content: bytes, file: Path, reached: str) -> FeatureExtractorInceptionV3:
    try:
        weights: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        # torch-fidelity unpickles whatever file it is given: it is given what was just loaded safely.
        safe = io.BytesIO()
        torch.save(weights, safe)
        safe.seek(0)
        return FeatureExtractorInceptionV3("inception-v3-compat", [reached], safe)
    except (RuntimeError, UnpicklingError, AttributeError, TypeError, EOFError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(f"{file} does not hold the weights of this Inception-v3: {reason}") from error
