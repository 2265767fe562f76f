"""Drawing the samples of a generator: each once, in batches, rounded to the data's levels, and encoded by each set of features.

`Stream` holds everything that determines the samples, and therefore their key in the cache; `Drawer` draws those that are missing.

Samples are stored in shards, files of a fixed range of images, which are used only if they are intact and have the right key. A
shard does not depend on which process computes it or when, because row i depends only on (weights, seed, i). So interrupted work
continues at the first missing shard, more samples extend existing ones, processes of torch.distributed (ranks) divide the shards,
and cells with equal samples draw once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
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
from diffusion_lab.metrics.reference import Need, Reference, quantise
from diffusion_lab.metrics.samples import NO_TRUTH, Samples, Source, num_kept
from diffusion_lab.metrics.settings import Evaluation
from diffusion_lab.metrics.stored import Progress, digest, read_tensors, write_tensors
from diffusion_lab.models.diffusion_generator import DiffusionGenerator
from diffusion_lab.models.generator import Generator
from diffusion_lab.store import CacheDirectory
from diffusion_lab.store.cache import shard_file, stream
from diffusion_lab.training.ranks import broadcast_from_rank_zero, hold_together, num_ranks, rank, wait_for_all

SHARD_IMAGES = 128  # images in a shard; about this many are lost if drawing is interrupted
RECIPE = 2  # increase it when the same key would give other numbers
Shard = tuple[Mapping[str, Tensor], Mapping[str, Any]]  # tensors on the CPU, and metadata as plain JSON


@dataclass(frozen=True, kw_only=True)
class Generated(Source):
    """Samples of a generator.

    generator: draws them, with the weights to be scored. weights: the name of these weights, for the protocol.
    identities: for each set of features, a text that determines samples and features together with the weights and
    `generator.sampling_protocol()`: the network's architecture and the code. cache: where samples and features are kept.
    training: optimizer steps, seconds and images of its training. measure: (generator, data, cache, progress) -> the generator with
    the measurements that it needs before it draws; None if it needs none.
    """

    generator: Generator
    weights: str
    identities: Sequence[str]
    cache: CacheDirectory
    training: Mapping[str, float | None]
    measure: Callable[..., Generator] | None = None

    @property
    def device(self) -> torch.device:
        return self.generator.device

    @property
    def lacks(self) -> Mapping[Need, str]:
        found = {} if isinstance(self.generator, DiffusionGenerator) else {Need.CHAIN: "this family has no noisy chain"}
        if self.generator.conditions and self.generator.num_classes is None:
            found[Need.LABELS] = "the model is conditioned on vectors or fields, not on classes"
        return found | ({Need.TRUTH: NO_TRUTH} if all(map(has_classes, self.generator.conditions)) else {})

    def with_measurements(self, data: DataModule, progress: Progress) -> Generated:
        if self.measure is None:
            return self
        return replace(self, generator=self.measure(self.generator, data, self.cache, progress), measure=None)

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
    """Samples 0, 1, 2, … of a seed, rounded as the data are stored.

    batch_size: images at a time, which affects rounding and cost, not the images. num_levels: the levels that they are rounded to;
    None: continuous. class_prior: float64 (num_classes,), the distribution of their classes. precision: of the network, 32-true or
    bf16-mixed (convolutions and matrix products in bfloat16). images: indices -> y, the conditions of images of the data, in place
    of random classes. Without class_prior and images, y is None.
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
        """Batches of the samples with the indices in `part`, on the generator's device.

        laps: a list to which (images, seconds) of drawing each batch are appended.
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

    generator: draws them. stream: the samples. features: the sets of features that encode them. stores: the shards of each set of
    features, in the same order. kept: the number of first samples that are kept as images.
    """

    generator: Generator
    stream: Stream
    features: Sequence[Features]
    stores: Sequence[ShardStore]
    kept: int

    def samples(self, num_samples: int, progress: Progress) -> list[Samples] | None:
        """Samples 0 … num_samples − 1 for each set of features. Rank 0 returns them, the other ranks None.

        Samples that a store lacks are drawn by all ranks together, once for all stores.
        """
        device, parts = self.generator.device, ranges(num_samples, self.stream.batch_size)
        laps: list[tuple[int, float]] = []  # of the batches drawn by this process
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
        """The samples of all shards. A stored shard may be longer than its part, the last one of a smaller number of samples."""
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


@dataclass(frozen=True)
class ShardStore:
    """The shards of one computation, in `folder`. key: a text that contains everything that affects them."""

    cache: CacheDirectory
    folder: Path
    key: str

    def path(self, part: range) -> Path:
        return shard_file(self.folder, part.start)

    def read(self, part: range) -> Shard | None:
        """The shard, or None if it is missing, damaged or too short, as the last shard of a smaller number of samples."""
        found = read_tensors(self.path(part), self.key) if self.cache.has(self.path(part)) else None
        if found is None:
            return None
        facts = json.loads(found[1])
        return None if facts.pop("images") < len(part) else (found[0], facts)

    def write(self, part: range, shard: Shard) -> None:
        """Write a shard, whole or not at all. OSError if the folder cannot be written."""
        tensors, facts = shard
        write_tensors(self.path(part), self.key, tensors, json.dumps({"images": len(part), **facts}))


def complete(
    stores: Sequence[ShardStore],
    parts: Sequence[range],
    make: Callable[[range, Sequence[int], Callable[[int], None]], Iterable[Shard]],
    stage: str,
    progress: Progress,
) -> list[list[Shard]] | None:
    """The shards of all parts in each store. All ranks must call it; rank 0 returns the shards, the others None.

    Missing shards are made by all ranks together, while no other command works in these folders, and written as soon as they
    are complete. make(part, of, report): shards of a part for the stores numbered `of`; it calls report(n) after n more images.
    stage: the name of the task for `progress`, which is called with (stage, images done, all images).
    """
    found: list[dict[range, Shard]] = [{} for _ in stores]

    def missing() -> list[tuple[range, list[int]]]:
        """Read the stored parts; return the parts that a store lacks, with the numbers of these stores."""
        for store, known in zip(stores, found, strict=True):
            known |= {part: shard for part in parts if part not in known and (shard := store.read(part)) is not None}
        lacking = ((part, [i for i, known in enumerate(found) if part not in known]) for part in parts)
        return [(part, of) for part, of in lacking if of]

    def work(wanted: Sequence[tuple[range, list[int]]], lacking: Sequence[tuple[range, list[int]]]) -> None:
        done = sum(map(len, parts)) - sum(len(part) for part, _ in lacking)
        total = done + sum(len(part) for part, _ in wanted)

        def report(images: int) -> None:
            nonlocal done
            done += images
            progress(stage, done, total)

        for part, of in wanted:
            for i, shard in zip(of, make(part, of, report), strict=True):
                stores[i].write(part, shard)
                found[i][part] = shard

    with ExitStack() as held:
        for folder in sorted({store.folder for store in stores}):  # all commands hold them in this order
            held.enter_context(hold_together(folder, lambda holder: progress(f"waiting for {holder}", 0, 1)))
        # Rank 0 decides what is missing, because ranks that look at different times would divide the work differently.
        lacking = broadcast_from_rank_zero(missing() if rank() == 0 else None)
        work(lacking[rank() :: num_ranks()], lacking)
        wait_for_all()
    if rank() > 0:
        return None
    unseen = missing()  # for ranks on another file system
    work(unseen, unseen)
    return [[known[part] for part in parts] for known in found]
