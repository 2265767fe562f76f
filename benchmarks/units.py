"""Mean, standard deviation and correlation length of samples beside those of held-out data, in the units of the data.

    python benchmarks/units.py fields series volume --outputs outputs

Trains `experiment=NAME` by the command, once, into OUTPUTS/NAME, and compares 500 samples with 500 held-out ones. The
correlation length is the lag at which the mean autocorrelation along an axis falls below 1/e. Each number stands with
its bootstrap standard error over samples; the last column is the difference in errors of both.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from diffusion_lab import load

NUM_SAMPLES, NUM_RESAMPLED = 500, 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiments", nargs="+")
    parser.add_argument("--outputs", type=Path, required=True)
    parser.add_argument("--steps", type=int, help="of the sampler; by default its own")
    given = parser.parse_args()
    for name in given.experiments:
        outputs = given.outputs / name
        options = [f"experiment={name}", f"outputs={outputs}", "score=false"]
        subprocess.run([sys.executable, "-m", "diffusion_lab", "train", *options], check=True)
        model = load(outputs=outputs, accelerator="cpu")
        real = next(model.data.batches("test", NUM_SAMPLES, NUM_SAMPLES))[0]
        choices = {} if given.steps is None else {"num_steps": given.steps}
        drawn = model.sample(NUM_SAMPLES, overrides=["batch_size=100"], **choices)
        for channel in range(real.shape[1]):
            pair = real[:, channel], drawn[:, channel]
            for what, of in quantities(real.ndim - 2):
                found = [with_error(of, x) for x in pair]
                values = " ".join(f"{value:8.4f} ± {error:.4f}" for value, error in found)
                apart = (found[1][0] - found[0][0]) / sum(error**2 for _, error in found) ** 0.5
                print(f"{name} channel {channel} {what:22} {values} {apart:+6.1f}", flush=True)


def quantities(num_axes: int) -> list[tuple[str, Callable[[Tensor], float]]]:
    """Names and functions of samples (N, *spatial)."""
    lengths = [
        (f"correlation, axis {axis}", lambda x, axis=axis: correlation_length(x, axis)) for axis in range(num_axes)
    ]
    return [("mean", lambda x: float(x.mean())), ("standard deviation", lambda x: float(x.std())), *lengths]


def correlation_length(x: Tensor, axis: int) -> float:
    """The lag at which the autocorrelation along an axis, averaged over samples and places, falls below 1/e."""
    x = (x - x.mean()).movedim(1 + axis, -1)
    size = x.shape[-1]
    covariances = [float((x[..., : size - lag] * x[..., lag:]).mean()) for lag in range(size)]
    below = next(lag for lag, value in enumerate(covariances) if value < covariances[0] / torch.e)
    above, under = (covariances[lag] / covariances[0] for lag in (below - 1, below))
    return below - 1 + (above - 1 / torch.e) / (above - under)


def with_error(of: Callable[[Tensor], float], x: Tensor) -> tuple[float, float]:
    """A quantity of samples, and its bootstrap standard error."""
    random = torch.Generator().manual_seed(0)
    picks = torch.randint(len(x), (NUM_RESAMPLED, len(x)), generator=random)
    return of(x), float(torch.tensor([of(x[pick]) for pick in picks]).std())


if __name__ == "__main__":
    main()
