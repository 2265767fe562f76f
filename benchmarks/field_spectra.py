"""Spectra of samples of models that were trained on Gaussian random fields, beside the spectrum of the field's covariance.

    python benchmarks/field_spectra.py 1,64 1,16,16 1,8,8,8 --seeds 1 2 3 --outputs outputs

Trains one small model for each shape and seed by the command, with the choices of OPTIONS, and compares 1,024 samples,
drawn in 100 steps: the default of 25 leaves 5 to 10 % more power at all frequencies.
A line for each: the mean of |x̂_ω|²/λ(ω) in bands of |ω|, and CPU minutes of training and of drawing.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

from diffusion_lab import load
from diffusion_lab.data.densities import GaussianField

OPTIONS = [
    *("data=gaussian_field", "trainer=cpu", "score=false", "network.padding=circular", "network.base_channels=16"),
    *("network.head_channels=16", "snapshots.averages=0", "val.every_n_steps=0"),
]
BANDS, NUM_SAMPLES = 6, 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shapes", nargs="+")
    parser.add_argument("--seeds", nargs="+", default=["1", "2", "3"])
    parser.add_argument("--outputs", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--options", nargs="*", default=[])
    given = parser.parse_args()
    for shape in given.shapes:
        for seed in given.seeds:
            outputs = given.outputs / f"{shape.replace(',', 'x')}-{seed}"
            options = [
                *OPTIONS,
                f"data.shape=[{shape}]",
                f"seed={seed}",
                f"trainer.max_steps={given.steps}",
                f"outputs={outputs}",
            ]
            command = [sys.executable, "-m", "diffusion_lab", "train", *options, *given.options]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            trained = sum(os.times()[2:4])
            field = GaussianField(1, 0, shape=[int(side) for side in shape.split(",")])
            x = load(outputs=outputs, accelerator="cpu").sample(
                NUM_SAMPLES, num_steps=100, overrides=["batch_size=256"]
            )
            ratios = by_band(field, x)
            minutes = f"{trained / 60:.1f} min CPU so far in training, {os.times().user / 60:.1f} in drawing"
            print(
                f"{shape:>8} seed {seed}: {' '.join(f'{ratio:.3f}' for ratio in ratios)}; std {float(x.std()):.4f}; {minutes}",
                flush=True,
            )


def by_band(field: GaussianField, x: Tensor) -> list[float]:
    """The mean of |x̂_ω|²/λ(ω) over the samples and the modes of each band of |ω|."""
    squares = sum(
        axis.square()
        for axis in torch.meshgrid(*(torch.fft.fftfreq(side).abs() for side in field.shape[1:]), indexing="ij")
    )
    place = (squares.sqrt() / float(squares.max()) ** 0.5 * BANDS).floor().clamp(max=BANDS - 1)
    ratio = field.modes(x).mean((0, 1)) / field.spectrum()
    return [float(ratio[place == band].mean()) for band in range(BANDS)]


if __name__ == "__main__":
    main()
