"""Sensitivity of features: distances of real test images with one fault each, as multiples of the distance without it.

    python benchmarks/features.py --data digits --images 180
    python benchmarks/features.py --data fashion_mnist --images 1000 --machine 'AMD EPYC'    # into results/features.csv

Every set of features and the sliced Wasserstein distance measure the same images: test images that are blurred, noisy, paler or
greyer, with thicker or thinner strokes, moved, without one class, in wrong proportions, or copies of a part of them. The reference
is all training images (for sliced Wasserstein as many as there are samples), the number of images is the same for every fault, and
a distance is divided by that of unchanged test images, its floor. Features whose weights are not on this machine are left out and
named.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from record import about, add
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from diffusion_lab.conf_dir import CONF
from diffusion_lab.data.module import DataModule
from diffusion_lab.diffusion.levels import from_levels, to_levels
from diffusion_lab.metrics.features import Features
from diffusion_lab.metrics.frechet_distance import frechet_distance
from diffusion_lab.metrics.reference import FeatureStatistics, Moments
from diffusion_lab.metrics.sliced_wasserstein import sliced_wasserstein

USUAL = {
    "digits": ["digits_ssl", "digits_cnn", "digits_resnet", "pixels", "dinov2_s"],
    "fashion_mnist": ["fashion_ssl", "fashion_cnn", "fashion_resnet", "pixels", "dinov2_s"],
    "emoji": ["emoji_ssl", "dinov2_s"],
}
PATCHES = 16  # of an image, for sliced Wasserstein
LEFT_OUT = 3  # the class that is dropped

Distance = Callable[[Tensor], float]


def background(x: Tensor) -> float:
    """What is around the images: black, or white of colours."""
    return -1.0 if x.shape[1] == 1 else 1.0


def blurred(x: Tensor, sigma: float) -> Tensor:
    """x convolved with a Gaussian of `sigma` pixels."""
    reach = math.ceil(3 * sigma)
    kernel = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
    kernel, channels = (kernel / kernel.sum()).expand(x.shape[1], 1, 1, -1), x.shape[1]
    x = F.pad(x, (reach,) * 4, value=background(x))
    return F.conv2d(F.conv2d(x, kernel, groups=channels), kernel.transpose(2, 3), groups=channels)


def thicker(x: Tensor, share: float) -> Tensor:
    """x moved by `share` of the way to its maximum over 3×3 pixels."""
    return x + share * (F.max_pool2d(x, 3, 1, 1) - x)


def moved(x: Tensor, pixels: int) -> Tensor:
    """x shifted to the right."""
    return F.pad(x, (pixels, 0, 0, 0), value=background(x))[..., : x.shape[-1]]


def faults(x: Tensor, y: Tensor | None, chosen: Tensor, seed: int) -> Iterator[tuple[str, str, Tensor]]:
    """(fault, strength, images), the strengths of a fault in rising order. x, y: all test images; chosen: those of the floor."""
    generator = torch.Generator().manual_seed(seed)
    real, n = x[chosen], len(chosen)
    noise = torch.randn(real.shape, generator=generator)
    for sigma in (0.4, 0.6, 1.0):
        yield "blur", f"{sigma} px", blurred(real, sigma)
    for std in (0.05, 0.1, 0.2):
        yield "noise", f"{std}", (real + std * noise).clamp(-1, 1)
    for contrast in (0.95, 0.9, 0.8):
        yield "contrast", f"× {contrast}", (real + 1) * contrast - 1
    for share in (0.1, 0.2, 0.4) if x.shape[1] == 3 else ():
        yield "greyer", f"{share}", real + share * (real.mean(1, keepdim=True) - real)
    for share in (0.1, 0.2, 0.4):
        yield "thicker", f"{share} px", thicker(real, share)
    for share in (0.1, 0.2, 0.4):
        yield "thinner", f"{share} px", -thicker(-real, share)
    for pixels in (1, 2, 3):
        yield "moved", f"{pixels} px", moved(real, pixels)
    if y is not None:
        order = torch.randperm(len(x), generator=generator)
        for kept in (0.5, 0.0):  # of the class
            weights = torch.where(y == LEFT_OUT, kept, 1.0).double()
            yield "a class missing", f"{1 - kept:.0%}", x[_drawn(weights, n, generator)]
        for ratio in (1.5, 3.0):
            weights = torch.where(y < 5, ratio, 1.0).double()
            shares = weights / weights.sum()
            first = order[y[order] < 5][: round(n * float(shares[y < 5].sum()))]
            yield "wrong proportions", f"{ratio:g} : 1", x[torch.cat([first, order[y[order] >= 5][: n - len(first)]])]
    for share in (0.5, 0.1):
        yield "copies", f"{share:.0%} distinct", real[torch.arange(n) % max(1, round(n * share))]


def _drawn(weights: Tensor, n: int, generator: torch.Generator) -> Tensor:
    return torch.multinomial(weights, n, generator=generator)


def frechet(features: Features, train: Tensor) -> Distance:
    reference = moments(features, train)
    return lambda x: frechet_distance(moments(features, x), reference)


def moments(features: Features, x: Tensor) -> Moments:
    found = FeatureStatistics(features.dim)
    for batch in x.split(500):
        found.update(features(batch))
    return found.compute()


def sliced(train: Tensor, x: Tensor) -> float:
    return statistics.fmean(sliced_wasserstein(x, train[: len(x)], PATCHES, seed=0).values())


def distances_of(names: Sequence[str], data: DataModule, train: Tensor) -> dict[str, Distance]:
    """Distances by name; `name=FILE` are features that `diffusion-lab features` wrote. Prints those that are left out."""
    found: dict[str, Distance] = {}
    for name in names:
        name, _, file = name.partition("=")
        with initialize_config_dir(str(CONF), version_base="1.3"):
            options = compose("statistics", [f"features={'own' if file else name}"]).features
        try:
            features = instantiate(next(iter(options.values())), **({"weights": file} if file else {}))
            features.check(data.shape)
        except (InstantiationException, ValueError) as error:
            print(f"without {name}: {error.__cause__ or error}")
            continue
        found[name] = frechet(features.eval(), train)
    return {**found, "sliced_wasserstein": partial(sliced, train)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=USUAL, default="digits")
    parser.add_argument("--features", nargs="*", metavar="name", help="default: all that ship for the data, and pixels")
    parser.add_argument("--images", type=int, default=180, help="of each fault")
    parser.add_argument("--draws", type=int, default=3, help="subsets of the test images, for the spread")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--machine", help="its name; the values are then written into results/features.csv")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        data = instantiate(compose("statistics", [f"data={options.data}"]).data)
    x, train = (torch.cat([x for x, _ in data.batches(split, 1000)]) for split in ("test", "train"))
    labels = [y for _, y in data.batches("test", 1000)]
    y = None if labels[0] is None else torch.cat(labels)

    def seen(images: Tensor) -> Tensor:
        return from_levels(to_levels(images, data.num_levels), data.num_levels)

    measured = distances_of(options.features or USUAL[options.data], data, train)
    floors: dict[str, list[float]] = {name: [] for name in measured}
    multiples: dict[tuple[str, str], dict[str, list[float]]] = {}
    for seed in range(options.draws):
        chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[: options.images]
        for name, distance in measured.items():
            floors[name].append(distance(x[chosen]))
        for fault, strength, images in faults(x, y, chosen, seed):
            row = multiples.setdefault((fault, strength), {name: [] for name in measured})
            for name, distance in measured.items():
                row[name].append(distance(seen(images)) / floors[name][-1])
        print(f"draw {seed + 1} of {options.draws}", flush=True)
    rows = {"floor": floors} | {f"{fault}, {strength}": row for (fault, strength), row in multiples.items()}
    if options.machine:
        command = f"python benchmarks/features.py --data {options.data} --images {options.images}"
        made = {"study": "features", "seed": "", "samples_seed": "", "samples": f"{options.images}"} | about(
            command, options.machine
        )
        add("features", [made | {"recipe": recipe(options.data, name), **columns(row)} for name, row in rows.items()])
    print(f"\n| {options.data}, n = {options.images} | {' | '.join(f'`{name}`' for name in measured)} |")
    print(f"|---|{'---|' * len(measured)}")
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(shown(values) for values in row.values())} |")
    print()
    for name in measured:
        print(f"{name}: does not grow with the strength of {', '.join(not_growing(name, multiples)) or 'no fault'}")


def recipe(data: str, name: str) -> str:
    return f"{data}/{name.replace(', ', '_').replace(' ', '_')}"


def columns(row: dict[str, list[float]]) -> dict[str, str]:
    """Means and standard errors by column."""
    found: dict[str, str] = {}
    for name, values in row.items():
        found[name], found[f"{name}_standard_error"] = shown(values).split(" ± ")
    return found


def not_growing(name: str, multiples: dict[tuple[str, str], dict[str, list[float]]]) -> list[str]:
    """The faults whose distance, as a mean over draws, does not rise above the floor and from each strength to the next."""
    found: dict[str, list[float]] = {}
    for (fault, _), row in multiples.items():
        found.setdefault(fault, [1.0]).append(statistics.fmean(row[name]))
    return [fault for fault, means in found.items() if means != sorted(set(means))]


def shown(values: list[float]) -> str:
    """Mean ± standard error, to three digits."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.3g} ± {error:.2g}"


if __name__ == "__main__":
    main()
