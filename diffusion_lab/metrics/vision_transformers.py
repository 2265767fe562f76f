"""DINOv2 (Oquab et al. 2023) and CLIP (Radford et al. 2021) as features of images, resized as torch-fidelity resizes.

Toolkits resize in other ways and their distances differ, so a distance has the resize in its name. The files are hashed before
anything looks into them.
"""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn
from torch_fidelity.feature_extractor_clip import MODEL_METADATA, MODEL_URLS, FeatureExtractorCLIP
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torchvision.transforms.functional import normalize

from diffusion_lab.diffusion.levels import to_levels
from diffusion_lab.metrics.classifiers import WeightsError
from diffusion_lab.metrics.dinov2 import DINOv2
from diffusion_lab.metrics.features import Features
from diffusion_lab.metrics.weight_files import read_weights, usual_place

CHUNK = 32  # images through the network at a time
SIDE = 224
_RESIZE = f"bilinear{SIDE}"  # TensorFlow 1's, without antialiasing
_DINOV2 = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vit{0}14/dinov2_vit{0}14_pretrain.pth"
# Computed from the published files by several of their users.
SHA256 = {
    "dinov2_s": "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9",
    "dinov2_b": "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73",
    "dinov2_l": "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    "dinov2_g": "baf8467e50af277596bbbafa06887c177ee899ab46033649c383577d7e9309d3",
    "clip_b_32": MODEL_METADATA["clip-vit-b-32"]["hash"],
}


class VisionFeatures(Features):
    """float32, under autocast too. Images are shown as uint8, grey ones in three channels, of any size."""

    network: nn.Module

    @property
    def metric_name(self) -> str:
        return f"fd_{self.name}_{_RESIZE}"

    def check(self, shape: Sequence[int]) -> None:
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise ValueError(
                f"features={self.name} works for images with 1 or 3 channels, but the data have shape {tuple(shape)}: "
                "choose features=pixels."
            )

    def train(self, mode: bool = True) -> "VisionFeatures":
        """Feature networks have no training mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        pixels = to_levels(x, 256).expand(-1, 3, -1, -1)
        with torch.autocast(x.device.type, enabled=False):
            return torch.cat([self._look(chunk) for chunk in pixels.split(CHUNK)])

    def _look(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> (B, dim) float32."""
        raise NotImplementedError


class DINOv2Features(VisionFeatures):
    """The class token of DINOv2's last layer: 384 numbers (s), 768 (b), 1024 (l), 1536 (g).

    name: dinov2_s, dinov2_b, dinov2_l or dinov2_g. path: the weights; None: the checkpoint folder of torch hub. download: fetch a
    file that is not there. sha256: None: that of the published file. Raises WeightsError, in one sentence.
    """

    kind = "features of DINOv2, trained on images without labels"

    def __init__(
        self, name: str, path: str | Path | None = None, download: bool = False, sha256: str | None = None
    ) -> None:
        super().__init__()
        url = _DINOV2.format(name.removeprefix("dinov2_"))
        file = Path(path) if path is not None else usual_place(url.rsplit("/", 1)[1])
        self.name, self.identity = name, sha256 or SHA256[name]
        content = read_weights(file, name, url, self.identity, download)
        try:
            self.network = DINOv2.of(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
        except (RuntimeError, UnpicklingError, AttributeError, LookupError, TypeError, EOFError) as error:
            raise _not_its_weights(file, error) from error
        self.dim = self.network.dim

    def _look(self, pixels: Tensor) -> Tensor:
        x = interpolate_bilinear_2d_like_tensorflow1x(pixels.float(), size=(SIDE, SIDE), align_corners=False)
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        return self.network(normalize(x, [255 * value for value in mean], [255 * value for value in std]))


class CLIPFeatures(VisionFeatures):
    """The image embedding of CLIP's ViT-B/32, 512 numbers, by torch-fidelity's extractor.

    path, download, sha256: as of DINOv2. The published file is a TorchScript archive, which is opened only with the right hash.
    """

    name = "clip_b_32"
    kind = "features of CLIP, trained on images with captions"

    def __init__(self, path: str | Path | None = None, download: bool = False, sha256: str | None = None) -> None:
        super().__init__()
        url, self.identity = MODEL_URLS["clip-vit-b-32"], sha256 or SHA256[self.name]
        file = Path(path) if path is not None else usual_place(f"clip-vit-b-32-{SHA256[self.name]}.pt")
        content = read_weights(file, self.name, url, self.identity, download)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*torch.jit", FutureWarning)  # CLIP was published as TorchScript
                self.network = FeatureExtractorCLIP("clip-vit-b-32", ["clip"], io.BytesIO(content))
        except (RuntimeError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise _not_its_weights(file, error) from error
        self.dim = self.network.model.visual.output_dim

    def _look(self, pixels: Tensor) -> Tensor:
        return self.network(pixels)[0]


def _not_its_weights(file: Path, error: Exception) -> WeightsError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return WeightsError(f"{file} does not hold the weights of this network: {reason}")
