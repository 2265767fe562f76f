"""How far samples are from the test images of Fashion-MNIST.

The Fréchet distance of features that were trained without labels; the sliced Wasserstein distance, which needs no network; and the
Fréchet distance of features that were trained with labels.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from diffusion_lab.data.mnist import FashionMNIST
from diffusion_lab.metrics.features.classifiers import ClassifierFeatures
from diffusion_lab.metrics.features.self_supervised import SelfSupervisedFeatures
from diffusion_lab.metrics.frechet_distance import frechet_distance
from diffusion_lab.metrics.reference import FeatureStatistics, Reference, quantise
from diffusion_lab.metrics.sliced_wasserstein import sliced_wasserstein

SLICED = "sliced_wasserstein"
NAMES = ("fd_fashion_ssl", SLICED, "fd_fashion_cnn")
_PATCHES = 128  # of each image and band, as in Karras et al. 2018
_BATCH = 256


class Rulers:
    """The reference is the 10,000 test images; the floor, as many training images as there are samples. cache: a folder."""

    def __init__(self, cache: Path) -> None:
        self._data = FashionMNIST(batch_size=1, seed=0)
        self._data.prepare()
        self._references = []
        for features in (SelfSupervisedFeatures("fashion_ssl"), ClassifierFeatures("fashion_cnn")):
            features.check(self._data.shape)
            self._references.append(Reference(self._data, features.eval(), cache))

    def distances(self, batches: Iterable[Tensor]) -> dict[str, float]:
        """Each of NAMES, of samples, float32 (B, 1, 28, 28) in [−1, 1], rounded to the data's levels first."""
        x = torch.cat([quantise(batch, self._data.num_levels) for batch in batches])
        found = {}
        for reference in self._references:
            seen = FeatureStatistics(reference.features.dim)
            for batch in x.split(_BATCH):
                seen.update(reference.features(batch))
            found[reference.features.metric_name] = frechet_distance(seen.compute(), reference.moments("test"))
        bands = sliced_wasserstein(x, self._images("test", len(x)), _PATCHES, seed=0)
        return found | {SLICED: sum(bands.values()) / len(bands)}

    def floors(self, num_images: int) -> dict[str, float]:
        """The same of training images."""
        return self.distances([self._images("train", num_images)])

    def _images(self, split: str, num_images: int) -> Tensor:
        """A fixed choice of a split, (n, 1, 28, 28)."""
        return torch.cat([x for x, _ in self._data.batches(split, _BATCH, limit=num_images)])[:num_images]
