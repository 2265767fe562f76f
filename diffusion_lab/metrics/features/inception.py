"""The Inception-v3 of the original FID: TensorFlow's graph of 2015-12-05 as torch-fidelity ported it.

2048 pooled features, whose Fréchet distance is "fid", and 2023 spatial ones, whose Fréchet distance is "sfid". With other weights
the distances have other names. The weights are not shipped: 91 MiB, published by torch-fidelity. Only tensors are unpickled
from the file.
"""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from diffusion_lab.metrics.features import Features, PublishedFeatures, read_weights, usual_place

FILE_NAME = URL_INCEPTION_V3.rsplit("/", 1)[1]
# Of the published file, whose name ends in its first eight digits; other users of the file publish the same.
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


class _OfInception(PublishedFeatures):
    """The output of one layer. sha256: with a digest other than the published one, the distance has another name."""

    distance: str  # the name of the Fréchet distance with the published weights
    reached: str  # torch-fidelity's name of the features up to which the network runs
    layer = ""  # the part of the output that is used, for the identity

    def __init__(self, path: str | Path | None = None, download: bool = False, sha256: str = SHA256) -> None:
        super().__init__(self.name, URL_INCEPTION_V3, self._build, path, download, sha256)
        self.sha256 = sha256
        self.identity = hashlib.sha256(f"{sha256} {self.layer}".encode()).hexdigest() if self.layer else sha256

    def _build(self, content: bytes) -> tuple[nn.Module, int]:
        # torch-fidelity would unpickle the file without a check, so it gets tensors that were loaded safely.
        safe = io.BytesIO()
        torch.save(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True), safe)
        safe.seek(0)
        return FeatureExtractorInceptionV3("inception-v3-compat", [self.reached], safe), self.dim

    @property
    def metric_name(self) -> str:
        return self.distance if self.sha256 == SHA256 else super().metric_name


class InceptionFeatures(_OfInception):
    """The 2048 averages of the last pooling layer, `pool_3:0` of the original graph."""

    name, dim = "inception", 2048
    kind = "the Inception-v3 of the original FID, a classifier trained with labels"
    distance, reached = "fid", "2048"

    def beside(self) -> Sequence[Features]:
        return (InceptionSpatialFeatures(self.file, sha256=self.sha256),)

    def vectors(self, pixels: Tensor) -> Tensor:
        return self.network(pixels)[0]

    @torch.no_grad()
    def class_logits(self, vectors: Tensor) -> Tensor:
        """Logits without the bias, as in the published Inception scores (Salimans et al. 2016)."""
        return vectors @ self.network.fc.weight.T.to(vectors)


class InceptionSpatialFeatures(_OfInception):
    """The first 7 channels of `mixed_6/conv:0` at 17 × 17 places: 2023 numbers that describe where things are in the image.

    As ADM's evaluator defines sFID (openai/guided-diffusion, `evaluations/evaluator.py`, commit 22e0df8), after Nash et al. 2021
    ("Generating images with sparse representations"). In the original graph that tensor is the first 1×1 convolution of the block
    `mixed_6` with its batch normalisation and its ReLU; torch-fidelity's converter of the weights names it `Mixed_6d.branch1x1`.
    Channels vary fastest, then columns, as TensorFlow lays them out: published mu_s and sigma_s have this order. Equality with
    ADM's evaluator has not been measured with the published weights.
    """

    name, dim = "inception_spatial", 7 * 17 * 17
    kind = "spatial features of the original FID's Inception-v3, a classifier trained with labels"
    distance, reached = "sfid", "768"  # the first features that torch-fidelity offers behind that layer
    layer = "mixed_6/conv:0 [..., :7]"
    moments_suffix = "_s"

    def vectors(self, pixels: Tensor) -> Tensor:
        found: list[Tensor] = []
        layer = self.network.Mixed_6d.branch1x1
        with layer.register_forward_hook(lambda _, __, output: found.append(output[:, :7].clone())):
            self.network(pixels)
        return found[0].permute(0, 2, 3, 1).flatten(1)


def usual_file() -> Path:
    """The path of the weights in the checkpoint folder of torch hub."""
    return usual_place(FILE_NAME)


def check_file(file: Path) -> None:
    """WeightsError if the file is missing or differs from the published one."""
    read_weights(file, InceptionFeatures.name, URL_INCEPTION_V3, SHA256, download=False)
