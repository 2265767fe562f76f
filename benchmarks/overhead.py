"""What the theory costs beside the network: operations of a training step, and time of a sampling step; what compiling saves.

It uses the public API alone, so the same file measures an older checkout too (`PYTHONPATH=OLD python -P overhead.py`).
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diffusion_lab.diffusion import (
    CosineSchedule,
    FixedLarge,
    GaussianDiffusion,
    Hybrid,
    LearnedRange,
    PredictVelocity,
    ReverseProcess,
    SampleNoise,
    Simple,
)
from diffusion_lab.networks import UNet
from diffusion_lab.sampling import AncestralSampler, DDIMSampler, EvenSpacing

SHAPE = (1, 28, 28)
GATHERS = ("index_select", "gather", "index.Tensor")


class Count(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operations = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operations[str(function)] += 1
        return function(*args, **(kwargs or {}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument(
        "--compile", action="store_true", help="instead: a loss and its gradient, eager and compiled, in CPU time"
    )
    options = parser.parse_args()
    torch.manual_seed(0)
    process = GaussianDiffusion(CosineSchedule(1000))
    if options.compile:
        compare_compiled(process, options.rounds, options.steps)
        return

    def reverse(variance, network=None):
        channels = SHAPE[0] * (1 + variance.outputs_per_channel)
        silent = {size: torch.zeros(size, channels, *SHAPE[1:]) for size in (1, 16, 128)}
        return ReverseProcess(network or (lambda x_t, t, y: silent[len(x_t)]), PredictVelocity(), variance)

    x_0, eps = torch.zeros(16, *SHAPE), torch.randn(16, *SHAPE)
    t = torch.randint(2, 1001, (16,))  # L_0 is one image in a thousand
    for objective, variance in ((Simple(), FixedLarge()), (Hybrid(), LearnedRange())):
        objective(process, reverse(variance), x_0, t, eps)
        with Count() as count:
            objective(process, reverse(variance), x_0, t, eps)
        gathers = sum(number for name, number in count.operations.items() if any(kind in name for kind in GATHERS))
        print(
            f"{type(objective).__name__}: {count.operations.total()} operations beside the network, {gathers} look-ups"
        )

    unet = UNet(
        1, 1, 28, None, base_channels=32, channel_multipliers=(1, 2, 2), attention_resolutions=(7,), head_channels=32
    )
    for size in (1, 128):
        noise = SampleNoise(0, torch.arange(size))
        x_T = noise.initial(SHAPE)
        with torch.no_grad():
            look = min(timed(lambda x=x_T: unet(x, torch.full((len(x),), 500), None)) for _ in range(options.rounds))
        for sampler in (DDIMSampler(EvenSpacing(options.steps)), AncestralSampler(EvenSpacing(options.steps))):
            taken = []
            for _ in range(options.rounds):
                with torch.no_grad():
                    taken.append(timed(lambda s=sampler, x=x_T, n=noise: s(process, reverse(FixedLarge()), x, noise=n)))
            best, middle = min(taken) / options.steps * 1e6, statistics.median(taken) / options.steps * 1e6
            print(
                f"batch {size}, {type(sampler).__name__}: a step {best:.0f} us beside the network (median {middle:.0f}); "
                f"a look of the network {look * 1e3:.2f} ms"
            )


def compare_compiled(process, rounds, steps) -> None:
    """The loss of the default network for Fashion-MNIST. Rounds take turns, so that a busy machine slows all ways alike."""
    x_0, eps, t = torch.randn(32, *SHAPE), torch.randn(32, *SHAPE), torch.randint(2, 1001, (32,))
    unet = UNet(1, 2, 28, None, 16, (1, 2, 4), num_res_blocks=1, attention_resolutions=(7,), held_channels=1)

    def loss_of(dtype, compiled):
        network, objective = copy.deepcopy(unet), Hybrid()
        terms = torch.compile(objective.__call__) if compiled else objective
        reverse = ReverseProcess(network, PredictVelocity(), LearnedRange())

        def step():
            network.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
                loss = terms(process, reverse, x_0, t, eps)["loss"].mean()
            loss.backward()

        return step

    kinds = [(dtype, how) for dtype in ("float32", "bf16") for how in ("eager", "compiled")]
    ways = {(dtype, how): loss_of(dtype, how == "compiled") for dtype, how in kinds}
    for way, step in ways.items():
        print(f"{' '.join(way)}: first step {timed(step):.1f} s", flush=True)
        step()
    taken = {way: [] for way in ways}
    for _ in range(rounds):
        for way, step in ways.items():
            start = time.process_time()
            for _ in range(steps):
                step()
            taken[way].append((time.process_time() - start) / steps)
    for (dtype, how), seconds in taken.items():
        ratios = sorted(eager / own for eager, own in zip(taken[dtype, "eager"], seconds, strict=True))
        speed = f"{statistics.median(ratios):.2f} times as fast as eager ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"{dtype} {how}: {statistics.median(seconds) * 1e3:.1f} ms of CPU a step, {speed}")


def timed(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
