"""Recipes of the other libraries for Fashion-MNIST, chosen on validation images: five trainings of each, then samplers of the best.

    python benchmarks/peer_recipes.py --minutes 5 --out peer-recipes
    python benchmarks/peer_recipes.py --libraries diffusers --out peer-recipes

Each training takes equal CPU time of its process, as in quality.py, without the 5,000 validation images. Samples are scored against
those by measures without labels. The recipe with the lowest distance by the first is `chosen` in contenders/peers.py. The same
command again makes only what is missing in --out.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from contenders.contender import END, Budget
from contenders.images import DATA, Images
from contenders.job import Measures
from contenders.peers import BEST, Diffusers, Lucidrains, Peer, WarmAverage, adamw

from diffusion_lab.data.mnist import FashionMNIST
from diffusion_lab.store.files import write_whole
from diffusion_lab.training.speed import keep_freed_memory

os.environ.setdefault("TQDM_DISABLE", "1")
NUM_VALIDATION, NUM_SAMPLES, DRAWN_AT_ONCE = 5000, 512, 128
BASE = 16

RECIPES = {
    "lr 1e-3": BEST,
    "lr 2e-3": replace(BEST, optimizer=adamw(2e-3)),
    "lr 5e-4": replace(BEST, optimizer=adamw(5e-4)),
    "average 0.999": replace(BEST, average=partial(WarmAverage, decay=0.999)),
}


@dataclass(frozen=True)
class Library:
    """trainings, samplers: options by name; the first of the samplers draws from every training."""

    make: Callable[..., Peer]
    trainings: dict[str, dict]
    samplers: dict[str, dict]


LIBRARIES = {
    "diffusers": Library(
        partial(Diffusers, BASE, prediction="v_prediction"),
        {name: {"recipe": recipe} for name, recipe in RECIPES.items()}
        | {"cosine schedule": {"recipe": BEST, "betas": "squaredcos_cap_v2"}},
        {
            "DDIM 50": {"sampler": "ddim", "num_steps": 50},
            "DDPM 50": {"sampler": "ddpm", "num_steps": 50},
            "DPM-Solver++ 25": {"sampler": "dpm_solver", "num_steps": 25},
            "SDE-DPM-Solver++ 25": {"sampler": "dpm_solver_sde", "num_steps": 25},
            "SDE-DPM-Solver++ 50": {"sampler": "dpm_solver_sde", "num_steps": 50},
            "SDE-DPM-Solver++ 25, even in log SNR": {"sampler": "dpm_solver_sde_log_snr", "num_steps": 25},
        },
    ),
    "ddpm-pytorch": Library(
        partial(Lucidrains, BASE),
        {name: {"recipe": RECIPES[name]} for name in ("lr 1e-3", "lr 2e-3")}
        | {
            "cosine schedule": {"recipe": BEST, "betas": "cosine"},
            "one head": {"recipe": BEST, "heads": 1},
            "one head, lr 2e-3": {"recipe": RECIPES["lr 2e-3"], "heads": 1},
        },
        {
            "DDIM 50": {"num_steps": 50},
            "DDIM 25": {"num_steps": 25},
            "eta 1, 50": {"eta": 1.0, "num_steps": 50},
            "eta 1, 100": {"eta": 1.0, "num_steps": 100},
        },
    ),
}


def validation_images() -> Images:
    """Fashion-MNIST without its validation images, and the first of its features."""

    def module(batch_size: int, seed: int, flip: bool = False) -> FashionMNIST:
        data = FashionMNIST(batch_size, seed, flip=flip)
        data.hold_back(NUM_VALIDATION)
        return data

    every = DATA["fashion_mnist"]
    return Images(module, every.shape, every.features[:1])


def score(library: str, training: str, sampler: str, minutes: float, seed: int, out: Path, file: Path) -> None:
    """Into `file`; in a process of its own, whose CPU time is the clock."""
    torch.set_num_threads(1)
    keep_freed_memory()
    chosen, images = LIBRARIES[library], validation_images()
    peer = chosen.make(**chosen.trainings[training], **chosen.samplers[sampler])
    budget = Budget(60 * minutes, (), seed, 1, "cpu", data=images)
    facts = peer.train(out / library / training, budget)
    with peer.at(out / library / training, END, budget, 0) as trained, torch.no_grad():
        x = torch.cat([trained.own(part, 0) for part in torch.arange(NUM_SAMPLES).split(DRAWN_AT_ONCE)])
    found = Measures(images, out / "cache", "validation").distances(x)
    row = {"library": library, "training": training, "sampler": sampler, "steps": facts.steps[END], **found}
    write_whole(file, json.dumps(row).encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="of CPU time, of each training")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--out", type=Path, default=Path("peer-recipes"))
    given = parser.parse_args()

    def scored(library: str, training: str, sampler: str) -> dict:
        file = given.out / library / training / f"{sampler}.json"
        if not file.is_file():
            asked = (library, training, sampler, given.minutes, given.seed, given.out, file)
            process = multiprocessing.get_context("spawn").Process(target=score, args=asked)
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"not finished: {file}")
        row = json.loads(file.read_text())
        print(
            " | ".join(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()), flush=True
        )
        return row

    def distance(row: dict) -> float:
        return next(value for key, value in row.items() if key.startswith("fd_"))

    for library in given.libraries:
        first, *others = LIBRARIES[library].samplers
        rows = [scored(library, training, first) for training in LIBRARIES[library].trainings]
        training = min(rows, key=distance)["training"]
        best = min([scored(library, training, name) for name in (first, *others)], key=distance)
        print(f"{library}: {training}, {best['sampler']}", flush=True)


if __name__ == "__main__":
    main()
