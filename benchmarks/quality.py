"""Quality per minute: ours beside diffusers and denoising-diffusion-pytorch on the same images, all trained for equal minutes.

    python benchmarks/quality.py --minutes 10 --seeds 1 2 3 --out quality
    python benchmarks/quality.py --minutes 2 5 --contenders ours diffusers-16-best --ours 'data=fashion_mnist optimizer=adamw'
    python benchmarks/quality.py --data emoji --minutes 10 --seeds 1 2 3 --out quality-emoji

Each contender trains in a process of its own, for minutes of that process's CPU time over its threads, so other work on the
machine takes nothing from it (--device cuda: minutes on the GPU), or for --training-steps, one number a contender, which come
out the same on every machine. All are then drawn with one shared sampler, DDIM around any network, and with their own, and
scored against test images, first by two measures without labels; beside them is the share of copies of training images. The
same command again makes only what is missing in --out. It needs `diffusers` and `denoising-diffusion-pytorch`, which the project
does not.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from pathlib import Path

from contenders.images import DATA
from contenders.job import CONTENDERS, Job, missing
from contenders.summary import Row, figure, table

os.environ.setdefault("TQDM_DISABLE", "1")  # a peer's sampler draws a bar a batch


def main() -> None:
    options = _options()
    absent = missing(options.contenders)
    if absent:
        raise SystemExit(
            f"quality.py compares with what is no part of this project: pip install {' '.join(absent)}, or --contenders ours"
        )
    out, sampling = options.out.absolute(), (options.samples, options.steps, options.threads, options.device)
    if options.training_steps:
        budgets = [(name, 0.0, steps) for name, steps in zip(options.contenders, options.training_steps, strict=True)]
    else:
        budgets = [(name, minutes, None) for minutes in options.minutes for name in options.contenders]
    ours = options.ours or f"data={options.data}"
    jobs = [
        Job(name, seed, minutes, steps, tuple(options.moments), *sampling, ours, out, options.data)
        for seed in options.seeds
        for name, minutes, steps in budgets
    ]
    missed = [job for job in jobs if not job.finished()]
    for number, job in enumerate(missed, 1):
        print(f"{number} of {len(missed)}: {job.folder}", flush=True)
        process = multiprocessing.get_context("spawn").Process(target=job.run)
        process.start()
        process.join()
    rows = [
        Row(name, results)
        for name, minutes, _ in budgets
        if (results := [j.result() for j in jobs if (j.name, j.minutes) == (name, minutes) and j.finished()])
    ]
    if rows:
        text = table(rows)
        (out / "table.md").write_text(f"{text}\n")
        figure(rows, out / "distance.png")
        print(f"\n{text}\n\n{out / 'distance.png'}")
    failed = [str(job.folder) for job in jobs if not job.finished()]
    if failed:
        sys.exit(f"not finished: {', '.join(failed)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, nargs="+", default=[10.0], help="of training, for each contender")
    parser.add_argument(
        "--training-steps", type=int, nargs="+", help="in place of minutes: a number for each contender"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--data", choices=DATA, default="fashion_mnist")
    parser.add_argument("--ours", help="options of `diffusion-lab train`; default: data=… alone")
    parser.add_argument("--samples", type=int, default=1000, help="that are scored, of each sampler")
    parser.add_argument("--steps", type=int, default=50, help="of the shared sampler, and of the peers' own")
    parser.add_argument(
        "--moments", type=float, nargs="*", default=[0.2, 0.4], help="shares of the minutes, for the curve"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--out", type=Path, default=Path("quality"), help="a folder; what is finished there is not run again"
    )
    options = parser.parse_args()
    if options.training_steps and len(options.training_steps) != len(options.contenders):
        parser.error(
            f"--training-steps takes a number for each of {len(options.contenders)} --contenders, in their order"
        )
    if (
        min(options.training_steps or options.minutes) <= 0
        or not all(0 < moment < 1 for moment in options.moments)
        or options.samples < 2
    ):
        parser.error("minutes and steps are above 0, moments between 0 and 1, samples two or more")
    return options


if __name__ == "__main__":
    main()
