"""Hours and memory of the recipes for one card, from counted operations: estimates, which need no card and no data.

    python benchmarks/estimate.py --card H100 --mfu 0.25

MFU is 3 × the FLOPs of an evaluation × images per second / the card's dense bf16 peak.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from unittest.mock import patch

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from diffusion_lab.conf_dir import CONF
from diffusion_lab.config.build import state_shape
from diffusion_lab.networks import blocks, transformer_blocks
from diffusion_lab.training.speed import peak_of


@dataclass(frozen=True)
class Recipe:
    """Options of `train`, and the shape of the images (C, H, W)."""

    options: str
    shape: tuple[int, int, int]


_DIT_B = "experiment=fast_imagenet64 network=diffusion/dit network.size=B network.patch_size=4"
_JIT_B = "experiment=fast_imagenet64 network=diffusion/jit network.size=B network.patch_size=16"
_JIT = "prediction=start weighting=flow schedule=rectified timesteps=logit_normal objective=simple variance=fixed_large"
RECIPES = {
    "fast_cifar10": Recipe("experiment=fast_cifar10", (3, 32, 32)),
    "fast_imagenet64": Recipe("experiment=fast_imagenet64", (3, 64, 64)),
    # 400,000 steps of 256 images, by which Peebles & Xie 2023 compare sizes and patches (on latents).
    "DiT-B/4, 64×64": Recipe(f"{_DIT_B} data.batch_size=256 default_steps=400000", (3, 64, 64)),
    # 200 epochs of 1.28 M images, 1,024 a step, the shorter training of Li & He 2025.
    "JiT-B/16, 256×256": Recipe(f"{_JIT_B} {_JIT} data.batch_size=1024 default_steps=250000", (3, 256, 256)),
}


def estimate(recipe: Recipe, peak: float, mfu: float) -> dict[str, float]:
    """Hours and memory of a recipe on a card. The tensors are fake: they have shapes, but no values."""
    shape = recipe.shape
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=recipe.options.split())
    state_shape(cfg, shape, 256, [cfg.condition.gradient_clusters.num_clusters])
    batch, activations = cfg.data.batch_size // cfg.trainer.accumulate_grad_batches, []
    for recompute in (True, False):
        cfg.network.activation_checkpointing = recompute
        model = instantiate(cfg.model)
        generator = model.generator()
        with FakeTensorMode(allow_non_fake_inputs=True):
            cost = generator.cost()
            few, more = (kept_bytes(model.network, shape, number) for number in (1, 2))
        activations.append((few + (batch - 1) * (more - few)) / 1e9)
    # Weights, gradient, momentum, the averages by decay, and the two power averages for evaluation.weights=ema_rel_….
    copies = 3 + len(cfg.ema.decays) + 2
    images, rate = cfg.default_steps * cfg.data.batch_size, mfu * peak / cost.forward_flops
    return {
        "million parameters": cost.parameters / 1e6,
        "GFLOPs an evaluation": cost.forward_flops / 1e9,
        "million images": images / 1e6,
        "hours of training": model.training_evaluations * images / rate / 3600,
        "minutes of drawing": cfg.evaluation.num_samples * generator.nfe / rate / 60,
        "GB of activations": activations[1],
        "with network.activation_checkpointing=true": activations[0],
        "GB of weights and averages": 4 * copies * cost.parameters / 1e9,
    }


def kept_bytes(network: nn.Module, shape: tuple[int, ...], number: int) -> int:
    """What an evaluation in bf16 on so many images keeps for the backward pass, beside the weights.

    Attention is fused as on a GPU, and keeps no matrix of N² weights; plain products, as `attend` takes in bf16 on a CPU, would.
    """
    own = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(storage._cdata, storage)
        return tensor

    x_t, zeros = torch.randn(number, *shape), torch.zeros(number, dtype=torch.int64)
    fused = functional.scaled_dot_product_attention
    with (
        patch.object(blocks, "attend", fused),
        patch.object(transformer_blocks, "attend", fused),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
    ):
        network(x_t, zeros, zeros)
    return sum(storage.nbytes() for key, storage in kept.items() if key not in own)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--card", default="H100", help="a part of its name")
    parser.add_argument("--mfu", type=float, default=0.25, help="the share of its peak that is reached")
    options = parser.parse_args()
    peak = peak_of(options.card)
    if peak is None:
        parser.error(f"--card {options.card}: its peak is not known; see diffusion_lab/training/speed.py")
    found = {name: estimate(recipe, peak, options.mfu) for name, recipe in RECIPES.items()}
    heads = next(iter(found.values()))
    print(
        f"Estimates, never measured: {options.mfu:.0%} of the dense bf16 peak of {options.card}, {peak / 1e12:.4g} TFLOPS\n"
    )
    print("| | " + " | ".join(heads) + " |\n" + "|---" * (1 + len(heads)) + "|")
    for name, numbers in found.items():
        print(f"| `{name}` | " + " | ".join(f"{number:.3g}" for number in numbers.values()) + " |")


if __name__ == "__main__":
    main()
