"""Descriptions of a score's numbers: units, direction, and the conditions of a comparison. Does not import torch.

Each metric describes its numbers, and metrics.json stores the description, so displaying a score does not depend on the metric.

Two values of a measure may be ranked only if everything in its protocol about *how it was measured* agrees:
the data, the reference, the features, the number of images, for seconds the machine. What was measured (schedule, sampler,
weights) is a choice and may differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from diffusion_lab.store.records import first_error

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

    name      of the value in metrics.json
    label     the heading of its column
    unit      of the value; "" without one
    better    LOW, HIGH, or None for a choice or a fact, which has no best value
    meaning   a short description
    agrees    parts of the protocol that must be equal before two values are ranked
    floor_of  the name of the value of real images, shown beside this one
    logs      whether plots show it on a logarithmic axis
    column    False: shown only in the table of its own score
    brief     whether narrow tables show it
    headline  whether the report names the best row
    decimals  in the table of its own score
    detail    a note on this particular value, in place of the meaning
    """

    name: Annotated[str, Field(pattern=r"^\w+$")]
    label: str
    unit: str = ""
    better: Annotated[str, Field(pattern=f"^({LOW}|{HIGH})$")] | None = None
    meaning: str = ""
    agrees: tuple[str, ...] = ()
    floor_of: str | None = None
    logs: bool = False
    column: bool = True
    brief: bool = True
    headline: bool = False
    decimals: Annotated[int, Field(ge=0, le=_MOST_DECIMALS)] = 3
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


_MEASURES = TypeAdapter(list[Measure])


def read_measures(metrics: Mapping[str, Any]) -> list[Measure]:
    """The measures in metrics.json. ValueError for invalid content; unknown entries, from newer versions, are ignored."""
    try:
        return _MEASURES.validate_python(metrics.get("measures"))
    except ValidationError as error:
        raise ValueError(first_error(error, "measures")) from None


def merged(lists: Iterable[list[Measure]]) -> list[Measure]:
    """The measures of several scores in one list, each where it occurs first."""
    found: dict[str, Measure] = {}
    for measure in (measure for measures in lists for measure in measures):
        found.setdefault(measure.name, measure)
    return [*found.values()]


def _how(part: str, content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: value for key, value in content.items() if key not in ("seed", *_CHOSEN.get(part, ()))}
    return content


# Entries of the protocol that follow from the choices or only change rounding.
_CHOSEN = {
    "bound": ("num_terms", "batch_size"),
    "cost": ("timed_images", "peak_memory"),
    "samples": ("labels", "given"),
}
