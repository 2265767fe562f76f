"""Train the features that ship with the package, and write their weights and cards into it.

    python scripts/train_features.py [digits_ssl] [fashion_ssl] [emoji_ssl] [digits_cnn] [fashion_cnn] [digits_resnet]
        [fashion_resnet] [--folder FOLDER] [--threads N]

Those in _ssl are trained without labels, as `diffusion-lab features` trains a user's own; the others are hidden layers of
classifiers trained with labels. Only training images are seen; the accuracy is that of the stored half-precision weights on the
test split. The same seed, machine and number of threads give the same file. Distances measured with different weights cannot be
compared.
"""

import argparse
import hashlib
import itertools
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from diffusion_lab.data import DataModule
from diffusion_lab.data.digits import Digits
from diffusion_lab.data.emoji import Emoji
from diffusion_lab.data.mnist import FashionMNIST
from diffusion_lab.metrics.features.classifiers import FOLDER, NETWORKS, ShippedClassifier, load_classifier
from diffusion_lab.metrics.features.self_supervised import (
    add_batch_norms,
    fold_batch_norms,
    shifted,
    train_encoder,
    written,
)


@dataclass(frozen=True)
class Shift:
    """Each image moved by up to `max_shift` pixels in both directions."""

    max_shift: int

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """x (B, C, H, W) -> the same shape; −1, the background, comes in."""
        return shifted(x, self.max_shift, generator, fill=-1.0)


@dataclass(frozen=True)
class Warp:
    """Each image turned by up to `max_degrees` and scaled by a factor within 1 ± `max_zoom`, about its middle."""

    max_degrees: float
    max_zoom: float

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """x (B, C, H, W) -> the same shape, interpolated; −1, the background, comes in."""
        turn, zoom = 2 * torch.rand(2, len(x), generator=generator) - 1
        angle, zoom = turn * math.radians(self.max_degrees), 1 + zoom * self.max_zoom
        cos, sin, none = zoom * angle.cos(), zoom * angle.sin(), torch.zeros(len(x))
        maps = torch.stack([torch.stack([cos, -sin, none], 1), torch.stack([sin, cos, none], 1)], 1)
        grid = F.affine_grid(maps, list(x.shape), align_corners=False)
        return F.grid_sample(x + 1, grid, align_corners=False) - 1


@dataclass(frozen=True)
class Recipe:
    """A data set, a network, an augmentation and a training budget.

    network: its name in NETWORKS. batch_norms: train with one behind each convolution of its stages.
    """

    data: DataModule
    network: str
    stages: Sequence[Sequence[int]]
    num_steps: int
    augment: Shift | Warp
    batch_norms: bool = False
    seed: int = 0
    num_features: int = 64
    peak_lr: float = 4e-3
    weight_decay: float = 2e-2
    label_smoothing: float = 0.1


# Without labels: the data set, whose batch size is that of training, and the number of steps.
LABEL_FREE = {
    "digits_ssl": (Digits(256, seed=0), 1500),
    "fashion_ssl": (FashionMNIST(256, seed=0), 1000),
    "emoji_ssl": (Emoji(256, seed=0), 2000),
}

# The resnets are second rulers, with nothing in common with the first but the training images: no search and no choice
# of a recipe may read them, so that what was chosen by the first can be checked by the second.
RECIPES = {
    "digits_cnn": Recipe(
        Digits(128, seed=0),
        "convolutional",
        stages=((32, 64), (64, 128)),
        num_steps=800,
        augment=Shift(1),
        batch_norms=True,
    ),
    "fashion_cnn": Recipe(
        FashionMNIST(128, seed=0, flip=True),
        "convolutional",
        stages=((32,), (64, 64), (128, 128)),
        num_steps=4200,
        augment=Shift(2),
        batch_norms=True,
    ),
    "digits_resnet": Recipe(
        Digits(64, seed=1), "residual", stages=((32, 2), (64, 2)), num_steps=1200, augment=Warp(10, 0.1), seed=1
    ),
    "fashion_resnet": Recipe(
        FashionMNIST(96, seed=1, flip=False),
        "residual",
        stages=((24, 1), (48, 2), (96, 2)),
        num_steps=4400,
        augment=Warp(8, 0.08),
        seed=1,
    ),
}


def train(recipe: Recipe) -> ShippedClassifier:
    """A trained classifier. Batch norms are folded into the convolutions before them afterwards."""
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    network = NETWORKS[recipe.network]
    classifier = network(recipe.data.shape, recipe.data.num_classes, recipe.stages, recipe.num_features)
    convolutions = classifier.stages if recipe.batch_norms else []
    for stage in convolutions:
        add_batch_norms(stage)
    classifier.train().to(memory_format=torch.channels_last)

    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=recipe.weight_decay)
    lr_scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.peak_lr, total_steps=recipe.num_steps)
    start = time.perf_counter()
    for step, (x, y) in enumerate(itertools.islice(recipe.data.train_dataloader(), recipe.num_steps), start=1):
        logits = classifier(recipe.augment(x, generator))
        loss = F.cross_entropy(logits, y, label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        lr_scheduler.step()
        if step % 200 == 0:
            print(f"  step {step}/{recipe.num_steps}  loss {loss:.3f}  {time.perf_counter() - start:.0f} s", flush=True)

    classifier.eval()
    for stage in convolutions:
        fold_batch_norms(stage)
    return classifier


@torch.no_grad()
def accuracy(classifier: ShippedClassifier, data: DataModule, split: str) -> float:
    """The share of the split's images that the classifier gives their own class."""
    return torch.cat([classifier(x).argmax(1) == y for x, y in data.batches(split, 500)]).double().mean().item()


def card_of(data: DataModule, weights: bytes, network: str, training: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What the weights are and how they were made."""
    return {
        "network": network,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "data": {"name": data.name, "identity": data.identity, "split": "train"},
        "training": {
            **training,
            "batch_size": data.batch_size,
            "flip": data.flip,
            "seconds": round(seconds),
            "threads": torch.get_num_threads(),
            "date": datetime.now(UTC).date().isoformat(),
        },
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }


def write(name: str, folder: Path, weights: bytes, card: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.safetensors").write_bytes(weights)
    (folder / f"{name}.json").write_text(json.dumps(card, indent=2) + "\n")


def make_classifier(name: str, folder: Path) -> None:
    """Train the classifier `name`, write its weights and its card."""
    recipe = RECIPES[name]
    recipe.data.prepare()
    start = time.perf_counter()
    classifier = train(recipe)
    seconds = time.perf_counter() - start

    weights = save({key: value.half().contiguous() for key, value in classifier.state_dict().items()})
    training = {
        "seed": recipe.seed,
        "num_steps": recipe.num_steps,
        **asdict(recipe.augment),
        "peak_lr": recipe.peak_lr,
        "weight_decay": recipe.weight_decay,
        "label_smoothing": recipe.label_smoothing,
    }
    card = card_of(recipe.data, weights, recipe.network, training, seconds)
    card["architecture"] = {
        "shape": recipe.data.shape,
        "num_classes": recipe.data.num_classes,
        "stages": recipe.stages,
        "num_features": recipe.num_features,
    }
    write(name, folder, weights, card)
    stored, _ = load_classifier(name, folder)
    card["accuracy"] = {split: round(accuracy(stored, recipe.data, split), 4) for split in ("train", "test")}
    write(name, folder, weights, card)
    print(
        f"{name}: accuracy {card['accuracy']}, {len(weights) / 1e3:.0f} kB, {seconds:.0f} s, SHA-256 {card['sha256']}"
    )


def make_label_free(name: str, folder: Path) -> None:
    """Train the features `name` without labels, write their weights and their card."""
    data, num_steps = LABEL_FREE[name]
    start = time.perf_counter()

    def progress(step: int, loss: float) -> None:
        if step % 100 == 0:
            print(f"  step {step}/{num_steps}  loss {loss:.3f}  {time.perf_counter() - start:.0f} s", flush=True)

    weights = written(train_encoder(data, num_steps, seed=0, progress=progress))
    card = card_of(data, weights, "encoder", {"seed": 0, "num_steps": num_steps}, time.perf_counter() - start)
    write(name, folder, weights, card)
    print(f"{name}: {len(weights) / 1e3:.0f} kB, {card['training']['seconds']} s, SHA-256 {card['sha256']}")


if __name__ == "__main__":
    known = [*LABEL_FREE, *RECIPES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=known, metavar="name", help=f"from {known}; default: all")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(known):
        parser.error(f"there is no recipe for {sorted(unknown)}; there are {known}")
    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)
    for name in arguments.names:
        print(name)
        make = make_label_free if name in LABEL_FREE else make_classifier
        make(name, arguments.folder)
