"""The result of a score: values by name, each with its protocol, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.metrics.statistics import UnmeasurableError
from diffusion_lab.store.measures import Measure, ends, interval_of_share

MOST_BLOCKS = 50


@dataclass
class Scores:
    """values: finite numbers by name. protocol, curves: plain JSON. samples: the first ones drawn, float32 on the CPU.
    sources: of a value, by name, what makes it uncertain, each with the means of `MOST_BLOCKS` blocks of what its images add to the
    value's error: the standard error of their mean is the error, and blocks of two scores with the same images are paired.
    measures: what the values mean; details: what has to be known of one of them besides, by name.
    interpolation: PATHS ways of PATH_IMAGES images from one sample to another, one after the other; of images only.
    reconstructions: real images, each before its reconstruction (`latents`); of images only, and where the family has encoders.
    nearest: as `nearest.nearest_picture` makes it; of images only, and where it was measured."""

    values: dict[str, float] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=lambda: {"absent": {}})
    samples: Tensor = field(default_factory=lambda: torch.empty(0))
    interpolation: Tensor | None = None
    reconstructions: Tensor | None = None
    nearest: Tensor | None = None
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    measures: list[Measure] = field(default_factory=list)
    details: dict[str, str] = field(default_factory=dict)
    sources: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def record(self, name: str, value: float | None, reason: str = "not measured") -> None:
        """A finite value is kept; any other is replaced by the reason."""
        if value is not None and isfinite(value):
            self.values[name] = value
        else:
            self.protocol["absent"][name] = reason if value is None else f"the result is {value}"

    def measure(self, names: list[str], compute: Callable[[], tuple[float, ...]]) -> None:
        """Record what `compute` returns under `names`, or for all of them why it cannot be measured."""
        try:
            values: tuple[float | None, ...] = compute()
            reason = ""
        except UnmeasurableError as error:
            values, reason = (None,) * len(names), str(error)
        for name, value in zip(names, values, strict=True):
            self.record(name, value, reason)

    def attempt(self, measures: Iterable[Measure], score: Callable[[], None]) -> None:
        """Let a metric record its measures; those that it could not measure have its reason."""
        try:
            score()
        except UnmeasurableError as error:
            for measure in measures:
                if measure.name not in self.values:
                    self.record(measure.name, None, str(error))

    def spread(self, name: str, source: str, influence: Tensor) -> None:
        """The value `name` is uncertain because of `source`: image i adds influence[i] (n,) to it, less the mean of all, over n."""
        self.sources.setdefault(name, {})[source] = blocks(influence)

    def share(self, name: str, source: str, hits: Tensor) -> None:
        """The share of images of `source` that are hits (n,), with its 95 % interval."""
        self.record(name, float(hits.double().mean()))
        self.values |= dict(zip(ends(name), interval_of_share(int(hits.sum()), len(hits)), strict=True))
        self.spread(name, source, hits.double())

    def describe(self, measures: Iterable[Measure]) -> None:
        """Keep the descriptions of the values that exist, or that are absent for a reason."""
        known = self.values.keys() | self.protocol["absent"].keys()
        self.measures += [
            replace(measure, detail=self.details.get(measure.name, "")) for measure in measures if measure.name in known
        ]

    def content(self) -> dict[str, Any]:
        """values, protocol, curves, measures and sources, as metrics.json keeps them."""
        described = [asdict(measure) for measure in self.measures]
        return {"values": self.values, "protocol": self.protocol, "curves": self.curves, "measures": described} | (
            {"sources": self.sources} if self.sources else {}
        )


def blocks(influence: Tensor) -> list[float]:
    """(n,) -> sums over every k-th image, over n/k: numbers whose mean is 0 and whose standard error is that of the mean of all."""
    centred = (influence - influence.mean()).double().cpu()
    count = min(MOST_BLOCKS, len(centred))
    sums = torch.zeros(count, dtype=torch.float64)
    return (sums.index_add(0, torch.arange(len(centred)) % count, centred) * (count / len(centred))).tolist()
