"""Descriptions of a score's numbers: units, direction, and the conditions of a comparison. Does not import torch.

Each metric describes its numbers, and metrics.json stores the description, so displaying a score does not depend on the metric.

Two values of a measure may be ranked only if everything in its protocol about *how it was measured* agrees:
the data, the reference, the features, the number of images, for seconds the machine. What was measured (schedule, sampler,
weights) is a choice and may differ.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from diffusion_lab.store.records import LIST, SWITCH, TEXT, TEXTS, Kinds, or_none, whole_number, wrong_in

LOW, HIGH = "lower", "higher"

STANDARD_ERROR = "_standard_error"  # suffix of the standard error over test images
_LOW_END, _HIGH_END = "_low", "_high"  # suffixes of the ends of an interval
# Sources of uncertainty.
SEEDS, SAMPLES = "seeds", "samples"
REAL_IMAGES = "real images"
ENTROPY = "entropy_bits_per_dim"  # of data with known density, shown beside bits/dim
SECONDS, TRAINING_SECONDS = "seconds_per_1000_samples", "training_seconds"
IMAGES = ("data", "features", "samples", "reference")
_MOST_DECIMALS = 12


@dataclass(frozen=True)
class Measure:
    """One number of a score, and a column in comparisons.

    better    LOW, HIGH, or None for a choice or a fact, which has no best value
    agrees    parts of the protocol that must be equal before two values are ranked
    floor_of  the value of real images, shown beside this one
    logs      plots show it on a logarithmic axis
    column    False: shown only in the table of its own score
    brief     shown in narrow tables
    headline  the report states in words which row is best
    decimals  in the table of its own score
    detail    a note on this particular value, in place of the meaning
    """

    name: str
    label: str
    unit: str = ""
    better: str | None = None
    meaning: str = ""
    agrees: tuple[str, ...] = ()
    floor_of: str | None = None
    logs: bool = False
    column: bool = True
    brief: bool = True
    headline: bool = False
    decimals: int = 3
    detail: str = ""

    @property
    def arrow(self) -> str:
        return {LOW: "↓", HIGH: "↑", None: ""}[self.better]

    @property
    def axis(self) -> str:
        """The label of a plot's axis."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def protocol_key(self, protocol: Mapping[str, Any]) -> str:
        """A key that is equal for two values measured alike."""
        return json.dumps(self.how(protocol), sort_keys=True)

    def how(self, protocol: Mapping[str, Any]) -> dict[str, Any]:
        """The parts of the protocol that must agree."""
        return {part: _how(part, protocol.get(part)) for part in self.agrees}


def ends(name: str) -> tuple[str, str]:
    """Names of the values that hold the ends of the 95 % interval of `name`."""
    return name + _LOW_END, name + _HIGH_END


def interval_of_share(hits: float, n: float) -> tuple[float, float]:
    """The 95 % interval of a probability after `hits` successes in n trials (Wilson 1927)."""
    z, share = 1.959964, hits / n
    middle, half = share + z**2 / (2 * n), z * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    return (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)


def samples_key(protocol: Mapping[str, Any]) -> str:
    """A key that is equal for two scores in one table: same data, features and reference, as many samples."""
    return json.dumps({part: _how(part, protocol.get(part)) for part in IMAGES}, sort_keys=True)


def read_measures(metrics: Mapping[str, Any]) -> list[Measure]:
    """The measures in metrics.json. ValueError for invalid content; unknown entries, from newer versions, are ignored."""
    if wrong := wrong_in(metrics, _MEASURES):
        raise ValueError(wrong)
    known = {field.name for field in fields(Measure)}
    entries = [{key: value for key, value in entry.items() if key in known} for entry in metrics["measures"]]
    return [Measure(**entry | {"agrees": tuple(entry.get("agrees", ()))}) for entry in entries]


def merged(lists: Iterable[list[Measure]]) -> list[Measure]:
    """The measures of several scores in one list; one that only a later score has follows its neighbour there."""
    order: list[Measure] = []
    for measures in lists:
        place = 0
        for measure in measures:
            known = next((i for i, other in enumerate(order) if other.name == measure.name), None)
            if known is None:
                order.insert(place, measure)
            place = (place if known is None else known) + 1
    return order


def _how(part: str, content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: value for key, value in content.items() if key not in ("seed", *_CHOSEN.get(part, ()))}
    return content


_MEASURES: Kinds = {
    "measures": LIST,
    # used as the name of a column and of a figure
    "measures.*.name": (lambda value: isinstance(value, str) and bool(re.fullmatch(r"\w+", value)), "a name"),
    "measures.*.label": TEXT,
    **{f"measures.*.{part}?": TEXT for part in ("unit", "meaning", "detail")},
    **{f"measures.*.{part}?": SWITCH for part in ("logs", "column", "brief", "headline")},
    "measures.*.better?": (lambda value: value in (LOW, HIGH, None), f"{LOW}, {HIGH} or null"),
    "measures.*.agrees?": TEXTS,
    "measures.*.floor_of?": or_none(TEXT),
    "measures.*.decimals?": whole_number(0, _MOST_DECIMALS),
}
# Entries of the protocol that follow from the choices or only change rounding.
_CHOSEN = {
    "bound": ("num_terms", "batch_size"),
    "cost": ("timed_images", "peak_memory"),
    "samples": ("labels", "given"),
}
