"""DINOv2 (Oquab et al. 2023) and CLIP (Radford et al. 2021) as features of images, resized as torch-fidelity resizes.

Toolkits resize differently and their distances differ, so the name of a distance includes the resize. DINOv2 is the vision
transformer without registers, with sizes that follow from its weights:

    patches of 14×14 -> tokens, and a class token; + positions -> blocks -> norm of the class token
    block: x + γ_1·attention(norm x), then x + γ_2·mlp(norm x); an attention head has 64 channels

The names of its parameters are those of the published files.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch_fidelity.feature_extractor_clip import MODEL_METADATA, MODEL_URLS, FeatureExtractorCLIP
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torchvision.transforms.functional import normalize

from diffusion_lab.metrics.features import PublishedFeatures

SIDE = 224
PATCH, HEAD, _EPS = 14, 64, 1e-6
_DINOV2 = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vit{0}14/dinov2_vit{0}14_pretrain.pth"
# Digests computed from the published files by several of their users.
SHA256 = {
    "dinov2_s": "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9",
    "dinov2_b": "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73",
    "dinov2_l": "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    "dinov2_g": "baf8467e50af277596bbbafa06887c177ee899ab46033649c383577d7e9309d3",
    "clip_b_32": MODEL_METADATA["clip-vit-b-32"]["hash"],
}


class VisionFeatures(PublishedFeatures):
    """The output of a transformer for images of 224×224. sha256=None: the digest of the published file."""

    @property
    def metric_name(self) -> str:
        return f"fd_{self.name}_bilinear{SIDE}"  # TensorFlow 1's, without antialiasing


class DINOv2Features(VisionFeatures):
    """The class token of DINOv2's last layer: 384 numbers (s), 768 (b), 1024 (l), 1536 (g).

    name: dinov2_s, dinov2_b, dinov2_l or dinov2_g. path, download, sha256: as in `PublishedFeatures`.
    """

    kind = "features of DINOv2, trained on images without labels"

    def __init__(
        self, name: str, path: str | Path | None = None, download: bool = False, sha256: str | None = None
    ) -> None:
        url = _DINOV2.format(name.removeprefix("dinov2_"))
        super().__init__(name, url, _dinov2, path, download, sha256 or SHA256[name])

    def vectors(self, pixels: Tensor) -> Tensor:
        x = interpolate_bilinear_2d_like_tensorflow1x(pixels.float(), size=(SIDE, SIDE), align_corners=False)
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        return self.network(normalize(x, [255 * value for value in mean], [255 * value for value in std]))


class CLIPFeatures(VisionFeatures):
    """The image embedding of CLIP's ViT-B/32, 512 numbers, by torch-fidelity's extractor.

    The published file is a TorchScript archive, which is opened only with the right hash.
    """

    kind = "features of CLIP, trained on images with captions"

    def __init__(self, path: str | Path | None = None, download: bool = False, sha256: str | None = None) -> None:
        name, published = "clip_b_32", SHA256["clip_b_32"]
        file_name = f"clip-vit-b-32-{published}.pt"
        super().__init__(name, MODEL_URLS["clip-vit-b-32"], _clip, path, download, sha256 or published, file_name)

    def vectors(self, pixels: Tensor) -> Tensor:
        return self.network(pixels)[0]


def _dinov2(content: bytes) -> tuple[nn.Module, int]:
    network = DINOv2.of(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
    return network, network.dim


def _clip(content: bytes) -> tuple[nn.Module, int]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.jit", FutureWarning)  # CLIP was published as TorchScript
        network: Any = FeatureExtractorCLIP("clip-vit-b-32", ["clip"], io.BytesIO(content))
    return network, network.model.visual.output_dim


class DINOv2(nn.Module):
    """The vision transformer of DINOv2: x (B, 3, H, W), standardised, H and W multiples of 14 -> the class token (B, dim).

    dim: channels of a token. depth: number of blocks. side: patches along a side at which the positions were trained; others are
    interpolated. hidden: channels of the hidden layer of an mlp. gated: whether the mlp is gated, as in the largest model.
    """

    def __init__(self, dim: int, depth: int, side: int, hidden: int, gated: bool):
        super().__init__()
        self.dim = dim
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side**2, dim))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, PATCH, stride=PATCH)})
        self.blocks = nn.ModuleList(_Block(dim, hidden, gated) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, _EPS)

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> DINOv2:
        """The network with published weights, frozen. KeyError or RuntimeError if they do not fit."""
        dim = weights["cls_token"].shape[-1]
        depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
        gated = "blocks.0.mlp.w12.weight" in weights
        hidden = weights["blocks.0.mlp.w3.weight" if gated else "blocks.0.mlp.fc2.weight"].shape[1]
        with torch.device("meta"):
            network = cls(dim, depth, round((weights["pos_embed"].shape[1] - 1) ** 0.5), hidden, gated)
        own = {name: weight.float() for name, weight in weights.items() if name != "mask_token"}
        network.load_state_dict(own, assign=True)
        return network.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch_embed["proj"](x)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        tokens = tokens + self._positions(*patches.shape[-2:])
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens[:, 0])

    def _positions(self, height: int, width: int) -> Tensor:
        """Positions of the tokens, interpolated bicubically by factors 0.1 patches too large, as in the published models."""
        side = round((self.pos_embed.shape[1] - 1) ** 0.5)
        if (height, width) == (side, side):
            return self.pos_embed
        grid = self.pos_embed[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        factors = ((height + 0.1) / side, (width + 0.1) / side)
        grid = F.interpolate(grid, scale_factor=factors, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


class _Block(nn.Module):
    """A block of the transformer: tokens (B, tokens, dim) -> the same shape."""

    def __init__(self, dim: int, hidden: int, gated: bool):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, _EPS), nn.LayerNorm(dim, _EPS)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(dim, 3 * dim), "proj": nn.Linear(dim, dim)})
        self.ls1, self.ls2 = (nn.ParameterDict({"gamma": nn.Parameter(torch.ones(dim))}) for _ in range(2))
        first, last = ("w12", "w3") if gated else ("fc1", "fc2")
        self.mlp = nn.ModuleDict({first: nn.Linear(dim, hidden * (1 + gated)), last: nn.Linear(hidden, dim)})
        self.gated = gated

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1["gamma"] * self._attention(self.norm1(x))
        return x + self.ls2["gamma"] * self._mlp(self.norm2(x))

    def _attention(self, x: Tensor) -> Tensor:
        query, key, value = self.attn["qkv"](x).unflatten(-1, (3, -1, HEAD)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value)
        return self.attn["proj"](seen.transpose(1, 2).flatten(2))

    def _mlp(self, x: Tensor) -> Tensor:
        if not self.gated:
            return self.mlp["fc2"](F.gelu(self.mlp["fc1"](x)))
        gate, rest = self.mlp["w12"](x).chunk(2, dim=-1)
        return self.mlp["w3"](F.silu(gate) * rest)
