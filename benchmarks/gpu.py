"""What a card does: throughput and MFU beside diffusers, sampling, two precisions, GPU against CPU, trainings by all measures.

    python benchmarks/gpu.py --minutes 9 --out gpu
    python benchmarks/gpu.py --minutes 9 --out gpu --cifar10 data/cifar10
    python benchmarks/gpu.py --device cpu --tiny --out tiny

Each call works for so many minutes and then prints one table, `table.md`, and draws one figure, `figure.png`. The same command
again goes on: what is finished is in `results.json` and not measured again, and a training resumes where it stopped. Every piece
runs in a process of its own, so one that fails takes nothing with it; it is tried again, after all others, by the next call.
diffusers, which the project does not need, is left out where it is not installed.

MFU is 3 × the counted FLOPs of an evaluation × images per second / the card's dense bf16 peak. A piece's first step, with its
compilation and the choice of kernels, is `warm_up_s` and in no rate. Not run on a GPU yet.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusion_lab.diffusion import (
    FixedSmall,
    GaussianDiffusion,
    LinearSchedule,
    PredictNoise,
    ReverseProcess,
    SampleNoise,
)
from diffusion_lab.networks import UNet
from diffusion_lab.networks.flops import network_cost
from diffusion_lab.sampling import DDIMSampler, EvenSpacing
from diffusion_lab.store import newest_model
from diffusion_lab.store.files import write_whole
from diffusion_lab.training.speed import compile_network, keep_freed_memory, peak_flops, tf32

Numbers = dict[str, Any]
GOLDEN = ("ddpm", "improved_ddpm", "edm", "vdm", "flow_matching", "gan", "vae", "flow")
UNFINISHED = 3  # exit code of a piece that goes on in the next call
TINY_NETWORK = (
    "network.base_channels=8 network.channel_multipliers=[1] network.attention_resolutions=[] network.head_channels=8"
)
TINY_TRAINING = (
    f"data=digits {TINY_NETWORK} evaluation.num_samples=64 metrics=frechet_distance features=pixels "
    "callbacks.sample_grid.every_n_steps=0 trainer.max_time=00:00:00:02"
)


# ---- throughput ----------------------------------------------------------------------------------------------------------------


class Diffusers(nn.Module):
    """diffusers' UNet2DModel with the options that make it our network, called as ours is."""

    def __init__(self, size: int, base: int) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        self.unet = UNet2DModel(
            sample_size=size,
            in_channels=3,
            out_channels=3,
            layers_per_block=blocks(base),
            block_out_channels=tuple(base * multiplier for multiplier in levels(base)),
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D")[: len(levels(base))],
            up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D")[: len(levels(base))],
            attention_head_dim=min(64, base),
            norm_num_groups=min(32, base),
            resnet_time_scale_shift="scale_shift",
        )

    def forward(self, x_t: Tensor, timesteps: Tensor, y: None = None) -> Tensor:
        return self.unet(x_t, timesteps).sample.float()


def our_unet(size: int, base: int) -> UNet:
    attention, heads = (size // 2,) if len(levels(base)) > 1 else (), min(64, base)
    return UNet(
        *(3, 3, size),
        base_channels=base,
        channel_multipliers=levels(base),
        num_res_blocks=blocks(base),
        attention_resolutions=attention,
        head_channels=heads,
    )


def levels(base: int) -> tuple[int, ...]:
    return (1, 2, 2) if base >= 64 else (1,)  # --tiny


def blocks(base: int) -> int:
    return 2 if base >= 64 else 1


NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {"ours": our_unet, "diffusers": Diffusers}


def throughput(
    device: torch.device, name: str, base: int, size: int, compiled: bool, batch: int, seconds: float
) -> Numbers:
    """Of training in bf16 (mean square error, AdamW, an average of the weights), and of drawing by 50 DDIM steps."""
    torch.manual_seed(0)
    network = NETWORKS[name](size, base).to(device)
    cost = network_cost(network, (3, size, size))
    notice = compile_network(network) if compiled else None
    if notice:
        raise SystemExit(notice)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    averages = [parameter.detach().clone() for parameter in network.parameters()]
    x_0 = torch.randn(batch, 3, size, size, device=device)

    def step() -> None:
        eps, timesteps = torch.randn_like(x_0), torch.randint(0, 1000, (batch,), device=device)
        with torch.autocast(device.type, torch.bfloat16):
            output = network(x_0 + eps, timesteps)
        functional.mse_loss(output.float(), eps).backward()
        optimizer.step()
        optimizer.zero_grad()
        torch._foreach_lerp_(averages, [parameter.detach() for parameter in network.parameters()], 1e-3)

    with tf32(device.type == "cuda"):
        warm_up, rate = timed(step, device, seconds)
        found = {"batch": batch, "images_per_s": batch * rate, "warm_up_s": warm_up, "parameters": cost.parameters}
        peak = peak_flops(device)
        found["mfu"] = None if peak is None else 3 * cost.forward_flops * found["images_per_s"] / peak
        found["memory_gb"] = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None
        steps = 2 if seconds < 1 else 50
        reverse = ReverseProcess(network, prediction=PredictNoise(), variance=FixedSmall(), clip_x_0=True)
        process, sampler = GaussianDiffusion(LinearSchedule(1000)), DDIMSampler(EvenSpacing(steps))

        @torch.no_grad()
        def draw() -> None:
            noise = SampleNoise(0, torch.arange(batch))
            with torch.autocast(device.type, torch.bfloat16):
                sampler(process, reverse, noise.initial((3, size, size)).to(device), noise=noise)

        found["samples_warm_up_s"], rate = timed(draw, device, seconds)
    return {**found, "samples_per_s": batch * rate, "sampling_steps": steps}


def timed(work: Callable[[], None], device: torch.device, seconds: float) -> tuple[float, float]:
    """(seconds of the first call, calls per second of those after it)."""

    def wait() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    start = wait()
    work()
    first, calls, now = wait() - start, 0, wait()
    start = now
    while now - start < seconds or calls < 2:
        work()
        calls, now = calls + 1, wait()
    return first, calls / (now - start)


# ---- by the lab's commands -----------------------------------------------------------------------------------------------------


def lab(folder: Path, *words: str) -> None:
    """Run diffusion-lab in `folder`. SystemExit(UNFINISHED) where a signal ended it: what it saved is resumed."""
    folder.mkdir(parents=True, exist_ok=True)
    code = subprocess.run([sys.executable, "-m", "diffusion_lab", *words], cwd=folder, check=False).returncode
    if code:
        raise SystemExit(
            UNFINISHED if code in (143, -signal.SIGTERM) else f"exit code {code} of diffusion-lab {shlex.join(words)}"
        )


def precisions(folder: Path, device: torch.device, tiny: bool) -> Numbers:
    """train/loss of each of 200 steps on digits in float32 (TF32 on a GPU) and in bf16."""
    curves = {}
    words = f"data=digits trainer={device_word(device)} trainer.log_every_n_steps=1 trainer.max_steps={10 if tiny else 200} "
    words += "val.every_n_steps=0 callbacks.sample_grid.every_n_steps=0 score=false " + (TINY_NETWORK if tiny else "")
    for precision in ("32-true", "bf16-mixed"):
        lab(folder, "train", *words.split(), f"trainer.precision={precision}", f"outputs={precision}")
        rows = csv.DictReader(newest_model(folder / precision).metrics_csv.read_text().splitlines())
        curves[precision] = [float(row["train/loss"]) for row in rows]
    ends = [sum(curve[-50:]) / len(curve[-50:]) for curve in curves.values()]
    return {"curves": curves, "relative_difference_of_last_50": abs(ends[1] / ends[0] - 1)}


def golden(folder: Path, device: torch.device, tiny: bool) -> Numbers:
    """Models of the golden cases, trained on the CPU, drawn and scored on both: the largest relative difference of a value.

    Training itself is another on each kind of device, because their generators draw other numbers from one seed.
    """
    script = Path(__file__).parents[1] / "scripts" / "golden"
    loader = SourceFileLoader("golden", str(script))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("golden", loader))
    loader.exec_module(module)
    found: Numbers = {}
    for name in GOLDEN[2:3] if tiny else GOLDEN:
        own = folder / name
        lab(own, *shlex.split(module.cases()[1][name]["commands"][0]), "score=false")
        values = []
        for where in ("cpu", device_word(device)):
            before = module.snapshot(own)
            words = ["evaluation.num_samples=64", "metrics=frechet_distance", "features=pixels", "rescore=true"]
            lab(own, "evaluate", f"accelerator={where}", *words)
            values.append({key: value for key, value in module.read(own, before).items() if ":values." in key})
        assert values[0].keys() == values[1].keys() != set(), name
        found[name] = max(abs(values[1][key] - value) / max(abs(value), 1e-9) for key, value in values[0].items())
    return {"largest_relative_difference": found}


def training(folder: Path, device: torch.device, *words: str) -> Numbers:
    """The values of the last score of a training, over all calls, and all of them by moment."""
    lab(folder, "train", f"trainer={device_word(device)}", *words)
    files = sorted(folder.glob("outputs/runs/*/metrics.json"), key=os.path.getmtime)
    scores = [json.loads(path.read_text()) for path in files]
    moments = {score["protocol"].get("weights", str(number)): score["values"] for number, score in enumerate(scores)}
    steps = newest_model(folder / "outputs").read_training()["steps"]
    return {**scores[-1]["values"], "steps": steps, "moments": moments}


def device_word(device: torch.device) -> str:
    return "gpu" if device.type == "cuda" else "cpu"


# ---- pieces, and the calls that make them --------------------------------------------------------------------------------------


def pieces(options: argparse.Namespace) -> Iterator[tuple[str, float, Callable[[], Numbers]]]:
    """Name, seconds that must be left for it, and the work."""
    device, tiny = torch.device(options.device), options.tiny
    folder = options.out.absolute() / "lab"
    contenders = ["ours", *(["diffusers"] if importlib.util.find_spec("diffusers") else [])]
    for compiled in (False, True):
        for base, size in [(8, 16)] if tiny else [(64, 32), (128, 32), (64, 64), (128, 64)]:
            batch, seconds = (2, 0.1) if tiny else (16384 // size, 10.0)
            for name in contenders if not (tiny and compiled) else contenders[:1]:
                how = "compiled" if compiled else "eager"
                work = (device, name, base, size, compiled, batch, seconds)
                yield f"unet {base} {size}² {name} {how}", 240 if compiled else 60, lambda work=work: throughput(*work)
    yield "precisions", 120, lambda: precisions(folder / "precisions", device, tiny)
    yield "golden", 240, lambda: golden(folder / "golden", device, tiny)
    words = TINY_TRAINING if tiny else "data=fashion_mnist trainer.max_time=00:00:09:00"
    yield "training", 60, lambda: training(folder / "training", device, *words.split())
    if options.cifar10 is not None:
        words = f"experiment=fast_cifar10 data.root={options.cifar10.absolute()} trainer.max_time=00:00:30:00"
        words += " evaluation.at=[5m,10m,20m,30m]"
        yield "cifar10", 60, lambda: training(folder / "cifar10", device, *words.split())


def main() -> None:
    options = _options()
    if options.piece:
        keep_freed_memory()
        signal.signal(signal.SIGTERM, lambda *_: None)  # the command of the lab that it waits for saves and ends
        work = next(work for name, _, work in pieces(options) if name == options.piece)
        options.result.write_text(json.dumps(work()))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    file, deadline = options.out / "results.json", time.monotonic() + 60 * options.minutes
    device = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    asked = {"device": device, "tiny": options.tiny, "torch": torch.__version__}
    stored = json.loads(file.read_text()) if file.is_file() else {"asked": asked, "results": {}, "failed": []}
    if stored["asked"] != asked:
        raise SystemExit(f"{file} is of {stored['asked']}; choose another --out")
    results, failed = stored["results"], stored["failed"]
    waiting = [(name, needed) for name, needed, _ in pieces(options) if name not in results]
    for name, needed in sorted(waiting, key=lambda piece: piece[0] in failed):
        left = deadline - time.monotonic()
        if left < (1 if options.tiny else needed):
            print(f"{name}: needs {needed} s; the next call has it", flush=True)
            continue
        code, found = run_piece(name, options, left)
        if found is not None:
            results[name] = found
        failed[:] = [other for other in failed if other != name] + [name] * (code not in (0, UNFINISHED))
        write_whole(file, json.dumps(stored, indent=1).encode())
        print(f"{name}: {({0: 'finished', UNFINISHED: 'goes on'}).get(code, f'failed ({code})')}", flush=True)
    text = table(stored)
    (options.out / "table.md").write_text(text)
    figure(results, options.out / "figure.png")
    print(f"\n{text}\n{options.out / 'table.md'}, {options.out / 'figure.png'}")
    undone = [name for name, _ in waiting if name not in results]
    if undone:
        sys.exit(f"not finished: {', '.join(undone)}; the same command goes on")


def run_piece(name: str, options: argparse.Namespace, seconds: float) -> tuple[int, Numbers | None]:
    """(exit code, result) of a piece, run in a process of its own that gets SIGTERM after its time, so that it saves and ends."""
    result = options.out / "piece.json"
    result.unlink(missing_ok=True)
    command = [sys.executable, __file__, *sys.argv[1:], "--piece", name, "--result", str(result.absolute())]
    with (options.out / "log.txt").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                code = process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                code = process.wait()
    return code, json.loads(result.read_text()) if code == 0 else None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=9.0, help="of this call")
    parser.add_argument("--out", type=Path, default=Path("gpu"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--tiny", action="store_true", help="every path, as small as it can be; no number means anything"
    )
    parser.add_argument(
        "--cifar10", type=Path, help="the folder of its files, for FID by minutes of experiment=fast_cifar10"
    )
    parser.add_argument("--piece", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here that PyTorch can use; try --device cpu --tiny")
    return options


# ---- table and figure ----------------------------------------------------------------------------------------------------------


def table(stored: Numbers) -> str:
    """Markdown: a line a network, then a line for every other number."""
    results = stored["results"]
    heads = ["images_per_s", "mfu", "memory_gb", "warm_up_s", "samples_per_s", "samples_warm_up_s"]
    lines = [", ".join(f"{key} {value}" for key, value in stored["asked"].items()), ""]
    lines += ["| network | " + " | ".join(heads) + " |", "|---" * (1 + len(heads)) + "|"]
    speeds = {name: found for name, found in results.items() if name.startswith("unet")}
    for name, found in speeds.items():
        lines.append(f"| {name} | " + " | ".join(_shown(found[head]) for head in heads) + " |")
    lines += ["", "| piece | | |", "|---|---|---|"]
    for name, found in results.items():
        for key, value in found.items() if name not in speeds else ():
            inner = value.items() if isinstance(value, dict) else [("", value)]
            shown = [(part, number) for part, number in inner if not isinstance(number, dict | list)]
            lines += [f"| {name} | {key} {part} | {_shown(number)} |" for part, number in shown]
    lines += [f"| {name} | failed | see log.txt |" for name in stored["failed"]]
    return "\n".join(lines) + "\n"


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, int | float) else str(value)


def figure(results: Numbers, path: Path) -> None:
    """Images per second of each network, the losses in two precisions, and a distance by minutes where there is one."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(15, 4.5), layout="constrained")
    speeds, losses, distances = drawing.subplots(1, 3)
    bars = {name[5:]: found["images_per_s"] for name, found in results.items() if name.startswith("unet ")}
    speeds.barh(list(bars), list(bars.values()))
    speeds.set(xlabel="training, images per second (bf16)", xscale="log" if bars else "linear")
    for precision, curve in results.get("precisions", {"curves": {}})["curves"].items():
        losses.plot(range(1, len(curve) + 1), curve, label=precision, linewidth=1)
        losses.legend()
    losses.set(xlabel="step", ylabel="train/loss")
    for name in {"training", "cifar10"} & results.keys():
        moments = results[name]["moments"]
        for key in sorted({key for values in moments.values() for key in values if key.startswith(("fid", "fd_"))}):
            if "floor" not in key:
                distances.plot(
                    list(moments), [values.get(key) for values in moments.values()], "o-", label=f"{name}: {key}"
                )
        distances.legend(fontsize=7)
    distances.set(ylabel="distance")
    drawing.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
