"""What contenders are trained on and scored against, by the name of the data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from diffusion_lab.data.drawings import Emoji, Sprites
from diffusion_lab.data.in_memory import InMemoryDataModule
from diffusion_lab.data.mnist import FashionMNIST
from diffusion_lab.metrics.features import Features
from diffusion_lab.metrics.features.classifiers import ClassifierFeatures
from diffusion_lab.metrics.features.self_supervised import SelfSupervisedFeatures


@dataclass(frozen=True)
class Images:
    """module: (batch_size, seed, flip=…) -> the data set. features: of the distances; the first were trained without labels."""

    module: Callable[..., InMemoryDataModule]
    shape: tuple[int, int, int]
    features: Sequence[Callable[[], Features]]


_LABEL_FREE = {name: partial(SelfSupervisedFeatures, f"{name}_ssl") for name in ("fashion", "emoji", "sprites")}
DATA = {
    "fashion_mnist": Images(
        FashionMNIST, (1, 28, 28), (_LABEL_FREE["fashion"], partial(ClassifierFeatures, "fashion_cnn"))
    ),
    "emoji": Images(Emoji, (3, 32, 32), (_LABEL_FREE["emoji"],)),
    "sprites": Images(Sprites, (3, 32, 32), (_LABEL_FREE["sprites"],)),
}
