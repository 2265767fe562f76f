"""What contenders are trained on and scored against, by the name of the data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from diffusion_lab.data.emoji import Emoji
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


_LABEL_FREE = {name: partial(SelfSupervisedFeatures, f"{name}_ssl") for name in ("fashion", "emoji")}
_SPRITES_SSL = Path(__file__).parents[1] / "data" / "sprites_ssl.safetensors"


class Sprites(Emoji):
    """Units of the game Battle for Wesnoth, from the file sprites.npz that data/drawings.py makes."""

    name, side = "sprites", 72


DATA = {
    "fashion_mnist": Images(
        FashionMNIST, (1, 28, 28), (_LABEL_FREE["fashion"], partial(ClassifierFeatures, "fashion_cnn"))
    ),
    "emoji": Images(Emoji, (3, 32, 32), (_LABEL_FREE["emoji"],)),
    "sprites": Images(Sprites, (3, 32, 32), (partial(SelfSupervisedFeatures, "sprites_ssl", _SPRITES_SSL),)),
}
