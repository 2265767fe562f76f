"""The samples of a score: drawn once, batch by batch, rounded to the data's levels, and turned into features.

`Stream` says what decides them, which is the key that they are stored under; `Drawer` draws what is missing. given.py has samples
that no model of ours has drawn.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.conditions.condition import has_classes
from diffusion_lab.data.module import DataModule
from diffusion_lab.diffusion import SampleNoise
from diffusion_lab.diffusion.condition_parts import classes_in
from diffusion_lab.diffusion.shapes import Conditions
from diffusion_lab.diffusion.streams import CLASS
from diffusion_lab.metrics.effort import Effort, device_name, now, peak_memory
from diffusion_lab.metrics.features import Features
from diffusion_lab.metrics.measuring import Measurements
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
from diffusion_lab.models.diffusion_generator import DiffusionGenerator
from diffusion_lab.models.generator import Generator
from diffusion_lab.store import CacheDirectory
from diffusion_lab.store.cache import stream

NO_TRUTH = "compares samples with the images that they are drawn for, so it needs condition=vector or field"
KEPT_VALUES = 2**22  # samples kept for pictures: 16 MiB of float32,
KEPT_IMAGES = 64  # but no fewer images than this
SHARD_IMAGES = 128  # about as many as may be lost
RECIPE = 2  # raise it when the same key would give other numbers


@dataclass(frozen=True)
class Samples:
    """n samples: the first few or all as images (float32, CPU), all as one set of features (n, D), and the class of each.

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
    """What samples come from.

    device: where features are computed. cache: results kept between calls. generator: what draws them; None for given images.
    training: steps, seconds and images of its training, as far as they are known. lacks: what these samples have not, of all that a
    metric may need, and why, in words for a table.
    """

    cache: CacheDirectory
    device: torch.device | str
    generator: Generator | None = None
    training: Mapping[str, float | None]

    @property
    @abstractmethod
    def lacks(self) -> Mapping[Need, str]: ...

    def measured(self, data: DataModule, progress: Progress) -> Source:
        """The source with what must be measured before samples are drawn. All ranks must call it."""
        return self

    def references(self, data: DataModule, features: Sequence[Features], progress: Progress) -> list[Reference]:
        """What the samples are compared with, as each of the features sees it."""
        return references_of(data, features, self.cache, self.device, progress)

    @abstractmethod
    def samples(
        self, references: Sequence[Reference], settings: Evaluation, whole: bool, progress: Progress
    ) -> list[Samples] | None:
        """The samples, as the features of each reference see them. whole: all of them as images too, not only the first few.

        Of several ranks, rank 0 has them and the others None.
        """

    @abstractmethod
    def protocol(self, settings: Evaluation) -> dict[str, Any]:
        """Plain JSON: "model", what drew the samples; "samples", where they come from; and whatever else decides them."""

    def remarks(self, data: DataModule, settings: Evaluation) -> list[str]:
        """What makes distances of these samples differ from those of others that are compared with these data, in words."""
        return []


@dataclass(frozen=True, kw_only=True)
class Generated(Source):
    """Samples of a generator.

    weights: their name, for the record. measurements: made before it draws; None for a family that needs none.
    identities: for each set of features, what decides the samples and their features beside the weights and
    `generator.sampling_protocol()`: the network's architecture, the code. training: steps, seconds and images of its training.
    """

    generator: Generator
    weights: str
    identities: Sequence[str]
    cache: CacheDirectory
    training: Mapping[str, float | None]
    measurements: Measurements | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", self.generator.device)

    @property
    def lacks(self) -> Mapping[Need, str]:
        found = {} if isinstance(self.generator, DiffusionGenerator) else {Need.CHAIN: "this family has no noisy chain"}
        if self.generator.conditions and self.generator.num_classes is None:
            found[Need.LABELS] = "the model is conditioned on vectors or fields, not on classes"
        return found | ({Need.TRUTH: NO_TRUTH} if all(map(has_classes, self.generator.conditions)) else {})

    def measured(self, data: DataModule, progress: Progress) -> Generated:
        if self.measurements is None or not self.measurements.any:
            return self
        assert isinstance(self.generator, DiffusionGenerator)
        made = self.measurements.applied(self.generator, data, self.cache, progress)
        return replace(self, generator=made, measurements=None)

    def samples(
        self, references: Sequence[Reference], settings: Evaluation, whole: bool, progress: Progress
    ) -> list[Samples] | None:
        data, features = references[0].data, [reference.features for reference in references]
        generator, split, own = self.generator, settings.reference, bool(self.generator.conditions)
        count, kept = settings.resolve_num_samples(data), num_kept(generator.shape)
        more = {"images": "all"} if whole and count > kept else {}  # stored apart: elsewhere images are not kept
        prior = None if own or generator.num_classes is None else data.class_shares(split)
        images = partial(data.y_of_samples, split) if own else None
        assert settings.batch_size is not None  # filled in by `score`
        drawn = Stream(settings.seed, settings.batch_size, data.num_levels, prior, settings.precision, images)
        decisive = {
            "weights": digest(generator.weights()),
            "guiding": digest(generator.guiding_weights()),
            "sampling": generator.sampling_protocol(),
            "seed": drawn.seed,
            "batch_size": drawn.batch_size,
            "precision": drawn.precision,
            "num_levels": drawn.num_levels,
            "class_prior": None if prior is None else prior.tolist(),
            **({"conditions": [data.training_identity, data.named(split)]} if own else {}),
            **more,
            "recipe": RECIPE,
        }
        stores = []
        for identity, part in zip(self.identities, features, strict=True):
            key = json.dumps({**decisive, "model": identity, "features": part.identity}, sort_keys=True)
            stores.append(ShardStore(self.cache, stream(self.cache.samples, key), key))
        return Drawer(generator, drawn, features, stores, max(count, kept) if whole else kept).samples(count, progress)

    def protocol(self, settings: Evaluation) -> dict[str, Any]:
        split, known = settings.reference, self.generator.num_classes is not None
        labels = f"drawn from the shares of the classes in {split}" if known else "none"
        labels = f"conditions of the images in {split}" if self.generator.conditions else labels
        return {"samples": {"labels": labels}, "weights": self.weights, "model": self.generator.protocol()}


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
        self, generator: Generator, part: range, laps: list[tuple[int, float]] | None = None
    ) -> Iterator[Tensor]:
        """Batches of the samples `part`, on the generator's device. laps gets (images, seconds) of each, of drawing only.

        A batch with a value that is not finite comes unrounded, since NaN has no nearest level.
        """
        bfloat16 = torch.autocast(generator.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed")
        for start in range(part.start, part.stop, self.batch_size):
            indices = torch.arange(start, min(start + self.batch_size, part.stop), device=generator.device)
            y = self.y(indices)
            started = now(generator.device)
            with torch.no_grad(), bfloat16:
                x = generator.sample(indices, self.seed, y).float()
            if laps is not None:
                laps.append((len(x), now(generator.device) - started))
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


@dataclass(frozen=True)
class Drawer:
    """Draws the samples of a stream, kept in the cache and shared among ranks.

    features: what samples are seen by, each with a store of its own. kept: this many samples are kept as images.
    """

    generator: Generator
    stream: Stream
    features: Sequence[Features]
    stores: Sequence[ShardStore]
    kept: int

    def samples(self, num_samples: int, progress: Progress) -> list[Samples] | None:
        """Samples 0 … num_samples − 1, as each set of features sees them.

        What a store lacks is drawn, once for all that lack it, by all ranks together. Rank 0 returns the samples, others None.
        """
        device, parts = self.generator.device, ranges(num_samples, self.stream.batch_size)
        laps: list[tuple[int, float]] = []  # of this process
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

        def make(part: range, of: Sequence[int], report: Callable[[int], None]) -> list[Shard]:
            before = len(laps)
            images, finite = [], []
            vectors: dict[int, list[Tensor]] = {i: [] for i in of}
            room = self.kept - part.start
            for x in self.stream.batches(self.generator, part, laps):
                images.append(x[: max(0, room)].float().cpu())
                finite.append(x.flatten(1).isfinite().all(1).cpu())
                with torch.no_grad():
                    for i, seen in vectors.items():
                        seen.append(self.features[i](x).float().cpu())
                room -= len(x)
                report(len(x))
            threads, memory = torch.get_num_threads(), peak_memory(device)
            effort = Effort(laps[before:], before == 0, device_name(device), threads, self.generator.nfe, *memory)
            rest = {"finite": torch.cat(finite), "images": torch.cat(images)}
            return [({"features": torch.cat(vectors[i]), **rest}, asdict(effort)) for i in of]

        found = complete(self.stores, parts, make, "samples", progress)
        return None if found is None else [self._joined(parts, shards) for shards in found]

    def _joined(self, parts: Sequence[range], shards: Sequence[Shard]) -> Samples:
        """A stored shard may hold more samples than its range, as the last shard of a smaller number asks for."""
        pairs = list(zip(parts, shards, strict=True))
        features, finite, images = (
            torch.cat([tensors[name][: len(part)] for part, (tensors, _) in pairs])
            for name in ("features", "finite", "images")
        )
        efforts = [Effort(**facts) for _, facts in shards]
        asked = None if self.stream.images is None else self.stream.y(torch.arange(len(images)))
        known: Tensor | None = None
        if asked is None or classes_in(asked) is not None:  # otherwise images would be read for nothing
            classes = [classes_in(self.stream.y(indices)) for indices in torch.arange(len(features)).split(1000)]
            known = torch.cat([part for part in classes if part is not None]) if classes[0] is not None else None
        return Samples(images, features, int((~finite).sum()), known, efforts, asked)


def num_kept(shape: Sequence[int]) -> int:
    """How many samples of this shape are kept as images, unless all are."""
    return max(KEPT_IMAGES, KEPT_VALUES // prod(shape))
