"""The vision transformer of DINOv2 without registers, whose sizes are those of its weights (Oquab et al. 2023).

    patches of 14×14 -> tokens, and a class token; + positions -> blocks -> norm of the class token
    block: x + γ_1·attention(norm x), then x + γ_2·mlp(norm x); an attention head has 64 channels

The names of the parameters are those of the published files.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

PATCH, HEAD, _EPS = 14, 64, 1e-6


class DINOv2(nn.Module):
    """network(x (B, 3, H, W), standardised, H and W multiples of 14) -> the class token (B, dim).

    side: patches along a side at which the positions were trained; others are interpolated. gated: the mlp of the largest.
    """

    def __init__(self, dim: int, depth: int, side: int, hidden: int, gated: bool):
        super().__init__()
        self.dim = dim
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side**2, dim))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, PATCH, stride=PATCH)})
        self.blocks = nn.ModuleList(Block(dim, hidden, gated) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, _EPS)

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> DINOv2:
        """The network of published weights, frozen. KeyError or RuntimeError if they are not its own."""
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
        """Bicubic, by factors that are 0.1 patches too large: the published models interpolate so."""
        side = round((self.pos_embed.shape[1] - 1) ** 0.5)
        if (height, width) == (side, side):
            return self.pos_embed
        grid = self.pos_embed[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        factors = ((height + 0.1) / side, (width + 0.1) / side)
        grid = functional.interpolate(grid, scale_factor=factors, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


class Block(nn.Module):
    """(B, tokens, dim) -> the same shape."""

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
        seen = functional.scaled_dot_product_attention(query, key, value)
        return self.attn["proj"](seen.transpose(1, 2).flatten(2))

    def _mlp(self, x: Tensor) -> Tensor:
        if not self.gated:
            return self.mlp["fc2"](functional.gelu(self.mlp["fc1"](x)))
        gate, rest = self.mlp["w12"](x).chunk(2, dim=-1)
        return self.mlp["w3"](functional.silu(gate) * rest)
