"""Features of images, trained without labels: VICReg on a small convolutional encoder (Bardes, Ponce & LeCun 2022).

    L(Z, Z') = 25·mean (Z − Z')² + 25·[v(Z) + v(Z')] / 2 + c(Z) + c(Z')
    v(Z) = mean_j max(0, 1 − √(Var z_j + 10⁻⁴)),    c(Z) = Σ_{i≠j} Cov(z_i, z_j)² / D

Z and Z' are embeddings of two views of the same images. Features become invariant to the differences between views, so the Fréchet
distance does not measure them. Views therefore differ only by shifts of whole pixels. Rotation and scaling interpolate, which
blurs; contrast, noise, blur, thickness of strokes and erased parts are faults that a distance must measure.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.fusion import fuse_conv_bn_eval

from diffusion_lab.data.module import DataModule
from diffusion_lab.metrics.features import ShapedFeatures, WeightsError
from diffusion_lab.metrics.features.classifiers import FOLDER, read_shipped
from diffusion_lab.networks.blocks import channels_last
from diffusion_lab.store.records import RunError, read_bytes

_COARSEST, _FINEST = 128, 16  # channels
_EMBEDDING = 256  # dimensions of an embedding in the loss
MOST_BYTES = 16_000_000  # of a file of weights


class Encoder(nn.Module):
    """A convolutional encoder of images: x float32 (B, C, H, W) in [-1, 1] -> (B, num_features).

    The means over pixels of every stage, and a linear layer. A stage is a 3×3 convolution; before each but the first the maximum of
    2×2 pixels is taken, until a side would fall below two pixels. The coarsest stage has 128 channels, each finer one half as many,
    but at least 16.
    """

    shape: Tensor  # (C, H, W), stored in the file of weights; the rest of the network follows from both

    def __init__(self, shape: Sequence[int], num_features: int = 64) -> None:
        super().__init__()
        depth = max(1, min(shape[1:]).bit_length() - 1)
        widths = [max(_FINEST, _COARSEST >> above) for above in reversed(range(depth))]
        self.register_buffer("shape", torch.tensor(shape))
        self.stages = nn.ModuleList(
            nn.Conv2d(before, width, 3, padding=1) for before, width in zip([shape[0], *widths], widths, strict=False)
        )
        self.hidden = nn.Linear(sum(widths), num_features)

    def forward(self, x: Tensor) -> Tensor:
        means = []
        for i, stage in enumerate(self.stages):
            x = F.relu(stage(F.max_pool2d(x, 2) if i else x))
            means.append(x.mean((2, 3)))
        return self.hidden(torch.cat(means, 1))


def vicreg(first: Tensor, second: Tensor) -> Tensor:
    """The loss of two embeddings of the same images, each (B, D)."""
    loss = 25 * F.mse_loss(first, second)
    for z in (first, second):
        covariance = torch.cov(z.T)
        variances = covariance.diagonal()
        too_narrow = F.relu(1 - (variances + 1e-4).sqrt()).mean()
        loss = loss + 25 / 2 * too_narrow + (covariance.square().sum() - variances.square().sum()) / len(covariance)
    return loss


def shifted(x: Tensor, max_shift: int, generator: torch.Generator, fill: float | None = None) -> Tensor:
    """Each image of x (B, C, H, W) shifted by up to `max_shift` pixels per axis. fill: padding value; None: repeat the edge."""
    size, (height, width) = 2 * max_shift + 1, x.shape[2:]
    edge = {"mode": "replicate"} if fill is None else {"value": fill}
    padded = F.pad(x, (max_shift,) * 4, **edge).permute(0, 2, 3, 1)
    down, right = torch.randint(size, (2, len(x), 1), generator=generator)
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    image = torch.arange(len(x))
    return padded[image[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def add_batch_norms(stages: nn.ModuleList) -> None:
    """Insert a batch norm after each convolution, for training."""
    convolution: Any
    for i, convolution in enumerate(stages):
        stages[i] = nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels))


def fold_batch_norms(stages: nn.ModuleList) -> None:
    """Fold batch norms into the convolutions before them, so that features do not depend on the mode. Only in eval mode."""
    pair: Any
    for i, pair in enumerate(stages):
        stages[i] = fuse_conv_bn_eval(*pair)


def train_encoder(
    data: DataModule,
    num_steps: int,
    seed: int,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> Encoder:
    """An encoder trained on batches of training images for `num_steps` steps, in eval mode; labels are not read.

    progress: called with the number of steps taken and the last loss. The same data, seed, machine and number of threads give the
    same weights. ValueError for data that are not images.
    """
    data.prepare()
    if len(data.shape) != 3:
        raise ValueError(
            f"features are trained on images, and {data.name} has the shape {list(data.shape)}: choose a data set of images"
        )
    if data.batch_size < 2:
        raise ValueError(f"batch_size={data.batch_size} must be at least 2: the loss compares the images of a batch")
    generator = torch.Generator().manual_seed(seed)
    max_shift = max(1, min(data.shape[1:]) // 14)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = Encoder(data.shape)
        num_features = encoder.hidden.out_features
        expander = nn.Sequential(
            *(nn.BatchNorm1d(num_features), nn.ReLU(), nn.Linear(num_features, _EMBEDDING)),
            *(nn.BatchNorm1d(_EMBEDDING), nn.ReLU(), nn.Linear(_EMBEDDING, _EMBEDDING)),
        )
    add_batch_norms(encoder.stages)
    channels_last(encoder.train())
    optimizer = torch.optim.AdamW([*encoder.parameters(), *expander.parameters()], weight_decay=1e-2)
    lr_scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=max(2, num_steps))
    for step, (x, _) in enumerate(itertools.islice(data.train_dataloader(), num_steps), start=1):
        views = torch.cat([shifted(x, max_shift, generator) for _ in range(2)])
        loss = vicreg(*expander(encoder(views.contiguous(memory_format=torch.channels_last))).chunk(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        lr_scheduler.step()
        progress(step, loss.item())
    if not math.isfinite(loss.item()):
        raise ValueError(f"the loss is {loss.item()}: set another seed, or a larger batch_size")
    encoder.eval()
    fold_batch_norms(encoder.stages)
    return encoder


def written(encoder: Encoder) -> bytes:
    """The content of a file with the encoder's weights, in half precision."""
    return save(
        {
            name: (value.half() if value.is_floating_point() else value).contiguous()
            for name, value in encoder.state_dict().items()
        }
    )


def read_encoder(content: bytes, path: Path) -> tuple[Encoder, str]:
    """The encoder of a file's content, frozen, float32, channels-last, and the SHA-256 of the content.

    path: of the file, for messages. WeightsError if the content is not from `written`.
    """
    try:
        state = {
            name: value.float() if value.is_floating_point() else value
            for name, value in (load(content) if len(content) <= MOST_BYTES else {}).items()
        }
        with torch.device("meta"):  # takes no memory before the file has been checked
            encoder = Encoder(state["shape"].tolist(), len(state["hidden.bias"]))
        encoder.load_state_dict(state, assign=True)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path} holds no features that `diffusion-lab features` trained") from error
    identity = hashlib.sha256(content).hexdigest()
    return channels_last(encoder.requires_grad_(False).eval()), identity


class SelfSupervisedFeatures(ShapedFeatures):
    """Features trained without labels, for images of one shape.

    name: "digits_ssl" (1×8×8), "fashion_ssl" (1×28×28) or "emoji_ssl" (3×32×32), which are shipped, or "own". weights: for "own", a
    file that `diffusion-lab features` wrote. WeightsError if it cannot be read.
    """

    kind = "features trained on images without labels"
    encoder: Encoder

    def __init__(self, name: str, weights: str | Path | None = None) -> None:
        super().__init__()
        self.name = name
        path = FOLDER / name if weights is None else Path(weights)
        try:
            content = read_shipped(name)[0] if weights is None else read_bytes(path, MOST_BYTES)
        except (OSError, RunError) as error:
            raise WeightsError(
                f"features.{name}.weights={path} cannot be read: set a file that `diffusion-lab features data=…` wrote"
            ) from error
        self.encoder, self.identity = read_encoder(content, path)
        self.image_shape, self.dim = tuple(self.encoder.shape.tolist()), self.encoder.hidden.out_features

    def vectors(self, x: Tensor) -> Tensor:
        return self.encoder(x)
