"""What are the numbers of one set of features called, and which parts of the protocol decide them?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diffusion_lab.store.measures import IMAGES, Measure


@dataclass(frozen=True)
class Naming:
    """Names of the numbers of one set of features: plain for the first set, with the name of the set for the others.

    features: its name. distance: the name of a Fréchet distance of these features, which is unique. kind: what they are, and
    whether they were trained with labels, in words.
    """

    features: str
    distance: str
    first: bool = True
    kind: str = "features of images"

    def __call__(self, name: str) -> str:
        """`name`, or `name`_<features>."""
        return name if self.first else f"{name}_{self.features}"

    def agrees(self, *more: str) -> tuple[str, ...]:
        """The parts of the protocol that decide a number of these features, and `more`."""
        return (*(self(part) if part == "features" else part for part in IMAGES), *more)

    def measure(self, name: str, label: str = "", more: Sequence[str] = (), **facts: Any) -> Measure:
        """A measure whose name does not say the features yet. more: further parts of the protocol that must agree."""
        label = label or name
        label = label if self.first else f"{label} ({self.features})"
        return Measure(self(name), label, agrees=self.agrees(*more), **facts)
