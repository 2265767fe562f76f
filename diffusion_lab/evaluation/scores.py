"""What came out of a score: values by name, each with its protocol or with the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.evaluation.statistics import UnmeasurableError
from diffusion_lab.measures import Measure


@dataclass
class Scores:
    """values: finite numbers by name. protocol, curves: plain JSON. samples: the first ones drawn, float32 on the CPU.
    measures: what the values mean; details: what has to be known of one of them besides, by name.
    interpolation: PATHS ways of PATH_IMAGES images from one sample to another, one after the other; of images only.
    reconstructions: test images, each followed by the image of its latent; of images only, and where the family has encoders."""

    values: dict[str, float] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=lambda: {"absent": {}})
    samples: Tensor = field(default_factory=lambda: torch.empty(0))
    interpolation: Tensor | None = None
    reconstructions: Tensor | None = None
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    measures: list[Measure] = field(default_factory=list)
    details: dict[str, str] = field(default_factory=dict)

    def record(self, name: str, value: float | None, reason: str = "not measured") -> None:
        """A finite value is kept; instead of any other stands the reason."""
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

    def describe(self, measures: Iterable[Measure]) -> None:
        """Keep what is said of the values that are there, or that are absent for a reason."""
        known = self.values.keys() | self.protocol["absent"].keys()
        self.measures += [
            replace(measure, detail=self.details.get(measure.name, "")) for measure in measures if measure.name in known
        ]

    def content(self) -> dict[str, Any]:
        """values, protocol, curves and measures, as metrics.json keeps them."""
        described = [asdict(measure) for measure in self.measures]
        return {"values": self.values, "protocol": self.protocol, "curves": self.curves, "measures": described}
