"""What samples are compared with: features of real images, computed once per data set, features and split.

Two things are kept under the cache folder: the moments of *all* images of a split (a Fréchet distance needs no more),
and the features themselves, float32, of a subset (kernel distance, precision and recall need single images; all
60,000 images in 2048 dimensions would be half a gigabyte). The same function gives the floor: moments of n held-out images.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffusion_lab.metrics.cache import read_tensors, write_tensors
from diffusion_lab.metrics.needs import Need
from diffusion_lab.metrics.sampling import quantise
from diffusion_lab.metrics.statistics import FeatureStatistics, Moments, UnmeasurableError
from diffusion_lab.store import CacheDirectory

if TYPE_CHECKING:
    from diffusion_lab.data.in_memory import OneSet
    from diffusion_lab.data.module import DataModule
    from diffusion_lab.metrics.features import Features

Progress = Callable[[str, int, int], None]  # what is being done, images done, images in all
BATCH_SIZE = 256
RECIPE = 1  # raise it when the same key would give other numbers


class Reference:
    """Real images of `data` as `features` sees them, on `device`, cached under `cache`.

    lacks: what a metric may need and these images do not come with, and why, in words that a table can show.
    A cache file that is damaged, or belongs to another key, is computed again. Raises OSError if the cache cannot be
    written.
    """

    lacks: Mapping[Need, str] = {}
    remarks: Sequence[str] = ()  # what has to be known of them to compare a distance with another, in words

    def __init__(
        self,
        data: DataModule,
        features: Features,
        cache: Path,
        device: torch.device | str = "cpu",
        progress: Progress | None = None,
    ) -> None:
        self.data, self.features, self.cache, self.device = data, features, cache, torch.device(device)
        self.progress = progress or (lambda stage, done, total: None)
        if data.clusters is not None:
            self.lacks = {Need.LABELS: "the labels are clusters, which these features cannot recognise"}

    def described(self, split: str) -> str:
        """The images of a split, in words."""
        return f"{self.size(split)} {split} images"

    def protocol(self, split: str) -> dict[str, Any]:
        """The images of a split, as plain JSON."""
        return {"split": split, "num_images": self.size(split)}

    def moments(self, split: str, num_images: int | None = None) -> Moments:
        """Moments of `num_images` images of the split (its fixed subset), or of all."""

        def compute() -> dict[str, Tensor]:
            statistics = FeatureStatistics(self.features.dim)
            for vectors, _ in self._encode(split, num_images):
                statistics.update(vectors)
            return statistics.compute().tensors()

        return Moments.of(self._cached("moments", split, num_images, compute))

    def class_moments(self, split: str) -> dict[int, Moments]:
        """Moments of all images of the split, class by class; classes with fewer than two images are left out.

        Raises UnmeasurableError if that is every class.
        """

        def compute() -> dict[str, Tensor]:
            statistics = [FeatureStatistics(self.features.dim) for _ in range(self.data.num_classes)]
            for vectors, y in self._encode(split, None):
                for label in y.unique().tolist():
                    statistics[label].update(vectors[(y == label).to(vectors.device)].cpu())
            found = {label: s.compute().tensors() for label, s in enumerate(statistics) if s.n >= 2}
            if not found:
                raise UnmeasurableError(f"no class has two images in {split}")
            return {f"{label}.{name}": value for label, tensors in found.items() for name, value in tensors.items()}

        parts: dict[int, dict[str, Tensor]] = {}
        for key, value in self._cached(f"moments-by-{self._labels}", split, None, compute).items():
            label, _, name = key.partition(".")
            parts.setdefault(int(label), {})[name] = value
        return {label: Moments.of(parts[label]) for label in sorted(parts)}

    def class_means(self, split: str) -> tuple[Tensor, Tensor]:
        """How many images of the split each class has, (K,), and their mean, (K, D); float64. NaN where there is none."""

        def compute() -> dict[str, Tensor]:
            counts = torch.zeros(self.data.num_classes, dtype=torch.float64)
            sums = counts.new_zeros(len(counts), self.features.dim)
            for vectors, y in self._encode(split, None):
                counts += y.bincount(minlength=len(counts))
                sums.index_add_(0, y, vectors.cpu().double())
            return {"n": counts, "mean": sums / counts[:, None]}

        tensors = self._cached(f"{self._labels}-means", split, None, compute)
        return tensors["n"], tensors["mean"]

    def vectors(self, split: str, num_images: int | None = None) -> Tensor:
        """(n, D) float32 features of `num_images` images of the split, or of all."""

        def compute() -> dict[str, Tensor]:
            return {"features": torch.cat([vectors.cpu() for vectors, _ in self._encode(split, num_images)])}

        return self._cached("features", split, num_images, compute)["features"]

    def _encode(self, split: str, num_images: int | None) -> Iterator[tuple[Tensor, Tensor | None]]:
        size = self.size(split)
        total = size if num_images is None else min(num_images, size)
        done = 0
        for x, y in self.data.batches(split, BATCH_SIZE, limit=num_images):
            vectors = self.features(quantise(x.to(self.device), self.data.num_levels))
            done += len(x)
            self.progress(f"features of {split} images", done, total)
            yield vectors, y

    @property
    def _labels(self) -> str:
        return "class" if self.data.clusters is None else f"cluster-{self.data.clusters.identity}"

    def size(self, split: str) -> int:
        """How many images a split has."""
        return self.data.size(split)

    def _cached(
        self, kind: str, split: str, num_images: int | None, compute: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        key = {
            "data": self.data.identity,
            "features": self.features.identity,
            "kind": kind,
            "num_images": num_images,
            "num_levels": self.data.num_levels,
            "recipe": RECIPE,
            "split": self.data.named(split),
        }
        text = json.dumps(key, sort_keys=True)
        subset = "all" if num_images is None else str(num_images)
        about = f"{self.data.name}-{self.features.name}-{kind}-{split}-{subset}"
        path = CacheDirectory(self.cache).reference(about, text)
        found = read_tensors(path, text)
        if found is not None:
            return found[0]
        with torch.no_grad():
            tensors = compute()
        write_tensors(path, text, tensors)
        return tensors


class GivenReference(Reference):
    """Given images, all of which are the reference, or published mean and covariance.

    data: the images, perhaps none where there are statistics. published: the statistics, of these features; of images that are
    not known. None: those of the images.
    """

    def __init__(
        self,
        data: OneSet,
        features: Features,
        cache: Path,
        device: torch.device | str,
        progress: Progress | None,
        published: Moments | None = None,
    ) -> None:
        super().__init__(data, features, cache, device, progress)
        self._published = published
        if published is not None:
            self.remarks = ["the file does not say which split, resizing and network its author used"]
        if not data.num_train:
            self.lacks = {Need.REAL_IMAGES: f"needs real images, but {data.name} holds only statistics"}

    def described(self, split: str) -> str:
        form = f"{self.data.num_train} images" if self._published is None else "mu and sigma"
        return f"{form} of {self.data.name}"

    def protocol(self, split: str) -> dict[str, Any]:
        form = "images" if self._published is None else "mu and sigma"
        return {
            "given": self.data.name,
            "form": form,
            "num_images": self.data.num_train,
            "identity": self.data.identity,
        }

    def moments(self, split: str, num_images: int | None = None) -> Moments:
        return super().moments(split, num_images) if self._published is None else self._published


def references_of(
    data: DataModule,
    features: Sequence[Features],
    cache: Path,
    device: torch.device | str,
    progress: Progress | None = None,
) -> list[Reference]:
    """Real images of `data` as each of the features sees them, on `device`."""
    data.prepare()
    return [Reference(data, part.to(device).eval(), cache, device, progress) for part in features]
