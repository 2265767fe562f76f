"""Group norm, scale-shift and SiLU: ours beside PyTorch's own operations, forward + backward, on CPU.

    python benchmarks/group_norm.py [--rounds 10] [--threads 2]

The three contenders (ours in channels-last, PyTorch in channels-last, PyTorch in NCHW) take turns; the best round counts.
"""

import argparse
import time

import torch
from torch import Tensor
from torch.nn import functional

from diffusion_lab.networks.memory import keep_freed_memory
from diffusion_lab.networks.norm import num_groups_for, scale_shift_group_norm

BATCH = 64
IMAGES = [(64, 32), (192, 16), (128, 8)]  # channels, side


def ours(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return scale_shift_group_norm(x, num_groups_for(x.shape[1]), weight, bias, scale, shift, silu=True)


def theirs(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    normed = functional.group_norm(x, num_groups_for(x.shape[1]), weight.to(x.dtype), bias.to(x.dtype))
    return functional.silu(normed * (1 + scale[..., None, None]) + shift[..., None, None])


CONTENDERS = {
    "ours": (ours, torch.channels_last),
    "PyTorch channels-last": (theirs, torch.channels_last),
    "PyTorch NCHW": (theirs, torch.contiguous_format),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    kept = keep_freed_memory()
    print(f"torch {torch.__version__}, {options.threads} threads, freed memory kept: {kept}; batch {BATCH}")
    print("milliseconds, forward + backward, best of", options.rounds)
    for channels, side in IMAGES:
        for dtype in (torch.float32, torch.bfloat16):
            table = [torch.randn(BATCH, channels, dtype=dtype, requires_grad=True) for _ in range(2)]
            leaves = [torch.randn(channels, requires_grad=True) for _ in range(2)] + table
            best: dict[str, tuple[float, float]] = {}
            images, gradients = torch.randn(2, BATCH, channels, side, side, dtype=dtype)
            given = {
                name: (images.to(memory_format=layout).requires_grad_(), gradients.to(memory_format=layout))
                for name, (_, layout) in CONTENDERS.items()
            }
            for _ in range(options.rounds):
                for name, (norm, _) in CONTENDERS.items():
                    x, gradient = given[name]
                    start = time.perf_counter()
                    output = norm(x, *leaves)
                    between = time.perf_counter()
                    torch.autograd.grad(output, [x, *leaves], gradient)
                    times = (between - start, time.perf_counter() - between)
                    best[name] = min(best.get(name, times), times, key=sum)
            figures = ", ".join(f"{name} {1e3 * a:.1f} + {1e3 * b:.1f}" for name, (a, b) in best.items())
            print(f"{channels} channels, {side}x{side}, {str(dtype).removeprefix('torch.')}: {figures}")


if __name__ == "__main__":
    main()
