"""Training throughput of our U-Net and our DiT beside diffusers' networks of the same size, on CPU.

    python benchmarks/throughput.py [--dtypes fp32 bf16] [--batch-size 64] [--rounds 5] [--threads 2] [--profile]
    python benchmarks/throughput.py --sampling --rounds 10
    python benchmarks/throughput.py --contenders dit 'diffusers dit' --dtypes bf16 [--patch-size 2]
    python benchmarks/throughput.py --contenders digits --batch-size 128 --rounds 50 --dtypes fp32

One step is forward, mean square error, backward, AdamW and an exponential moving average of the weights: the same code for
each network; with --sampling it is one evaluation without gradients. Every round times one step of each contender in turn
(A B C A B C …), so a slow minute of the machine falls on all of them. Quotients are of the first contender. Contenders: ours
(channels-last inside), diffusers as it ships (NCHW), diffusers in channels-last; DiT-XS, ours and diffusers' with the same
weights; or, for itself, the network that the default command trains on digits. Needs `diffusers`, which the project itself does
not.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusion_lab.interop.transformer_weights import DIFFUSERS_PERIOD, from_dit
from diffusion_lab.networks import Transformer, UNet
from diffusion_lab.networks.flops import network_cost
from diffusion_lab.training.speed import compile_network, keep_freed_memory

SIZE, CHANNELS, CLASSES = 32, 1, 10
COMPARED = ["ours", "diffusers", "diffusers channels-last"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Diffusers(nn.Module):
    """diffusers' UNet2DModel with the options that make it our network, called as ours is."""

    def __init__(self, memory_format: torch.memory_format):
        super().__init__()
        from diffusers import UNet2DModel

        self.memory_format = memory_format
        self.unet = UNet2DModel(
            sample_size=SIZE,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            layers_per_block=2,
            block_out_channels=(64, 128, 128),
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=64,
            resnet_time_scale_shift="scale_shift",
        ).to(memory_format=memory_format)

    def forward(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        return self.unet(x_t.contiguous(memory_format=self.memory_format), timesteps).sample.float()


class DiffusersDiT(nn.Module):
    """diffusers' DiTTransformer2DModel of the size XS, called as ours is, without classes."""

    def __init__(self, patch_size: int):
        super().__init__()
        from diffusers import DiTTransformer2DModel

        self.transformer = DiTTransformer2DModel(
            num_attention_heads=3,
            attention_head_dim=64,
            num_layers=6,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            sample_size=SIZE,
            patch_size=patch_size,
            num_embeds_ada_norm=CLASSES,
            norm_eps=1e-6,
        )
        first = self.transformer.transformer_blocks[0].norm1.emb.state_dict()
        for block in self.transformer.transformer_blocks:
            block.norm1.emb.load_state_dict(first)

    def forward(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        no_class = torch.full_like(timesteps, CLASSES)
        return self.transformer(x_t, timesteps, no_class).sample.float()


def dit(patch_size: int) -> Transformer:
    """Our DiT-XS with the weights of a new one of diffusers."""
    network = Transformer(
        CHANNELS, CHANNELS, SIZE, CLASSES, size="XS", patch_size=patch_size, max_period=DIFFUSERS_PERIOD
    )
    network.load_state_dict(from_dit(DiffusersDiT(patch_size).transformer.state_dict(), network, "diffusers"))
    return network


def ours() -> UNet:
    return UNet(CHANNELS, CHANNELS, SIZE, base_channels=64, channel_multipliers=(1, 2, 2), num_res_blocks=2)


def digits() -> UNet:
    """conf/network/diffusion/8x8.yaml."""
    return UNet(
        CHANNELS,
        CHANNELS,
        8,
        base_channels=32,
        channel_multipliers=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(4,),
    )


# name -> the network, for a side of the patches
CONTENDERS: dict[str, Callable[[int], nn.Module]] = {
    "ours": lambda _: ours(),
    "diffusers": lambda _: Diffusers(torch.contiguous_format),
    "diffusers channels-last": lambda _: Diffusers(torch.channels_last),
    "dit": dit,
    "diffusers dit": DiffusersDiT,
    "digits": lambda _: digits(),
}


def training_step(network: nn.Module, size: int, dtype: torch.dtype, batch_size: int) -> Callable[[], None]:
    """A function that trains `network` by one step on random images."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    averages = [parameter.detach().clone() for parameter in network.parameters()]
    x_0 = torch.randn(batch_size, CHANNELS, size, size)

    def step() -> None:
        eps, timesteps = torch.randn_like(x_0), torch.randint(0, 1000, (batch_size,))
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            output = network(x_0 + eps, timesteps)
        functional.mse_loss(output, eps).backward()
        optimizer.step()
        optimizer.zero_grad()
        torch._foreach_lerp_(averages, [parameter.detach() for parameter in network.parameters()], 1e-3)

    return step


def evaluation(network: nn.Module, size: int, dtype: torch.dtype, batch_size: int) -> Callable[[], None]:
    """A function that evaluates `network` once on random images, as every step of a sampler does."""
    x_t, timesteps = torch.randn(batch_size, CHANNELS, size, size), torch.full((batch_size,), 500)

    @torch.inference_mode()
    def step() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            network(x_t, timesteps)

    return step


def seconds(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def machine() -> str:
    """Processor, cores and which bfloat16 instructions they have."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    facts = dict(reversed([[part.strip() for part in line.split(":", 1)] for line in lines if ":" in line]))
    flags = facts.get("flags", "").split()
    bf16 = [flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags]
    name = f"{facts.get('model name', platform.processor())}, family {facts.get('cpu family', '?')}"
    widest = torch.backends.cpu.get_cpu_capability()
    return f"{name}, {torch.get_num_threads()} threads, {widest}, bf16 instructions: {', '.join(bf16) or 'none'}"


def profile(name: str, step: Callable[[], None]) -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        step()
    print(f"\n{name}, one step, by self time")
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=45))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=COMPARED)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--patch-size", type=int, default=4, help="of the transformers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--sampling", action="store_true", help="time evaluations without gradients in place of training steps"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile the first network (a minute or more)")
    parser.add_argument("--keep-memory", action="store_true", help="keep freed memory (training/speed.py)")
    parser.add_argument("--profile", action="store_true", help="print where each step's time goes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.keep_memory and not keep_freed_memory():
        print("--keep-memory: this C library cannot")

    print(f"torch {torch.__version__}; {machine()}")
    sizes = {name: 8 if name == "digits" else SIZE for name in options.contenders}
    work = "evaluations without gradients" if options.sampling else "AdamW and EMA in every step"
    print(f"batch {options.batch_size}, {options.rounds} rounds; {work}")
    networks = {}
    for name in options.contenders:
        torch.manual_seed(0)
        networks[name] = CONTENDERS[name](options.patch_size)
    first = options.contenders[0]
    for name, network in networks.items():
        cost = network_cost(network, (CHANNELS, sizes[name], sizes[name]))
        flops = f"{cost.forward_flops / 1e9:.3f} GFLOP forward (multiply-add = 2)"
        print(f"{name:<24} {cost.parameters:,} parameters, {sizes[name]}x{sizes[name]}, {flops}")
    if options.compile and (notice := compile_network(networks[first])):
        print(notice)

    build = evaluation if options.sampling else training_step
    medians: dict[str, dict[str, float]] = {}
    for dtype in options.dtypes:
        steps = {
            name: build(network, sizes[name], DTYPES[dtype], options.batch_size) for name, network in networks.items()
        }
        for step in steps.values():
            step()
        rounds = [{name: seconds(step) for name, step in steps.items()} for _ in range(options.rounds)]
        print(f"\n{dtype:<24} {'img/s median':>12} {'min':>8} {'max':>8}")
        for name in steps:
            speeds = [options.batch_size / times[name] for times in rounds]
            medians.setdefault(dtype, {})[name] = statistics.median(speeds)
            print(f"{name:<24} {medians[dtype][name]:12.2f} {min(speeds):8.2f} {max(speeds):8.2f}", end="")
            if name != first:
                ratios = sorted(times[name] / times[first] for times in rounds)
                print(
                    f"   {first} is {statistics.median(ratios):.2f} times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f})",
                    end="",
                )
            print()
        if options.profile:
            for name, step in steps.items():
                profile(f"{name}, {dtype}", step)
    if {"fp32", "bf16"} <= medians.keys() and {"ours", "diffusers"} <= networks.keys():
        ratio = medians["bf16"]["ours"] / medians["fp32"]["diffusers"]
        print(f"\nours in bf16 is {ratio:.2f} times diffusers in fp32")


if __name__ == "__main__":
    main()
