"""Group norm, scale-shift and SiLU: ours beside PyTorch's own operations, forward + backward, on CPU.

    python benchmarks/group_norm.py [--rounds 10] [--threads 2] [--beside OLD/norm.py]

The contenders take turns, so a slow minute falls on all of them: ours in channels-last, PyTorch in channels-last, PyTorch in NCHW,
and with --beside another version of our file. Times are CPU time, which other processes disturb least.
"""

import argparse
import statistics
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional

from diffusion_lab.networks import norm
from diffusion_lab.training.speed import keep_freed_memory

BATCH = 64
IMAGES = [(64, 32), (192, 16), (128, 8)]  # channels, side


def ours(module: ModuleType):
    def fused(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        groups = norm.num_groups_for(x.shape[1])
        return module.scale_shift_group_norm(x, groups, weight, bias, scale, shift, silu=True)

    return fused


def theirs(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    groups = norm.num_groups_for(x.shape[1])
    normed = functional.group_norm(x, groups, weight.to(x.dtype), bias.to(x.dtype))
    return functional.silu(normed * (1 + scale[..., None, None]) + shift[..., None, None])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--beside", type=Path, help="another version of networks/norm.py")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    kept = keep_freed_memory()
    contenders = {
        "ours": (ours(norm), torch.channels_last),
        "PyTorch channels-last": (theirs, torch.channels_last),
        "PyTorch NCHW": (theirs, torch.contiguous_format),
    }
    if options.beside:
        spec = spec_from_file_location("other_norm", options.beside)
        other = module_from_spec(spec)
        spec.loader.exec_module(other)
        contenders["the other version"] = (ours(other), torch.channels_last)
    print(f"torch {torch.__version__}, {options.threads} threads, freed memory kept: {kept}; batch {BATCH}")
    print("CPU milliseconds, forward + backward, best and (median) of", options.rounds)
    for channels, side in IMAGES:
        for dtype in (torch.float32, torch.bfloat16):
            table = [torch.randn(BATCH, channels, dtype=dtype, requires_grad=True) for _ in range(2)]
            leaves = [torch.randn(channels, requires_grad=True) for _ in range(2)] + table
            images, gradients = torch.randn(2, BATCH, channels, side, side, dtype=dtype)
            given = {
                name: (images.to(memory_format=layout).requires_grad_(), gradients.to(memory_format=layout))
                for name, (_, layout) in contenders.items()
            }
            times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
            for _ in range(options.rounds):
                for name, (function, _) in contenders.items():
                    x, gradient = given[name]
                    start = time.process_time()
                    output = function(x, *leaves)
                    between = time.process_time()
                    torch.autograd.grad(output, [x, *leaves], gradient)
                    times[name].append((1e3 * (between - start), 1e3 * (time.process_time() - between)))
            figures = ", ".join(f"{name} {_best_and_median(pairs)}" for name, pairs in times.items())
            print(f"{channels} channels, {side}x{side}, {str(dtype).removeprefix('torch.')}: {figures}")


def _best_and_median(times: list[tuple[float, float]]) -> str:
    return " + ".join(f"{min(part):.1f} ({statistics.median(part):.1f})" for part in zip(*times, strict=True))


if __name__ == "__main__":
    main()
