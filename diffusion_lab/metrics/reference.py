"""References of a score: features of real images, computed once per data set, features and split.

Two results are kept in the cache folder: the moments of *all* images of a split (enough for a Fréchet distance), and the
features themselves, float32, of a subset (kernel distance, precision and recall need single images; all 60,000 images in 2048
dimensions would be half a gigabyte). The floor uses the same function: moments of n held-out images. Moments of fewer images than
features are stored as features, which are smaller.

Moments are the mean m and the covariance Σ = M / (n − 1) of features, M = Σ_i (x_i − m)(x_i − m)^T. With b more vectors, with m_b
and M_b, and δ = m_b − m, they become

    m + δ·b / (n + b),   M + M_b + δ δ^T·n·b / (n + b)

(Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance"). Plain sums of x x^T lose as many digits as the mean
exceeds the spread; centred sums lose none. With fewer vectors than features Σ is not formed: the centred vectors are its
factor.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffusion_lab.data.module import DataModule
from diffusion_lab.diffusion.condition_parts import classes_in
from diffusion_lab.diffusion.levels import from_levels, to_levels
from diffusion_lab.diffusion.shapes import Conditions
from diffusion_lab.metrics.features import Features
from diffusion_lab.metrics.stored import Progress, read_tensors, silent, write_tensors
from diffusion_lab.store import CacheDirectory
from diffusion_lab.store.own_files import digests_of, users_files

BATCH_SIZE = 256
MOST_VALUES = 2**27  # of features in memory individually: 1 GiB of float64
RECIPE = 1  # increase it when the same key would give other numbers


class Need(Enum):
    """A requirement of a metric, with a description. Samples, models or references may fail to meet one."""

    SAMPLES = "all samples, as features; otherwise only those of the picture are drawn"
    IMAGES = "all samples, as images"
    LABELS = "the class that each sample shows"
    REAL_IMAGES = "real images one by one"
    GENERATOR = "the generator of the samples"
    CHAIN = "a generator with a noisy chain"
    STEP_COSTS = "the measured costs of the steps of that chain"
    TRUTH = "held-out images, each with a condition that the generator draws for"


class UnmeasurableError(ValueError):
    """A number that does not exist for these images; the message is the reason, in one sentence for a table."""


def quantise(x: Tensor, num_levels: int | None) -> Tensor:
    """x in [-1, 1] rounded to the nearest of the data's levels; continuous data are unchanged.

    Real images lie on the levels. Samples between levels could be recognised by that alone, perhaps also by features.
    """
    return x if num_levels is None else from_levels(to_levels(x, num_levels), num_levels)


@dataclass(eq=False)
class Reference:
    """Real images of `data` as vectors of `features`, computed on `device` and cached in `cache`.

    A cache file that is damaged, or has another key, is computed again. OSError if the cache cannot be
    written. progress: called with (task, images done, all images).
    """

    data: DataModule
    features: Features
    cache: CacheDirectory
    device: torch.device | str = "cpu"
    progress: Progress = silent

    @property
    def lacks(self) -> Mapping[Need, str]:
        """Requirements of metrics that these images do not meet, with a reason for each."""
        if self.data.clusters is None:
            return {}
        return {Need.LABELS: "the labels are clusters, which these features cannot recognise"}

    @property
    def remarks(self) -> Sequence[str]:
        """Sentences on comparing a distance to this reference with others."""
        return ()

    def described(self, split: str) -> str:
        """A description of the images of a split."""
        return f"{self.size(split)} {split} images"

    def protocol(self, split: str) -> dict[str, Any]:
        """The images of a split as entries of the protocol, plain JSON."""
        return {"split": split, "num_images": self.size(split)}

    def moments(self, split: str, num_images: int | None = None) -> Moments:
        """Moments of `num_images` images of the split (a fixed subset), or of all."""
        size, dim = self.size(split), self.features.dim
        if (count := min(num_images or size, size)) < dim:
            _check_memory(count, dim)
            return FeatureStatistics(dim, [self.vectors(split, num_images)]).compute()

        def compute() -> dict[str, Tensor]:
            vectors = (vectors for vectors, _ in self._encode(split, num_images))
            return FeatureStatistics(dim, vectors).compute().tensors()

        return Moments(**self._cached("moments", split, num_images, compute))

    def class_moments(self, split: str) -> dict[int, Moments]:
        """Moments of all images of the split, class by class; classes with fewer than two images are left out.

        UnmeasurableError if all classes are left out.
        """

        def compute() -> dict[str, Tensor]:
            statistics = defaultdict[int, FeatureStatistics](lambda: FeatureStatistics(self.features.dim))
            for vectors, y in self._of_classes(split):
                for label in y.unique().tolist():
                    statistics[label].update(vectors.cpu()[y.cpu() == label])
            found = {label: s.compute().tensors() for label, s in statistics.items() if s.n >= 2}
            if not found:
                raise UnmeasurableError(f"no class has two images in {split}")
            return {f"{label}.{name}": value for label, tensors in found.items() for name, value in tensors.items()}

        parts = defaultdict[int, dict[str, Tensor]](dict)
        for key, value in self._cached(f"moments-by-{self._labels}", split, None, compute).items():
            label, _, name = key.partition(".")
            parts[int(label)][name] = value
        return {label: Moments(**parts[label]) for label in sorted(parts)}

    def class_means(self, split: str) -> tuple[Tensor, Tensor]:
        """The number of images of each class in the split, (K,), and their mean, (K, D); float64. NaN for an empty class."""

        def compute() -> dict[str, Tensor]:
            counts = torch.zeros(self.data.num_classes or 0, dtype=torch.float64)
            sums = counts.new_zeros(len(counts), self.features.dim)
            for vectors, y in self._of_classes(split):
                counts += y.bincount(minlength=len(counts))
                sums.index_add_(0, y, vectors.cpu().double())
            return {"n": counts, "mean": sums / counts[:, None]}

        tensors = self._cached(f"{self._labels}-means", split, None, compute)
        return tensors["n"], tensors["mean"]

    @property
    def _labels(self) -> str:
        """The labels of a cache file."""
        return "class" if self.data.clusters is None else f"cluster-{self.data.clusters.identity}"

    def vectors(self, split: str, num_images: int | None = None) -> Tensor:
        """(n, D) float32 features of `num_images` images of the split, or of all."""

        def compute() -> dict[str, Tensor]:
            return {"features": torch.cat([vectors.cpu() for vectors, _ in self._encode(split, num_images)])}

        return self._cached("features", split, num_images, compute)["features"]

    def _of_classes(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        """The features of all images of a split, and their classes."""
        for vectors, y in self._encode(split, None):
            classes = classes_in(y)
            assert classes is not None
            yield vectors, classes

    def _encode(self, split: str, num_images: int | None) -> Iterator[tuple[Tensor, Conditions]]:
        size = self.size(split)
        total = size if num_images is None else min(num_images, size)
        done = 0
        for x, y in self.data.batches(split, BATCH_SIZE, limit=num_images):
            vectors = self.features(quantise(x.to(self.device), self.data.num_levels))
            done += len(x)
            self.progress(f"features of {split} images", done, total)
            yield vectors, y

    def size(self, split: str) -> int:
        """The number of images in a split."""
        return self.data.size(split)

    def _cached(
        self, kind: str, split: str, num_images: int | None, compute: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        num_images = num_images if num_images is not None and num_images < self.size(split) else None
        kind_of = type(self.features)
        key = {
            "data": self.data.identity,
            "features": self.features.identity,
            "files": digests_of(users_files({"class": f"{kind_of.__module__}.{kind_of.__qualname__}"}, {})),
            "kind": kind,
            "num_images": num_images,
            "num_levels": self.data.num_levels,
            "recipe": RECIPE,
            "split": self.data.named(split),
        }
        text = json.dumps(key, sort_keys=True)
        subset = "all" if num_images is None else str(num_images)
        about = f"{self.data.name}-{self.features.name}-{kind}-{split}-{subset}"
        path = self.cache.reference(about, text)
        found = read_tensors(path, text) if self.cache.has(path) else None
        if found is not None:
            return found[0]
        with torch.no_grad():
            tensors = compute()
        write_tensors(path, text, tensors)
        return tensors


def references_of(
    data: DataModule,
    features: Sequence[Features],
    cache: CacheDirectory,
    device: torch.device | str,
    progress: Progress = silent,
) -> list[Reference]:
    """Real images of `data` as vectors of each set of features, computed on `device`, cached in `cache`.

    progress: called with (task, images done, all images).
    """
    data.prepare()
    return [Reference(data, part.to(device).eval(), cache, device, progress) for part in features]


class Moments(NamedTuple):
    """n, the mean (D,) and the unbiased covariance Σ of n feature vectors, float64, on the CPU.

    Σ is `covariance` (D, D) if n ≥ D. Otherwise that is None, and L·L^T = Σ with L = `factor` (D, n).
    """

    n: Tensor
    mean: Tensor
    covariance: Tensor | None = None
    factor: Tensor | None = None

    @property
    def known(self) -> Tensor:
        """Σ or L, whichever is set."""
        known = self.factor if self.covariance is None else self.covariance
        assert known is not None
        return known

    def dense(self) -> Tensor:
        """Σ (D, D), for any n."""
        return self.known @ self.known.T if self.covariance is None else self.covariance

    @property
    def trace(self) -> Tensor:
        """tr Σ, the mean squared distance of a vector from the mean."""
        if self.covariance is None:
            return self.known.square().sum()
        return self.covariance.reshape(self.mean.numel(), -1).diagonal().sum()

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are set, by name."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def _check_memory(n: int, dim: int) -> None:
    """UnmeasurableError if feature vectors, kept individually, do not fit into memory."""
    if n * dim > MOST_VALUES:
        raise UnmeasurableError(
            f"{dim:,} features of {n:,} images take too much memory, and n below D says little about models: use features that "
            "`diffusion-lab features` trains"
        )


class FeatureStatistics:
    """Mean and unbiased covariance of all feature vectors seen, summed in float64 on their device.

    Up to D − 1 vectors are kept as they are. From then on there are only n, the mean and the centred products M.
    """

    def __init__(self, dim: int, batches: Iterable[Tensor] = ()) -> None:
        self.dim, self.n = dim, 0
        self._rows: list[Tensor] = []
        self._state: tuple[int, Tensor, Tensor] | None = None  # n, mean, M
        for features in batches:
            self.update(features)

    def update(self, features: Tensor) -> None:
        """features: (B, D) of any floating type."""
        if len(features) == 0:
            return
        self.n += len(features)
        self._rows.append(features)
        if self.n < self.dim:
            _check_memory(self.n, self.dim)
        else:
            for rows in self._rows:
                self._add(rows.double())
            self._rows = []

    def _add(self, x: Tensor) -> None:
        mean = x.mean(0)
        n, before, products = self._state or (0, mean, mean.new_zeros(self.dim, self.dim))
        total, shift, centred = n + len(x), mean - before, x - mean
        products.addmm_(centred.T, centred).addr_(shift, shift, alpha=n * len(x) / total)
        self._state = total, before + shift * (len(x) / total), products

    def compute(self) -> Moments:
        """Raises UnmeasurableError below two vectors: one has no covariance."""
        if self.n < 2:
            raise UnmeasurableError(f"a covariance needs at least 2 feature vectors, got {self.n}")
        n = torch.tensor(float(self.n)).double()
        if self._state is not None:
            return Moments(n, self._state[1].cpu(), self._state[2].cpu() / (n - 1))
        x = torch.cat(self._rows).double().cpu()
        mean = x.mean(0)
        # Laid out as it comes back from a file, since products depend on it.
        return Moments(n, mean, None, x.sub_(mean).div_((self.n - 1) ** 0.5).T.contiguous())
