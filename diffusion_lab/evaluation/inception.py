"""The Inception-v3 of the original FID: TensorFlow's graph of 2015-12-05 as torch-fidelity ported it, 2048 features.

Only with these weights is a Fréchet distance called "fid". They are not shipped: 91 MiB, published by torch-fidelity.
The file is hashed before anything looks into it, and nothing in it is unpickled but tensors.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from diffusion_lab.data.levels import to_levels
from diffusion_lab.evaluation.classifiers import WeightsError
from diffusion_lab.evaluation.features import Features
from diffusion_lab.evaluation.weight_files import read_weights, usual_place

FILE_NAME = URL_INCEPTION_V3.rsplit("/", 1)[1]
# Its first eight digits end the file's name; all of them are as several users of the file have published them.
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
CHUNK = 32  # images through the network at a time: at 299×299 its first layers take 25 MiB an image


class InceptionFeatures(Features):
    """The 2048 averages of the last pooling layer, float32, under autocast too. Grey images are shown in three channels.

    path: the weights; None: FILE_NAME in the checkpoint folder of torch hub. download: fetch a file that is not there,
    once. sha256: what the file must hash to; with another than the published one the distance is no FID and is not called
    so. Raises WeightsError, in one sentence.
    """

    name = "inception"
    dim = 2048

    def __init__(self, path: str | Path | None = None, download: bool = False, sha256: str = SHA256) -> None:
        super().__init__()
        file = Path(path) if path is not None else usual_file()
        self.network = _network(read_weights(file, self.name, URL_INCEPTION_V3, sha256, download), file)
        self.identity = sha256

    @property
    def metric_name(self) -> str:
        return "fid" if self.identity == SHA256 else super().metric_name

    def check(self, shape: Sequence[int]) -> None:
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise ValueError(
                f"features=inception works for images with 1 or 3 channels, but the data have shape {tuple(shape)}: "
                "choose features=pixels."
            )

    def train(self, mode: bool = True) -> "InceptionFeatures":
        """Batch normalisation always uses the stored moments: a ruler has no mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """x (B, 1 or 3, H, W) of any size: shown as uint8, which is what this network was defined on."""
        pixels = to_levels(x, 256).expand(-1, 3, -1, -1)
        with torch.autocast(x.device.type, enabled=False):
            return torch.cat([self.network(chunk)[0] for chunk in pixels.split(CHUNK)])

    @torch.no_grad()
    def class_logits(self, vectors: Tensor) -> Tensor:
        """Without the bias, as the published Inception scores have it (Salimans et al. 2016)."""
        return vectors @ self.network.fc.weight.T.to(vectors)


def usual_file() -> Path:
    """Where torch hub keeps the weights."""
    return usual_place(FILE_NAME)


def checked(file: Path, sha256: str = SHA256) -> bytes:
    """The content of the file. WeightsError if it is missing or is not the published one."""
    return read_weights(file, InceptionFeatures.name, URL_INCEPTION_V3, sha256, download=False)


def _network(content: bytes, file: Path) -> FeatureExtractorInceptionV3:
    try:
        weights: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        # torch-fidelity unpickles whatever file it is given: it is given what was just loaded safely.
        safe = io.BytesIO()
        torch.save(weights, safe)
        safe.seek(0)
        return FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], safe)
    except (RuntimeError, UnpicklingError, AttributeError, TypeError, EOFError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(f"{file} does not hold the weights of this Inception-v3: {reason}") from error
