"""The samples of a score: drawn once, batch by batch, rounded to the data's levels, and turned into features.

`Stream` says what decides them, which is the key that they are stored under; `draw` draws what is missing. given.py has samples
that no model of ours has drawn.
"""

from __future__ import annotations

import json
import resource
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import prod
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.data.module import DataModule
from diffusion_lab.diffusion import SampleNoise
from diffusion_lab.diffusion.parts import classes_in
from diffusion_lab.diffusion.shapes import Conditions
from diffusion_lab.diffusion.streams import CLASS
from diffusion_lab.metrics.features import Features
from diffusion_lab.metrics.reference import (
    FeatureStatistics,
    Moments,
    Need,
    Reference,
    UnmeasurableError,
    quantise,
    references_of,
)
from diffusion_lab.metrics.settings import Evaluation
from diffusion_lab.metrics.shards import Progress, Shard, ShardStore, complete, digest
from diffusion_lab.models.base import GenerativeModel
from diffusion_lab.store import CacheDirectory
from diffusion_lab.store.cache import stream

KEPT_VALUES = 2**22  # samples kept for pictures: 16 MiB of float32,
KEPT_IMAGES = 64  # but no fewer images than this
SHARD_IMAGES = 128  # about as many as may be lost
RECIPE = 2  # raise it when the same key would give other numbers


@dataclass(frozen=True)
class Effort:
    """What drawing some samples took, and on what: times on different machines are not one number.

    laps: (images, seconds) of each batch. cold: the first of them is the first of its process, which also pays for memory, kernels
    and compilation.
    """

    laps: list[tuple[int, float]]
    cold: bool
    device: str
    threads: int
    nfe: int
    peak_memory_mib: float
    peak_memory_of: str


@dataclass(frozen=True)
class Samples:
    """n samples: the first few as images (float32, CPU), all as one set of features (n, D), and the class of each.

    y: int64 (n,), the class that each was asked for, or is labelled with. None where there is none.
    efforts: what drawing them took, by shard; of given images there is none. asked: what the images were drawn for, where that is
    more than a class: a vector, a field, or several conditions.
    """

    images: Tensor
    features: Tensor
    num_not_finite: int
    y: Tensor | None
    efforts: Sequence[Effort] = ()
    asked: Conditions = None

    def finite(self, rows: Tensor) -> Tensor:
        """Rows that were computed from the samples, as they are; UnmeasurableError if a sample is not finite."""
        if self.num_not_finite > 0:
            raise UnmeasurableError(f"{self.num_not_finite} of {len(self.features)} samples are not finite")
        return rows

    def vectors(self) -> Tensor:
        """(n, D) float32 on the CPU; UnmeasurableError if a sample is not finite."""
        return self.finite(self.features)

    def moments(self, device: torch.device | str) -> Moments:
        """Of the features, computed on `device`; UnmeasurableError if a sample is not finite."""
        batches = (rows.to(device) for rows in self.vectors().split(1024))
        return FeatureStatistics(self.features.shape[1], batches).compute()


class Source(ABC):
    """Something that samples come from.

    device: where features are computed. cache: the folder of what is kept between calls. model: what draws them. training: the
    steps, seconds and images of its training, as far as they are known. lacks: what a metric may need and these samples do not come
    with, and why, in words that a table can show.
    """

    device: torch.device | str
    cache: Path
    model: GenerativeModel | None = None
    training: Mapping[str, float | None] = {}
    lacks: Mapping[Need, str] = {}

    def references(self, data: DataModule, features: Sequence[Features], progress: Progress) -> list[Reference]:
        """What the samples are compared with, as each of the features sees it."""
        return references_of(data, features, self.cache, self.device, progress)

    @abstractmethod
    def samples(
        self, references: Sequence[Reference], settings: Evaluation, progress: Progress
    ) -> list[Samples] | None:
        """The samples, as the features of each reference see them. Of several ranks, rank 0 has them and the others None."""

    @abstractmethod
    def protocol(self, settings: Evaluation) -> dict[str, Any]:
        """Plain JSON: "model", what drew the samples; "samples", where they come from; and whatever else decides them."""

    def remarks(self, data: DataModule, settings: Evaluation) -> list[str]:
        """What makes distances of these samples differ from those of others that are compared with these data, in words."""
        return []


class TrainedModel(Source):
    """The model with the weights `settings.weights` (already resolved: not "auto").

    identities: for each set of features, what decides the samples and their features beside the weights and
    `model.sampling_protocol()`: the network's architecture, the code. anew: samples that are kept are drawn again. Where several
    ranks score it, they share the drawing.
    """

    def __init__(
        self,
        model: GenerativeModel,
        identities: Sequence[str],
        cache: Path,
        training: Mapping[str, float | None] | None = None,
        anew: bool = False,
    ) -> None:
        self.model: GenerativeModel = model
        self.device, self.training = model.device, training or {}
        self.cache, self._identities, self._anew = cache, identities, anew
        self.lacks = {} if model.denoiser else {Need.DENOISER: "this family has no noisy chain"}
        if model.conditions and model.num_classes is None:
            self.lacks[Need.LABELS] = "the model is conditioned on vectors or fields, not on classes"

    def samples(
        self, references: Sequence[Reference], settings: Evaluation, progress: Progress
    ) -> list[Samples] | None:
        """From the current weights of the model."""
        data, features = references[0].data, [reference.features for reference in references]
        split, own = settings.reference, bool(self.model.conditions)
        prior = None if own or self.model.num_classes is None else data.class_shares(split)
        images = partial(data.y_of_samples, split) if own else None
        assert settings.batch_size is not None  # filled in by `score`
        drawn = Stream(settings.seed, settings.batch_size, data.num_levels, prior, settings.precision, images)
        decisive = {
            "weights": digest(self.model.state_dict()),
            "sampling": self.model.sampling_protocol(),
            "seed": drawn.seed,
            "batch_size": drawn.batch_size,
            "precision": drawn.precision,
            "num_levels": drawn.num_levels,
            "class_prior": None if prior is None else prior.tolist(),
            **({"conditions": [data.training_identity, data.named(split)]} if own else {}),
            "recipe": RECIPE,
        }
        stores = []
        for identity, part in zip(self._identities, features, strict=True):
            key = json.dumps({**decisive, "model": identity, "features": part.identity}, sort_keys=True)
            stores.append(ShardStore(stream(CacheDirectory(self.cache).samples, key), key))
        count = settings.resolve_num_samples(data)
        return draw(self.model, features, drawn, count, stores, progress, self._anew)

    def protocol(self, settings: Evaluation) -> dict[str, Any]:
        split, known = settings.reference, self.model.num_classes is not None
        labels = f"drawn from the shares of the classes in {split}" if known else "none"
        labels = f"conditions of the images in {split}" if self.model.conditions else labels
        return {"samples": {"labels": labels}, "weights": settings.weights, "model": self.model.protocol()}


@dataclass(frozen=True)
class Stream:
    """Samples 0, 1, 2, … of a seed, as the data would have stored them.

    num_levels: what they are rounded to; None: continuous. class_prior: what classes are drawn from. images: of indices, y of
    images in place of such classes. Neither: y is None.
    batch_size: images at a time, which decides rounding and cost, not the images.
    precision: of the network, 32-true or bf16-mixed (convolutions and matrix products in bfloat16).
    """

    seed: int
    batch_size: int
    num_levels: int | None = None
    class_prior: Tensor | None = None
    precision: str = "32-true"
    images: Callable[[Tensor], Conditions] | None = None

    def y(self, indices: Tensor) -> Conditions:
        if self.images is not None:
            return self.images(indices)
        return None if self.class_prior is None else labels(indices, self.seed, self.class_prior)

    def batches(
        self, model: GenerativeModel, part: range, laps: list[tuple[int, float]] | None = None
    ) -> Iterator[Tensor]:
        """Batches of the samples `part`, on the model's device. laps gets (images, seconds) of each, of the model's work only.

        A batch with a value that is not finite comes unrounded, since NaN has no nearest level.
        """
        bfloat16 = torch.autocast(model.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed")
        for start in range(part.start, part.stop, self.batch_size):
            indices = torch.arange(start, min(start + self.batch_size, part.stop), device=model.device)
            y = self.y(indices)
            started = _now(model.device)
            with torch.no_grad(), bfloat16:
                x = model.sample(indices, self.seed, y).float()
            if laps is not None:
                laps.append((len(x), _now(model.device) - started))
            yield quantise(x, self.num_levels) if x.isfinite().all() else x


def labels(indices: Tensor, seed: int, prior: Tensor) -> Tensor:
    """Class of sample i ~ prior: its inverse distribution function at a u_i that is a function of (seed, i) alone.

    Drawn independently, as the classes of n real images are, so that the distance of n samples carries the noise of a draw as
    its floor and an unconditional model do. Spread evenly, they give a distance below that of real images.

    indices int64 (B,), prior float64 (num_classes,) summing to 1 -> int64 (B,).
    """
    u = SampleNoise(seed, indices.cpu()).fork(CLASS).uniform(0)
    classes = torch.searchsorted(prior.cpu().cumsum(0), u, right=True)
    last_possible = prior.cpu().nonzero().max()  # rounding may leave the sum below 1
    return classes.clamp(max=last_possible).to(indices.device)


def ranges(num_samples: int, batch_size: int) -> list[range]:
    """Indices 0 … num_samples − 1 in ranges of whole batches; only the last may be shorter."""
    size = batch_size * max(1, SHARD_IMAGES // batch_size)
    return [range(start, min(start + size, num_samples)) for start in range(0, num_samples, size)]


def draw(
    model: GenerativeModel,
    features: Sequence[Features],
    stream: Stream,
    num_samples: int,
    stores: Sequence[ShardStore],
    progress: Progress,
    anew: bool = False,
) -> list[Samples] | None:
    """Samples 0 … num_samples − 1, as each set of features sees them, which has a store of its own.

    What a store lacks is drawn, once for all that lack it, by all ranks together. Rank 0 returns the samples, others None.
    anew: ignore stored samples.
    """
    device, parts = model.device, ranges(num_samples, stream.batch_size)
    laps: list[tuple[int, float]] = []  # of this process
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def make(part: range, of: Sequence[int], report: Callable[[int], None]) -> list[Shard]:
        before = len(laps)
        images, finite = [], []
        vectors: dict[int, list[Tensor]] = {i: [] for i in of}
        room = num_kept(model.shape) - part.start
        for x in stream.batches(model, part, laps):
            images.append(x[: max(0, room)].float().cpu())
            finite.append(x.flatten(1).isfinite().all(1).cpu())
            with torch.no_grad():
                for i, seen in vectors.items():
                    seen.append(features[i](x).float().cpu())
            room -= len(x)
            report(len(x))
        threads = torch.get_num_threads()
        effort = Effort(laps[before:], before == 0, device_name(device), threads, model.nfe, *peak_memory(device))
        rest = {"finite": torch.cat(finite), "images": torch.cat(images)}
        return [({"features": torch.cat(vectors[i]), **rest}, asdict(effort)) for i in of]

    found = complete(stores, parts, make, "samples", progress, anew)
    return None if found is None else [_joined(stream, parts, shards) for shards in found]


def _joined(stream: Stream, parts: Sequence[range], shards: Sequence[Shard]) -> Samples:
    """A stored shard may hold more samples than its range, as the last shard of a smaller number asks for."""
    pairs = list(zip(parts, shards, strict=True))
    features, finite, images = (
        torch.cat([tensors[name][: len(part)] for part, (tensors, _) in pairs])
        for name in ("features", "finite", "images")
    )
    efforts = [Effort(**facts) for _, facts in shards]
    asked = None if stream.images is None else stream.y(torch.arange(len(images)))
    known: Tensor | None = None
    if asked is None or classes_in(asked) is not None:  # otherwise images would be read for nothing
        classes = [classes_in(stream.y(indices)) for indices in torch.arange(len(features)).split(1000)]
        known = torch.cat([part for part in classes if part is not None]) if classes[0] is not None else None
    return Samples(images, features, int((~finite).sum()), known, efforts, asked)


def num_kept(shape: Sequence[int]) -> int:
    """How many samples of this shape are kept as images."""
    return max(KEPT_IMAGES, KEPT_VALUES // prod(shape))


def device_name(device: torch.device) -> str:
    """What times depend on: the GPU's name, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def peak_memory(device: torch.device) -> tuple[float, str]:
    """(MiB, what was measured): a GPU's allocations while drawing, else the largest this process has been."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20, "largest GPU allocation while drawing samples"
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    return peak, "largest resident size of the process since it started"


def _now(device: torch.device) -> float:
    """Seconds, after all work on the device has ended."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()
