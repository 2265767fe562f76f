"""DINOv2 and CLIP with weights that follow a rule: the published ones are not shipped, and every equation can be checked without.

    python -m tests.metrics.random_vision FOLDER

prints what the published code of DINOv2, a checkout in FOLDER, makes of `images()` with these weights. The numbers that the tests
have are those of facebookresearch/dinov2 at b8931f7.
"""

import hashlib
import io
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


def drawn(index: int, shape: torch.Size) -> Tensor:
    """Values of a weight, the same on every machine: matrices of unit gain, vectors around 0."""
    values = np.random.RandomState(index).standard_normal(math.prod(shape)).reshape(shape)  # never changes
    return torch.from_numpy(values / math.prod(shape[1:]) ** 0.5 if len(shape) >= 2 else 0.3 * values).float()


def by_the_rule(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names and shapes -> weights by the rule; the scales of norms and of residuals lie around 1."""
    made = {name: drawn(i, weights[name].shape) for i, name in enumerate(sorted(weights))}
    around_one = ("norm", "norm1", "norm2", "ln_pre", "ln_post", "ln_1", "ln_2")
    for name in made:
        *_, part, kind = name.split(".") if "." in name else ("", "", name)
        if kind == "gamma" or (kind == "weight" and part in around_one):
            made[name] = 1 + made[name]
    return made


def dinov2_shapes(dim: int = 64, depth: int = 2, gated: bool = False) -> dict[str, Tensor]:
    """Names and shapes of the parameters of a published network of these sizes."""
    hidden = (int(4 * dim * 2 / 3) + 7) // 8 * 8 if gated else 4 * dim
    block = {
        **{f"norm{i}.{kind}": (dim,) for i in (1, 2) for kind in ("weight", "bias")},
        "attn.qkv.weight": (3 * dim, dim),
        "attn.qkv.bias": (3 * dim,),
        "attn.proj.weight": (dim, dim),
        "attn.proj.bias": (dim,),
        "ls1.gamma": (dim,),
        "ls2.gamma": (dim,),
    }
    first, last, wide = ("w12", "w3", 2 * hidden) if gated else ("fc1", "fc2", hidden)
    block |= {f"mlp.{first}.weight": (wide, dim), f"mlp.{first}.bias": (wide,)}
    block |= {f"mlp.{last}.weight": (dim, hidden), f"mlp.{last}.bias": (dim,)}
    shapes = {"cls_token": (1, 1, dim), "pos_embed": (1, 1 + 37**2, dim), "mask_token": (1, dim)}
    shapes |= {"patch_embed.proj.weight": (dim, 3, 14, 14), "patch_embed.proj.bias": (dim,)}
    shapes |= {"norm.weight": (dim,), "norm.bias": (dim,)}
    shapes |= {f"blocks.{i}.{name}": shape for i in range(depth) for name, shape in block.items()}
    return {name: torch.empty(shape) for name, shape in shapes.items()}


def images(count: int = 2, side: int = 224) -> Tensor:
    """(count, 3, side, side) float32: waves of several lengths."""
    at = torch.arange(3 * side * side, dtype=torch.float64).view(3, side, side)
    return torch.stack([torch.sin(at * 0.013 * (i + 1)) + i for i in range(count)]).float()


def write_dinov2(path: Path, **sizes: int) -> str:
    """A file as published ones are; its SHA-256."""
    content = io.BytesIO()
    torch.save(by_the_rule(dinov2_shapes(**sizes)), content)
    path.write_bytes(content.getvalue())
    return hashlib.sha256(content.getvalue()).hexdigest()


def write_clip(path: Path) -> str:
    """A TorchScript archive of a small vision transformer of CLIP: patches of 32 pixels, 64×64 images, 2 blocks; its SHA-256."""
    from torch_fidelity.feature_extractor_clip import CLIPVisual

    weights = CLIPVisual(32, 64, 2, 64, 32).state_dict() | {"text_projection": torch.empty(4, 32)}
    tree = nn.Module()
    for name, weight in by_the_rule(weights).items():
        *parents, last = name.split(".")
        node = tree
        for parent in parents:
            if not hasattr(node, parent):
                node.add_module(parent, nn.Module())
            node = getattr(node, parent)
        node.register_buffer(last, weight)
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript, which the published file is
        torch.jit.save(torch.jit.script(tree), content)
    path.write_bytes(content.getvalue())
    return hashlib.sha256(content.getvalue()).hexdigest()


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    from dinov2.models.vision_transformer import DinoVisionTransformer

    for gated in (False, True):
        published = DinoVisionTransformer(
            img_size=518, patch_size=14, embed_dim=64, depth=2, num_heads=1, init_values=1.0, block_chunks=0,
            ffn_layer="swiglufused" if gated else "mlp",
        )  # fmt: skip
        published.load_state_dict(by_the_rule(dinov2_shapes(gated=gated)))
        with torch.no_grad():
            print(gated, [[round(float(value), 5) for value in row[:4]] for row in published.eval()(images())])
