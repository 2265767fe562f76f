"""How far samples are from Fashion-MNIST, by two rulers: the Fréchet distances of our two classifiers' features."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from diffusion_lab.data.fashion_mnist import FashionMNIST
from diffusion_lab.evaluation.features import ClassifierFeatures
from diffusion_lab.evaluation.frechet import frechet_distance
from diffusion_lab.evaluation.reference import Reference
from diffusion_lab.evaluation.sampling import quantise
from diffusion_lab.evaluation.statistics import FeatureStatistics

NAMES = ("fashion_cnn", "fashion_resnet")


class Rulers:
    """The reference is the 60,000 training images; the floor, as many test images as there are samples. cache: a folder."""

    def __init__(self, cache: Path) -> None:
        self._data = FashionMNIST(batch_size=1, seed=0)
        self._data.prepare()
        self._references = []
        for name in NAMES:
            features = ClassifierFeatures(name)
            features.check(self._data.shape)
            self._references.append(Reference(self._data, features.eval(), cache))

    def distances(self, batches: Iterable[Tensor]) -> dict[str, float]:
        """fd_… of samples, float32 (B, 1, 28, 28) in [−1, 1], rounded to the data's levels first."""
        statistics = [FeatureStatistics(ref.features.dim) for ref in self._references]
        for x in batches:
            for reference, seen in zip(self._references, statistics, strict=True):
                seen.update(reference.features(quantise(x, self._data.num_levels)))
        return {
            reference.features.metric_name: frechet_distance(seen.compute(), reference.moments("train"))
            for reference, seen in zip(self._references, statistics, strict=True)
        }

    def floors(self, num_images: int) -> dict[str, float]:
        """fd_… of test images."""
        return {
            ref.features.metric_name: frechet_distance(ref.moments("test", num_images), ref.moments("train"))
            for ref in self._references
        }


def metric_names() -> list[str]:
    return [f"fd_{name}" for name in NAMES]
