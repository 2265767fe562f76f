"""Draw the samples that are missing, compute their features, and join them all."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffusion_lab.metrics.reference import Progress
from diffusion_lab.metrics.samples import Samples, num_kept
from diffusion_lab.metrics.sampling import Stream, labels
from diffusion_lab.metrics.shards import Effort, SampleStore, Shard, shards
from diffusion_lab.metrics.statistics import UnmeasurableError
from diffusion_lab.metrics.stopwatch import PeakMemory, Stopwatch, counted, device_name, seconds_per_1000
from diffusion_lab.models.base import GenerativeModel
from diffusion_lab.training.ranks import broadcast_from_rank_zero, hold_together, num_ranks, rank, wait_for_all

if TYPE_CHECKING:
    from diffusion_lab.metrics.features import Features


@dataclass(frozen=True)
class Drawn(Samples):
    """n samples of a stream, and what drawing them took."""

    batch_size: int
    efforts: list[Effort]

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
        peaks = [effort.peak_memory_mib for effort in self.efforts]
        return None if None in peaks else max(peaks)


def draw_once(
    model: GenerativeModel,
    features: Sequence[Features],
    stream: Stream,
    num_samples: int,
    stores: Sequence[SampleStore],
    progress: Progress,
    anew: bool = False,
) -> list[Drawn] | None:
    """Samples 0 … num_samples − 1, as each set of features sees them, which has a store of its own.

    What a store lacks is drawn, once for all that lack it, by all ranks together. Rank 0 returns the samples, others None.
    anew: ignore stored samples. A process that finds another one at the same samples waits for it, and finds them drawn.
    """
    parts = shards(num_samples, stream.batch_size)
    found: list[list[Shard | None]] = [[None] * len(parts) for _ in stores]

    def waiting(holder: str) -> None:
        progress(f"waiting for {holder}", 0, 1)

    def read_missing() -> list[tuple[range, list[int]]]:
        """Read the stored parts; return the parts that some store lacks, with the numbers of these stores."""
        for store, row in zip(stores, found, strict=True):
            row[:] = [shard or store.read(part) for part, shard in zip(parts, row, strict=True)]
        lacking = ((part, [i for i, row in enumerate(found) if row[k] is None]) for k, part in enumerate(parts))
        return [(part, of) for part, of in lacking if of]

    def draw(wanted: list[tuple[range, list[int]]], missing: list[tuple[range, list[int]]]) -> None:
        done = num_samples - sum(len(part) for part, _ in missing)
        _draw(model, features, stream, wanted, stores, progress, done)

    with ExitStack() as held:
        for store in sorted(stores, key=lambda store: store.folder):  # all commands hold them in this order
            held.enter_context(hold_together(store.folder, waiting))
        if anew and rank() == 0:
            for store in stores:
                store.clear()
        # Rank 0 says what is missing: ranks that looked at different moments would share it out differently.
        missing = broadcast_from_rank_zero(read_missing() if rank() == 0 else None)
        draw(missing[rank() :: num_ranks()], missing)
        wait_for_all()
    if rank() > 0:
        return None
    # Ranks that share no file system leave rank 0 with their work, but never with a hole.
    unseen = read_missing()
    draw(unseen, unseen)
    read_missing()
    return [_drawn(stream, row) for row in found]


def _drawn(stream: Stream, found: list[Shard]) -> Drawn:
    features, prior = torch.cat([shard.features for shard in found]), stream.class_prior
    return Drawn(
        images=torch.cat([shard.images for shard in found]),
        features=features,
        num_not_finite=sum(int((~shard.finite).sum()) for shard in found),
        y=None if prior is None else labels(torch.arange(len(features)), stream.seed, prior),
        batch_size=stream.batch_size,
        efforts=[shard.effort for shard in found],
    )


def _draw(
    model: GenerativeModel,
    features: Sequence[Features],
    stream: Stream,
    wanted: list[tuple[range, list[int]]],
    stores: Sequence[SampleStore],
    progress: Progress,
    done: int,
) -> None:
    """Each shard is written as soon as it is complete, to the stores that lack it. `done` samples exist already."""
    memory, stopwatch, device = PeakMemory(model.device), Stopwatch(model.device), device_name(model.device)
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
            device=device,
            threads=torch.get_num_threads(),
            nfe=model.nfe,
            peak_memory_mib=peak,
            peak_memory_of=peak_of,
        )
        for i, seen in vectors.items():
            stores[i].write(part, Shard(torch.cat(seen), torch.cat(finite), torch.cat(images), effort))
