"""Run folders in the format that scoring writes, made without a model: a sweep whose true effects are known."""

from __future__ import annotations

import io
import itertools
import json
import math
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from diffusion_lab.report.read import read_sweep
from diffusion_lab.report.table import build_table
from diffusion_lab.store import ModelDirectory, RunDirectory, SweepDirectory, sweep_directory, write_json
from diffusion_lab.sweeps.decide import read_standings
from tests.metrics.stand_ins import described

T = 1000
AXES = {
    "schedule": ["linear", "cosine"],
    "variance": ["fixed_small", "fixed_large", "learned"],
    "sampler": ["ddpm", "strided", "ddim"],
    "sampler.spacing.num_steps": ["10", "50"],
    "seed": ["1", "2"],
}
CLASSES = {
    "linear": "LinearSchedule",
    "cosine": "CosineSchedule",
    "fixed_small": "FixedSmall",
    "fixed_large": "FixedLarge",
    "learned": "LearnedRange",
    "ddpm": "AncestralSampler",
    "strided": "AncestralSampler",
    "ddim": "DDIMSampler",
}
DIGITS = (load_digits().images[:512] / 16).astype(np.float32)


def write_sweep(
    outputs: Path,
    name: str = "test",
    axes: dict[str, list[str]] | None = None,
    change: Callable[[dict[str, Any], dict[str, Any]], None] = lambda choices, metrics: None,
) -> SweepDirectory:
    """A finished sweep: sweep.json, models and runs. `change(choices, metrics)` may alter a cell before it is written."""
    axes = axes or AXES
    sweep = sweep_directory(outputs, name)
    cells = []
    for values in itertools.product(*axes.values()):
        choices: dict[str, Any] = dict(zip(axes, values, strict=True))
        if choices.get("sampler") == "ddpm":
            choices["sampler.spacing.num_steps"] = None
        if choices in [cell["choices"] for cell in cells[-len(axes.get("sampler.spacing.num_steps", [])) * 64 :]]:
            continue
        trained = "learned" if choices.get("variance") == "learned" else "fixed"
        model = f"digits-diffusion-{choices.get('schedule', 'cosine')}{trained}{choices.get('seed', 1)}"
        run = f"{model}-" + "-".join(str(choices.get(key)) for key in axes if key not in ("schedule", "seed"))
        run = run.replace("/", "_")
        cells.append({"choices": choices, "overrides": [], "model": model, "run": run})
        write_model(ModelDirectory(outputs / "models" / model), choices)
        metrics = scored(choices, model)
        change(choices, metrics)
        write_run(RunDirectory(outputs / "runs" / run), choices, metrics)
    command = [f"{axis}={','.join(values)}" for axis, values in axes.items()]
    facts = {"name": name, "command": command, "axes": axes, "created": "2026-11-24T20:00:00+00:00"}
    sweep.write_sweep(facts | {"cells": cells})
    return sweep


def decide(
    sweep: SweepDirectory, measure: str = "fd_digits_cnn", most_seeds: int = 10, **question: Any
) -> SweepDirectory:
    """Let a finished sweep, with at least so many seeds, decide: later seeds keep only the cells that an open pair reads."""
    content = sweep.read_sweep()
    seeds, cells, needed = content["axes"]["seed"][:most_seeds], content["cells"], None
    others = [axis for axis in content["axes"] if axis != "seed"]
    asked = {
        "measure": measure,
        "most_seeds": most_seeds,
        "error": 0.05,
        "rule": "bounded",
        "pairs": "axes",
        "smallest": None,
    }
    kept: list[dict[str, Any]] = []
    for i, seed in enumerate(seeds, start=1):
        of_seed = [cell for cell in cells if cell["choices"]["seed"] == seed]
        keys = [tuple(cell["choices"].get(axis) for axis in others) for cell in of_seed]
        kept += [cell for cell, key in zip(of_seed, keys, strict=True) if needed is None or key in needed]
        decided = {"axes": content["axes"] | {"seed": seeds[:i]}, "cells": kept}
        sweep.write_sweep(content | decided | {"decide": asked | {"first_seed": int(seeds[0])} | question})
        standings = read_standings(sweep)
        assert standings is not None
        if standings.over:
            break
        needed = standings.needed
    return sweep


def table_of(
    outputs: Path, axes: dict[str, list[str]], change=lambda choices, metrics: None, keep=lambda choices: True
):
    """The table of such a sweep, of the cells whose choices are to be kept."""
    gathered = read_sweep(write_sweep(outputs, axes=axes, change=change))
    return build_table(replace(gathered, cells=[cell for cell in gathered.cells if keep(cell.choices)]))


def write_run(run: RunDirectory, choices: dict[str, Any], metrics: dict[str, Any]) -> None:
    spacing = "even" if choices.get("sampler.spacing.num_steps") else "all"
    groups = {"schedule": "cosine", "variance": "learned", "sampler": "strided"} | choices
    recorded = {group: choice for group, choice in groups.items() if choice in CLASSES} | {"sampler/spacing": spacing}
    write_json(run.metrics, {"measures": described(metrics), "choices": recorded, **metrics})
    run.config.write_text(yaml.safe_dump(config(choices)))
    distance = metrics["values"].get("fd_digits_cnn", 5.0)
    run.samples_png.write_bytes(samples(distance))


def write_model(model: ModelDirectory, choices: dict[str, Any]) -> None:
    if model.finished:
        return
    model.path.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(int(choices.get("seed", 1)))
    floor = 0.05 if choices.get("schedule") == "cosine" else 0.07
    lines = ["step,train/grad_norm,train/mse,train/loss,train/lr,train/images_per_second"]
    for step in range(10, 1401, 10):
        mse = floor + 0.9 * math.exp(-step / 120) + 0.004 * random.standard_normal()
        lines.append(f"{step},{0.5},{mse},{mse * 1.05},{0.001},{300.0}")
    model.metrics_csv.write_text("\n".join(lines) + "\n")
    model.finish(steps=1400, seconds=75.0, images=1400 * 64)


def scored(choices: dict[str, Any], model: str) -> dict[str, Any]:
    """metrics.json of a cell: the papers' signatures, an effect of the seed shared by all cells, and a little noise."""
    seed = int(choices.get("seed") or 1)
    random = np.random.default_rng(zlib.crc32(json.dumps(choices, sort_keys=True).encode()))
    steps = int(choices.get("sampler.spacing.num_steps") or (T if choices.get("sampler") == "ddpm" else 50))
    variance, sampler = choices.get("variance", "learned"), choices.get("sampler", "strided")
    few = (10 / steps) ** 0.9
    distance = 3.2 + {"fixed_small": 6.0, "fixed_large": 38.0, "learned": 9.0}[variance] * few
    if sampler == "ddim":
        distance = (3.6 if variance == "learned" else 3.5) + 3.0 * few
    distance *= (0.93 if choices.get("schedule") == "cosine" else 1.0) * (1 + 0.03 * (seed - 1.5))
    bits = 2.05 + {"fixed_small": 14.0, "fixed_large": 1.6, "learned": 0.9}[variance] * few
    bits += -0.08 if choices.get("schedule") == "cosine" else 0.0
    bits += 0.02 * (seed - 1.5) + 0.004 * random.standard_normal()
    if sampler != "ddim":
        distance += 0.05 * random.standard_normal()
    full = steps == T
    kind = "bound of the full chain" if full else "bound of a strided chain"
    if sampler == "ddim":
        kind = "bound of 50 ancestral steps"
    kept = min(steps, 100)
    t = np.linspace(1, T, kept).round()
    terms = bits / kept * (0.2 + 3 * np.exp(-t / 60)) * (T / steps if full else 1)
    return {
        "values": {
            "fd_digits_cnn": float(distance),
            "fd_digits_cnn_floor": 1.62,
            "kd_digits_cnn": float(distance / 30),
            "precision": float(np.clip(0.95 - distance / 60, 0, 1)),
            "recall": float(np.clip(0.9 - distance / 45, 0, 1)),
            "seconds_per_1000_samples": 0.075 * steps * (1 + 0.02 * float(random.standard_normal())),
            "peak_memory_mib": 503.8,
            "bits_per_dim": float(bits),
            "bits_per_dim_standard_error": 0.031,
            "bits_per_dim_prior": 2e-6,
            "bits_per_dim_decoder": 0.2,
            "bits_per_dim_steps": float(bits) - 0.2,
            "parameters": 759_202,
            "nfe": steps,
            "training_steps": 1400,
            "training_seconds": 75.0,
            "training_images": 89_600,
            "flops_per_sample": 1_116_672 * steps,
        },
        "protocol": {
            "absent": {"bits_per_dim_noise_error": "needs evaluation.bound.num_draws ≥ 2"},
            "samples": {"num_images": 360, "seed": seed, "num_levels": 17, "labels": "none"},
            "reference": {"split": "train", "num_images": 1437},
            "floor": {"split": "test", "num_images": 360},
            "kernel_distance": {"num_subsets": 100, "subset_size": 360, "num_reference": 1437},
            "precision_recall": {"neighbours": 3, "num_reference": 360},
            "cost": {"device": "cpu", "threads": 1, "batch_size": 128, "timed_images": 232, "peak_memory": "process"},
            "bound": {"kind": kind, "split": "test", "num_images": 256, "num_draws": 1, "num_terms": kept, "seed": 0},
            "data": {"name": "digits", "identity": "0daebb48", "shape": [1, 8, 8]},
            "features": {"name": "digits_cnn", "identity": "ada4e7a0"},
            "weights": "ema_0.999",
            "model": {"family": "diffusion", "prediction": "PredictVelocity()", "clip_x_0": True},
            "versions": {"diffusion_lab": "0.1.0", "torch": "2.13.0", "torch-fidelity": "0.4.0"},
            "model_directory": model,
            "fingerprint": "7402f94a",
        },
        "curves": {"bits_per_dim": {"t": t.tolist(), "steps": [steps / kept] * kept, "bits_per_dim": terms.tolist()}},
    }


def config(choices: dict[str, Any]) -> dict[str, Any]:
    """What the run's config.yaml says of its choices."""
    steps = choices.get("sampler.spacing.num_steps")
    spacing = {"_target_": "diffusion_lab.sampling.EvenSpacing", "num_steps": int(steps)} if steps else None
    sampler = CLASSES[choices.get("sampler", "strided")]
    seed = int(choices.get("seed") or 1)
    return {
        "schedule": {"_target_": f"diffusion_lab.diffusion.{CLASSES[choices.get('schedule', 'cosine')]}"},
        "variance": {"_target_": f"diffusion_lab.diffusion.{CLASSES[choices.get('variance', 'learned')]}"},
        "sampler": {
            "_target_": f"diffusion_lab.diffusion.{sampler}",
            "spacing": spacing or {"_target_": "diffusion_lab.sampling.AllSteps"},
        },
        "data": {"_target_": "diffusion_lab.data.digits.Digits", "seed": seed},
        "seed": seed,
        "evaluation": {"seed": int(choices.get("evaluation.seed") or seed)},
        "model": {"seed": "${seed}"},
        "outputs": "outputs",
    }


def samples(distance: float) -> bytes:
    """64 digits with noise that grows with the distance, tiled as a scored run tiles them."""
    random = np.random.default_rng(0)
    noisy = DIGITS[:64] + random.standard_normal((64, 8, 8)) * min(distance, 60) / 90
    tiles = (np.clip(noisy, 0, 1) * 255).astype(np.uint8).repeat(6, 1).repeat(6, 2)
    page = np.full((8 * 50 + 2, 8 * 50 + 2), 128, np.uint8)
    for i, tile in enumerate(tiles):
        row, column = divmod(i, 8)
        page[2 + row * 50 : 50 + row * 50, 2 + column * 50 : 50 + column * 50] = tile
    buffer = io.BytesIO()
    Image.fromarray(page).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()
