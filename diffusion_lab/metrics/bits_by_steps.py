"""Bits per dimension of a diffusion model for every number of steps and every spacing, from one pass over images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.analysis import OptimalSpacing
from diffusion_lab.diffusion import derive_seed
from diffusion_lab.metrics.bits_per_dim import label_bits
from diffusion_lab.metrics.metric import Metric, Naming, Need, Scores, Subject
from diffusion_lab.metrics.reference import UnmeasurableError
from diffusion_lab.models.measured import chain_bits
from diffusion_lab.sampling import EvenSpacing, LogSNRSpacing, QuadraticSpacing, Spacing
from diffusion_lab.store.measures import LOW, Measure

SPACINGS: dict[str, Callable[[int], Spacing]] = {
    "even": EvenSpacing,
    "quadratic": QuadraticSpacing,
    "log_snr": LogSNRSpacing,
    "optimal": OptimalSpacing,
}
_COLUMNS = 8  # in tables; plots and files show all


@dataclass(frozen=True)
class BitsBySteps(Metric):
    """The bound of the unguided ancestral chain on the first num_images test or validation images, in bits per dimension, with each
    of num_steps and each of the spacings, all with the same noise.

    A number of steps that the chain does not have is left out. batch_size: images at a time.
    """

    needs = (Need.CHAIN, Need.STEP_COSTS)
    least = (("num_images", 1), ("batch_size", 1))

    spacings: Sequence[str] = tuple(SPACINGS)
    num_steps: Sequence[int] = (5, 10, 20, 50, 100, 200, 500, 1000)
    num_images: int = 64
    batch_size: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.num_steps, default=0) < 1:
            raise ValueError("metrics.bits_by_steps.num_steps: give numbers of steps from 1, such as [10,50]")
        if not self.spacings or {*self.spacings} - {*SPACINGS}:
            raise ValueError(f"metrics.bits_by_steps.spacings: choose from {', '.join(SPACINGS)}")

    def measures(self, namings: Sequence[Naming]) -> Iterable[Measure]:
        last = len(self.num_steps) - 1
        # Always includes the first and the last.
        shown = {self.num_steps[place * last // (_COLUMNS - 1)] for place in range(_COLUMNS)}
        for spacing in self.spacings:
            for count in self.num_steps:
                meaning = f"bound of {count} ancestral steps, spacing {spacing}, on held-out images"
                name, label = self._name(spacing, count), f"bits/dim, {spacing} {count}"
                column = spacing == self.spacings[0] and count in shown
                yield Measure(name, label, "", LOW, meaning, ("data", "bits_by_steps"), logs=True, column=column)

    @staticmethod
    def _name(spacing: str, count: int) -> str:
        return f"bits_{spacing}_{count}"

    def score(self, subject: Subject) -> Scores:
        scores = Scores()
        longest = subject.diffusion.process.num_timesteps
        counts = [count for count in self.num_steps if count <= longest]
        if not counts:
            raise UnmeasurableError(f"the chain has {longest} steps")
        split, per_image = subject.settings.unseen_split, self._per_image(subject, counts)
        curve: dict[str, Any] = {"num_steps": counts}
        for spacing, columns in per_image.items():
            curve[spacing] = columns.mean(dim=0).tolist()
            for count, bits in zip(counts, columns.unbind(dim=1), strict=True):
                scores.record(self._name(spacing, count), float(bits.mean()))
                scores.spread(self._name(spacing, count), f"{split} images", bits)
        for spacing in self.spacings:
            for count in set(self.num_steps) - set(counts):
                scores.record(self._name(spacing, count), None, f"the chain has {longest} steps")
        scores.curves["bits_by_steps"] = curve
        scores.protocol["bits_by_steps"] = {"split": split, "num_images": len(columns), "seed": subject.settings.seed}
        return scores

    def _per_image(self, subject: Subject, counts: Sequence[int]) -> dict[str, Tensor]:
        """(n, len(counts)) float64 for each spacing."""
        generator, data, split = subject.diffusion, subject.data, subject.settings.unseen_split
        seed = derive_seed(subject.settings.seed, 0)  # the first draw of bits_per_dim
        chains = [SPACINGS[name](count) for name in self.spacings for count in counts]
        batches = []
        for x_0, y, indices in subject.batches(split, self.batch_size, self.num_images, "bits by number of steps"):
            bits = chain_bits(generator, x_0, y, seed, indices, chains).cpu()
            batches.append(bits if y is None else bits + label_bits(data, y)[:, None])
        return dict(zip(self.spacings, torch.cat(batches).split(len(counts), dim=1), strict=True))
