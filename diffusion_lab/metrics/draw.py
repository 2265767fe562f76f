"""The samples of a score: drawn once, batch by batch, as the data would have stored them, and turned into features.

`draw_for_score` says what decides them, which is the key they are stored under; `draw_once` draws what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from diffusion_lab.diffusion import SampleNoise
from diffusion_lab.diffusion.streams import CLASS
from diffusion_lab.metrics.features import Features
from diffusion_lab.metrics.reference import FeatureStatistics, Moments, Reference, UnmeasurableError, quantise
from diffusion_lab.metrics.settings import Evaluation
from diffusion_lab.metrics.shards import Progress, SampleStore, Shard, digest, shards, share_out
from diffusion_lab.metrics.stopwatch import Effort, PeakMemory, Stopwatch, counted, device_name, seconds_per_1000
from diffusion_lab.models.base import GenerativeModel
from diffusion_lab.models.trainable import TrainableModel
from diffusion_lab.store import CacheDirectory
from diffusion_lab.training.ranks import rank

KEPT_VALUES = 2**22  # samples kept for pictures: 16 MiB of float32,
KEPT_IMAGES = 64  # but no fewer images than this


def num_kept(shape: Sequence[int]) -> int:
    """How many samples of this shape are kept as images."""
    return max(KEPT_IMAGES, KEPT_VALUES // prod(shape))


@dataclass(frozen=True)
class Samples:
    """n samples: the first few as images (float32, CPU), all as one set of features, and the class of each.

    y: int64 (n,), the class that each was asked for, or is labelled with. None where there is none.
    batch_size, efforts: how they were drawn, and what that took; of given images there is no effort.
    """

    images: Tensor
    features: Tensor
    num_not_finite: int
    y: Tensor | None
    batch_size: int = 0
    efforts: Sequence[Effort] = ()

    def finite(self, rows: Tensor) -> Tensor:
        """Rows that were computed from the samples, as they are; UnmeasurableError if a sample is not finite."""
        if self.num_not_finite > 0:
            raise UnmeasurableError(f"{self.num_not_finite} of {len(self.features)} samples are not finite")
        return rows

    def vectors(self) -> Tensor:
        """(n, D) float32 on the CPU; UnmeasurableError if a sample is not finite."""
        return self.finite(self.features)

    def moments(self, device: torch.device) -> Moments:
        """Of the features, computed on `device`; UnmeasurableError if a sample is not finite."""
        statistics = FeatureStatistics(self.features.shape[1])
        for rows in self.vectors().split(1024):
            statistics.update(rows.to(device))
        return Moments.of(statistics.compute().tensors())

    @property
    def nfe(self) -> int:
        """Network evaluations that one sample took."""
        return self.efforts[0].nfe

    def seconds_per_1000(self) -> float:
        """Of drawing alone, on one device; UnmeasurableError if the shards were not all drawn on the same."""
        machines = sorted({f"{effort.device} with {effort.threads} threads" for effort in self.efforts})
        if len(machines) > 1:
            raise UnmeasurableError(f"some samples were drawn on {machines[0]}, others on {machines[1]}")
        return seconds_per_1000([lap for effort in self.efforts for lap in effort.laps])

    def cost_protocol(self) -> dict[str, str | int]:
        """What the times are times of."""
        return {
            "device": ", ".join(sorted({effort.device for effort in self.efforts})),
            "threads": max(effort.threads for effort in self.efforts),
            "batch_size": self.batch_size,
            "timed_images": sum(lap.images for lap in counted([lap for e in self.efforts for lap in e.laps])),
            "peak_memory": self.efforts[0].peak_memory_of,
        }

    def peak_memory_mib(self) -> float | None:
        """The largest of all processes that drew; None where the system does not report it."""
        peaks = [effort.peak_memory_mib for effort in self.efforts if effort.peak_memory_mib is not None]
        return max(peaks) if len(peaks) == len(self.efforts) else None


@contextmanager
def ready(model: TrainableModel, weights: str) -> Iterator[None]:
    """The model has these weights and drops nothing inside the block. ValueError if there are no such weights."""
    was_training = model.training
    with model.use_weights(weights):
        model.eval()
        try:
            yield
        finally:
            model.train(was_training)


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


@dataclass(frozen=True)
class Stream:
    """Samples 0, 1, 2, … of a seed, as the data would have stored them.

    num_levels: what they are rounded to; None: continuous. class_prior: what labels are drawn from; None: y is None.
    batch_size: images at a time, which decides rounding and cost, not the images.
    precision: of the network, 32-true or bf16-mixed (convolutions and matrix products in bfloat16).
    """

    seed: int
    batch_size: int
    num_levels: int | None = None
    class_prior: Tensor | None = None
    precision: str = "32-true"

    def draw(self, model: GenerativeModel, indices: range, stopwatch: Stopwatch) -> Iterator[Tensor]:
        """Batches of the samples `indices`, on the model's device; the stopwatch sees the model's own work only.

        A batch with a value that is not finite comes unrounded, since NaN has no nearest level.
        """
        for start in range(indices.start, indices.stop, self.batch_size):
            batch = torch.arange(start, min(start + self.batch_size, indices.stop), device=model.device)
            y = None if self.class_prior is None else labels(batch, self.seed, self.class_prior)
            with torch.no_grad(), self._autocast(model.device), stopwatch.lap(len(batch)):
                x = model.sample(batch, self.seed, y).float()
            yield quantise(x, self.num_levels) if x.isfinite().all() else x

    def _autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed")


def draw_for_score(
    model: GenerativeModel,
    references: Sequence[Reference],
    settings: Evaluation,
    cache_dir: Path,
    identities: Sequence[str],
    progress: Progress,
    anew: bool,
) -> list[Samples] | None:
    """The samples of these settings, from the current weights of the model, for each set of features."""
    data = references[0].data
    prior = data.class_shares(settings.reference) if model.num_classes is not None else None
    stream = Stream(settings.seed, settings.batch_size, data.num_levels, prior, settings.precision)
    decisive = {
        "weights": digest(model.state_dict()),
        "sampling": model.sampling_protocol(),
        "seed": stream.seed,
        "batch_size": stream.batch_size,
        "precision": stream.precision,
        "num_levels": stream.num_levels,
        "class_prior": None if prior is None else prior.tolist(),
    }
    features = [reference.features for reference in references]
    stores = [
        SampleStore(CacheDirectory(cache_dir).samples, {**decisive, "model": identity, "features": part.identity})
        for identity, part in zip(identities, features, strict=True)
    ]
    return draw_once(model, features, stream, settings.resolve_num_samples(data), stores, progress, anew)


def draw_once(
    model: GenerativeModel,
    features: Sequence[Features],
    stream: Stream,
    num_samples: int,
    stores: Sequence[SampleStore],
    progress: Progress,
    anew: bool = False,
) -> list[Samples] | None:
    """Samples 0 … num_samples − 1, as each set of features sees them, which has a store of its own.

    What a store lacks is drawn, once for all that lack it, by all ranks together. Rank 0 returns the samples, others None.
    anew: ignore stored samples. A process that finds another one at the same samples waits for it, and finds them drawn.
    """
    parts = shards(num_samples, stream.batch_size)
    found: list[dict[range, Shard]] = [{} for _ in stores]

    def missing() -> list[tuple[range, list[int]]]:
        """Read the stored parts; return the parts that some store lacks, with the numbers of these stores."""
        for store, known in zip(stores, found, strict=True):
            known |= {part: shard for part in parts if part not in known and (shard := store.read(part)) is not None}
        lacking = ((part, [i for i, known in enumerate(found) if part not in known]) for part in parts)
        return [(part, of) for part, of in lacking if of]

    def missing_at_first() -> list[tuple[range, list[int]]]:
        for store in stores if anew else ():
            store.clear()
        return missing()

    memory, stopwatch = PeakMemory(model.device), Stopwatch(model.device)

    def draw(wanted: Sequence[tuple[range, list[int]]], lacking: Sequence[tuple[range, list[int]]]) -> None:
        """Each shard is written as soon as it is complete, to the stores that lack it."""
        done = num_samples - sum(len(part) for part, _ in lacking)
        total = done + sum(len(part) for part, _ in wanted)
        for part, of in wanted:
            laps_before = len(stopwatch.laps)
            images, finite = [], []
            vectors: dict[int, list[Tensor]] = {i: [] for i in of}
            room = num_kept(model.shape) - part.start
            for x in stream.draw(model, part, stopwatch):
                images.append(x[: max(0, room)].float().cpu())
                finite.append(x.flatten(1).isfinite().all(1).cpu())
                with torch.no_grad():
                    for i, seen in vectors.items():
                        seen.append(features[i](x).float().cpu())
                room -= len(x)
                done += len(x)
                progress("samples", done, total)
            peak, peak_of = memory.mib
            effort = Effort(
                laps=stopwatch.laps[laps_before:],
                device=device_name(model.device),
                threads=torch.get_num_threads(),
                nfe=model.nfe,
                peak_memory_mib=peak,
                peak_memory_of=peak_of,
            )
            for i, seen in vectors.items():
                stores[i].write(part, Shard(torch.cat(seen), torch.cat(finite), torch.cat(images), effort))

    share_out([store.folder for store in stores], progress, missing_at_first, draw)
    if rank() > 0:
        return None
    unseen = missing()  # what ranks on another file system drew
    draw(unseen, unseen)
    missing()
    return [_joined(stream, [known[part] for part in parts]) for known in found]


def _joined(stream: Stream, found: Sequence[Shard]) -> Samples:
    features, prior = torch.cat([shard.features for shard in found]), stream.class_prior
    return Samples(
        images=torch.cat([shard.images for shard in found]),
        features=features,
        num_not_finite=sum(int((~shard.finite).sum()) for shard in found),
        y=None if prior is None else labels(torch.arange(len(features)), stream.seed, prior),
        batch_size=stream.batch_size,
        efforts=[shard.effort for shard in found],
    )
