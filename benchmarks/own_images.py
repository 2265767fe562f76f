"""What `diffusion-lab train data=image_folder` picks and how long it takes: the table of docs/start/own_images.md.

    python benchmarks/own_images.py [--sides 32 64 128 256] [--numbers 300 3000 30000]
    python benchmarks/own_images.py --train 60

A training step of each network is measured in CPU time of one thread, which other processes change little, and multiplied by the
number of steps. Minutes of a GPU are counted operations over a tenth of a card's dense bf16 peak: an estimate, not a measurement.

With --train the estimate is by the clock, with all threads, and beside it stand the minutes that follow from the steps of the
command itself in 60 seconds at each size. It needs an idle machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from diffusion_lab.conf_dir import CONF
from diffusion_lab.config import duration
from diffusion_lab.config.build import build_model, settle_budget, state_shape
from diffusion_lab.config.picking import fill_in, pick
from diffusion_lab.models.diffusion import DiffusionModel
from diffusion_lab.training.devices import auto_precision

GPU_SHARE = 0.1  # of the card's peak in training: assumed, not measured
CARD, PEAK = "RTX 4090", 1.652e14


def picked(side: int, count: int, on_gpu: bool):
    """The config of a training of `count` images, and its model."""
    shape = (3, side, side)
    with initialize_config_dir(str(CONF), version_base=None):
        cfg = compose("train", ["data=image_folder", "data.root=."])
    fill_in(cfg, pick(cfg, SimpleNamespace(shape=shape, num_trained_on=count, batch_size=None), on_gpu).options)
    settle_budget(cfg)
    state_shape(cfg, shape, 256, [])
    model = build_model(cfg)
    assert isinstance(model, DiffusionModel)
    return cfg, model


def row(side: int, count: int, measured: dict[int, float]) -> list[str]:
    """measured: seconds of a training step by side; filled in."""
    cfg, model = picked(side, count, on_gpu=False)
    batch, steps = cfg.data.batch_size, cfg.trainer.max_steps
    if side not in measured:
        # In CPU time.
        measured[side] = duration.time_step_and_evaluation(
            model, batch, auto_precision(on_gpu=False), time.process_time
        )[0]
    gpu, wide = picked(side, count, on_gpu=True)
    shown = gpu.data.batch_size * gpu.trainer.max_steps
    seconds = shown * model.training_evaluations * wide.cost().forward_flops / (GPU_SHARE * PEAK)
    return [
        *(f"{side}×{side}", f"{count:,}", str(batch), f"{steps:,}", f"{steps * batch / count:.0f}"),
        *(f"{model.cost().parameters / 1e6:.1f} M", f"{steps * measured[side] / 60:.0f}"),
        *(str(gpu.data.batch_size), f"{gpu.trainer.max_steps:,}", f"{shown / count:.0f}"),
        *(f"{wide.cost().parameters / 1e6:.1f} M", "< 1" if seconds < 60 else f"{seconds / 60:.0f}"),
    ]


def trained(side: int, seconds: int) -> float:
    """Seconds of a step of `diffusion-lab train` on 300 images of noise, over `seconds`. More images do not change a step."""
    with tempfile.TemporaryDirectory() as folder:
        for i in range(300):
            Image.effect_noise((side, side), 60).convert("RGB").save(Path(folder) / f"{i}.png")
        own = ["data=image_folder", "data.root=.", f"data.image_size={side}", "score=false"]
        own.append(f"trainer.max_time=00:00:{seconds // 60:02}:{seconds % 60:02}")
        subprocess.run([sys.executable, "-m", "diffusion_lab", "train", *own], cwd=folder, check=True)
        (record,) = Path(folder).glob("outputs/models/*/training.json")
        training = json.loads(record.read_text())
    return training["seconds"] / training["steps"]


def side_by_side(side: int, numbers: list[int], seconds: int) -> list[list[str]]:
    """Estimated and measured minutes of each number of images."""
    trainings = [picked(side, count, on_gpu=False) for count in numbers]
    cfg, model = trainings[0]
    estimate = duration.time_step_and_evaluation(model, cfg.data.batch_size, auto_precision(on_gpu=False))[0]
    step = trained(side, seconds)
    return [
        [
            *(f"{side}×{side}", f"{count:,}", f"{cfg.trainer.max_steps:,}"),
            *(f"{cfg.trainer.max_steps * each / 60:.1f}" for each in (estimate, step)),
            f"{step / estimate:.2f}",
        ]
        for count, (cfg, _) in zip(numbers, trainings, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--numbers", type=int, nargs="+", default=[300, 3_000, 30_000])
    parser.add_argument("--train", type=int, metavar="SECONDS", help="at each size, to compare the estimate with")
    given = parser.parse_args()
    if given.train is None:
        torch.set_num_threads(1)
        half = ["batch", "steps", "shown each", "parameters"]
        head = ["pixels", "images", *half, "minutes of one core", f"{CARD}: batch", *half[1:], "minutes, estimated"]
        measured: dict[int, float] = {}
        rows = [row(side, count, measured) for side in given.sides for count in given.numbers]
    else:
        head = ["pixels", "images", "steps", "minutes, estimated", "minutes, measured", "measured / estimated"]
        rows = [line for side in given.sides for line in side_by_side(side, given.numbers, given.train)]
    for line in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(line)} |")


if __name__ == "__main__":
    main()
