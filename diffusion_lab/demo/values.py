"""What the page may set. Every value from the browser is checked here against what the model offers; nothing is evaluated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

MOST_IMAGES = 100
MOST_SCALE = 20.0
MOST_SEED = 2**31 - 1


@dataclass(frozen=True)
class Offers:
    """What the controls show. An empty group is not shown.

    samplers: name -> (spacing, number of steps) that it brings. max_steps: T. num_classes: 0 without classes. class_names: empty
    where the classes have none. guidances, spacings, schedules: names. weighs: those of the guidances that have a scale.
    """

    model: str
    samplers: Mapping[str, tuple[str, int]]
    spacings: tuple[str, ...]
    max_steps: int
    guidances: tuple[str, ...]
    weighs: tuple[str, ...]
    num_classes: int
    class_names: tuple[str, ...]
    schedules: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "max_images": MOST_IMAGES, "max_scale": MOST_SCALE, "max_seed": MOST_SEED}


@dataclass(frozen=True)
class Values:
    """One setting of all controls; None where the model has no such control, or where it is left open."""

    sampler: str | None
    spacing: str | None
    num_steps: int | None
    guidance: str | None
    scale: float | None
    label: int | None
    seed: int
    num_images: int
    compare: str | None

    def options(self) -> dict[str, str | int | float]:
        """The options of `diffusion-lab sample`, by their full names."""
        found: dict[str, str | int | float | None] = {
            "sampler": self.sampler,
            "sampler/spacing": self.spacing,
            "sampler.spacing.num_steps": self.num_steps,
            "guidance": self.guidance,
            "guidance.scale": self.scale,
            "num_images": self.num_images,
            "seed": self.seed,
            "label": self.label,
        }
        return {name: value for name, value in found.items() if value is not None}


def checked(sent: Any, offers: Offers) -> Values:
    """The values of a request. ValueError, in one sentence, for what the page does not send."""
    if not isinstance(sent, dict) or sent.keys() != Values.__dataclass_fields__.keys():
        raise ValueError("a request must have one value for each control")
    has_sampler = bool(offers.samplers)
    guidance = _one_of(sent, "guidance", offers.guidances)
    return Values(
        sampler=_one_of(sent, "sampler", offers.samplers),
        spacing=_one_of(sent, "spacing", offers.spacings if has_sampler else ()),
        num_steps=_whole(sent, "num_steps", 1, offers.max_steps) if has_sampler else None,
        guidance=guidance,
        scale=_number(sent, "scale", 0.0, MOST_SCALE) if guidance in offers.weighs else None,
        label=None if sent["label"] is None else _whole(sent, "label", 0, offers.num_classes - 1),
        seed=_whole(sent, "seed", 0, MOST_SEED),
        num_images=_whole(sent, "num_images", 1, MOST_IMAGES),
        compare=None if sent["compare"] is None else _one_of(sent, "compare", offers.schedules),
    )


def _one_of(sent: Mapping[str, Any], name: str, known: Any) -> str | None:
    """None where the model offers nothing."""
    if not known:
        return None
    if not isinstance(sent[name], str) or sent[name] not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}")
    return sent[name]


def _whole(sent: Mapping[str, Any], name: str, least: int, most: int) -> int:
    value = sent[name]
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}")
    return value


def _number(sent: Mapping[str, Any], name: str, least: float, most: float) -> float:
    value = sent[name]
    if type(value) not in (int, float) or not math.isfinite(value) or not least <= value <= most:
        raise ValueError(f"{name} must be a number from {least:g} to {most:g}")
    return float(value)
