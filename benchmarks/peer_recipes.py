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
from importlib.metadata import version
from pathlib import Path

import torch
from contenders.contender import END, Budget
from contenders.images import DATA, Images
from contenders.job import Measures
from contenders.peers import BEST, Diffusers, Lucidrains, Peer, WarmAverage, adamw

from diffusion_lab.data.mnist import FashionMNIST
from diffusion_lab.store.files import write_whole
from diffusion_lab.training.speed import keep_freed_memory
from diffusion_lab.versions import versions

os.environ.setdefault("TQDM_DISABLE", "1")
NUM_VALIDATION, NUM_SAMPLES, DRAWN_AT_ONCE = 5000, 512, 128
BASE = 16

RECIPES = {
    "lr_1e-3": BEST,
    "lr_2e-3": replace(BEST, optimizer=adamw(2e-3)),
    "lr_5e-4": replace(BEST, optimizer=adamw(5e-4)),
    "average_0.999": replace(BEST, average=partial(WarmAverage, decay=0.999)),
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
        | {"cosine_schedule": {"recipe": BEST, "betas": "squaredcos_cap_v2"}},
        {
            "ddim_50": {"sampler": "ddim", "num_steps": 50},
            "ddpm_50": {"sampler": "ddpm", "num_steps": 50},
            "dpm_solver_25": {"sampler": "dpm_solver", "num_steps": 25},
            "sde_25": {"sampler": "dpm_solver_sde", "num_steps": 25},
            "sde_50": {"sampler": "dpm_solver_sde", "num_steps": 50},
            "sde_25_log_snr": {"sampler": "dpm_solver_sde_log_snr", "num_steps": 25},
        },
    ),
    "ddpm-pytorch": Library(
        partial(Lucidrains, BASE),
        {name: {"recipe": RECIPES[name]} for name in ("lr_1e-3", "lr_2e-3")}
        | {
            "cosine_schedule": {"recipe": BEST, "betas": "cosine"},
            "one_head": {"recipe": BEST, "heads": 1},
            "one_head_lr_2e-3": {"recipe": RECIPES["lr_2e-3"], "heads": 1},
        },
        {
            "ddim_50": {"num_steps": 50},
            "ddim_25": {"num_steps": 25},
            "eta_1_50": {"eta": 1.0, "num_steps": 50},
            "eta_1_100": {"eta": 1.0, "num_steps": 100},
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


def score(library: str, training: str, sampler: str, minutes: float, seed: int, out: Path) -> None:
    """Train unless that is done, draw, and add the score to result.json of the training's folder, in the format of quality.py.

    The clock is the CPU time of the process, so each call has a process of its own.
    """
    torch.set_num_threads(1)
    keep_freed_memory()
    chosen, images, folder = LIBRARIES[library], validation_images(), out / library / training
    peer = chosen.make(**chosen.trainings[training], **chosen.samplers[sampler])
    budget = Budget(60 * minutes, (), seed, 1, "cpu", data=images)
    facts = peer.train(folder, budget)
    with peer.at(folder, END, budget, 0) as trained, torch.no_grad():
        x = torch.cat([trained.own(part, 0) for part in torch.arange(NUM_SAMPLES).split(DRAWN_AT_ONCE)])
    measures = Measures(images, out / "cache", "validation")
    found = result(folder) or {
        "asked": {"name": f"{library}/{training}", "minutes": minutes, "seed": seed, "data": "fashion_mnist"}
        | {"samples": NUM_SAMPLES, "reference": "validation", "threads": 1, "ours": ""},
        "parameters": facts.parameters,
        "steps": {"1": facts.steps[END]},
        "floors": measures.floors(NUM_SAMPLES),
        "versions": versions() | ({peer.requires: version(peer.requires)} if peer.requires else {}),
        "scores": [],
    }
    distances = measures.distances(x)
    found["scores"].append({"moment": END, "sampler": sampler, "evaluations": trained.own_evaluations, **distances})
    write_whole(folder / "result.json", json.dumps(found, indent=1).encode())


def result(folder: Path) -> dict | None:
    file = folder / "result.json"
    return json.loads(file.read_text()) if file.is_file() else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="of CPU time, of each training")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--out", type=Path, default=Path("peer-recipes"))
    given = parser.parse_args()

    def distance(library: str, training: str, sampler: str) -> float:
        def found() -> list[float]:
            scores = (result(given.out / library / training) or {"scores": []})["scores"]
            return [score["fd_fashion_ssl"] for score in scores if score["sampler"] == sampler]

        if not found():
            asked = (library, training, sampler, given.minutes, given.seed, given.out)
            process = multiprocessing.get_context("spawn").Process(target=score, args=asked)
            process.start()
            process.join()
        if not (distances := found()):
            raise SystemExit(f"not finished: {library}, {training}, {sampler}")
        print(f"{library:14} {training:18} {sampler:16} {distances[0]:.3f}", flush=True)
        return distances[0]

    for library in given.libraries:
        first, *others = LIBRARIES[library].samplers
        trainings = {training: distance(library, training, first) for training in LIBRARIES[library].trainings}
        training = min(trainings, key=trainings.__getitem__)
        samplers = {first: trainings[training]} | {name: distance(library, training, name) for name in others}
        print(f"{library}: {training}, {min(samplers, key=samplers.__getitem__)}", flush=True)


if __name__ == "__main__":
    main()
