"""What the names in metrics.json mean: the one place that knows which way is better, units, and what must agree.

Two values of a measure may be ranked only when everything in its protocol that says *how it was measured* is the same:
the data, the reference, the features, the number of images, the machine for seconds. What was measured (schedule, sampler,
weights) is a choice and may differ.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LOW, HIGH = "lower", "higher"

STANDARD_ERROR = "_standard_error"  # the value that states another's standard error over test images
SECONDS = "seconds_per_1000_samples"
_IMAGES = ("data", "features", "samples", "reference")


@dataclass(frozen=True)
class Measure:
    """One column.

    better    LOW, HIGH, or None for what is a choice or a fact and has no best
    agrees    parts of the protocol that must be equal before two values are ranked
    floor_of  the value that real images get, beside which this one is seen
    logs      the plots show it on a logarithmic axis
    brief     it stands in the tables that have little room
    headline  the report says in words who leads in it
    """

    name: str
    label: str
    unit: str
    better: str | None
    meaning: str
    agrees: tuple[str, ...] = ()
    floor_of: str | None = None
    logs: bool = False
    brief: bool = True
    headline: bool = False

    @property
    def arrow(self) -> str:
        return {LOW: "↓", HIGH: "↑", None: ""}[self.better]

    @property
    def axis(self) -> str:
        """The label of a plot's axis."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def protocol_key(self, protocol: Mapping[str, Any]) -> str:
        """Equal for two values that were measured alike."""
        return json.dumps(self.how(protocol), sort_keys=True)

    def how(self, protocol: Mapping[str, Any]) -> dict[str, Any]:
        """What must agree, as the protocol has it."""
        return {part: _how(part, protocol.get(part)) for part in self.agrees}


def samples_key(protocol: Mapping[str, Any]) -> str:
    """Equal for two scores that may stand in one table: same data, features and reference, samples alike in number and noise."""
    return json.dumps({part: _how(part, protocol.get(part)) for part in _IMAGES}, sort_keys=True)


def _how(part: str, content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: value for key, value in content.items() if key not in _CHOSEN.get(part, ())}
    return content


# In a part of the protocol, what follows from the choices or changes rounding only.
_CHOSEN = {"bound": ("num_terms", "batch_size"), "cost": ("timed_images", "peak_memory"), "samples": ("labels",)}
_KNOWN = {
    "nfe": Measure("nfe", "NFE", "", None, "network evaluations a sample"),
    "precision": Measure(
        "precision", "precision", "", HIGH, "share of samples that look real", (*_IMAGES, "precision_recall")
    ),
    "recall": Measure(
        "recall", "recall", "", HIGH, "share of real images that samples come near", (*_IMAGES, "precision_recall")
    ),
    "classes_present": Measure(
        "classes_present",
        "classes",
        "",
        HIGH,
        "classes that a classifier takes some sample for; a collapsed model leaves some out",
        _IMAGES,
        brief=False,
    ),
    "class_entropy": Measure(
        "class_entropy",
        "class entropy",
        "bits",
        None,
        "how evenly the samples spread over the classes; a collapsed model stays below the data",
        _IMAGES,
        brief=False,
    ),
    "inception_score": Measure(
        "inception_score",
        "inception score",
        "",
        HIGH,
        "how sure a classifier is of each sample, and how many classes they spread over",
        (*_IMAGES, "inception_score"),
        brief=False,
    ),
    "bits_per_dim": Measure(
        "bits_per_dim",
        "bits/dim",
        "",
        LOW,
        "negative log-likelihood of test images, or a bound on it",
        ("data", "bound"),
        headline=True,
    ),
    SECONDS: Measure(SECONDS, "s / 1000", "s", LOW, "seconds for 1000 samples", ("data", "cost"), logs=True),
}
# Prefix of the name -> what it is called before the features' name, and what it means.
_DISTANCES = {
    "fid": ("Fréchet distance on the Inception-v3 of the original FID", ()),
    "fd_": ("Fréchet distance between the features of samples and of real images", ()),
    "kid": ("kernel distance on the Inception-v3 of the original FID", ("kernel_distance",)),
    "kd_": ("kernel distance between the features of samples and of real images", ("kernel_distance",)),
}
_ACCURACY = "accuracy_"
_ORDER = (
    "nfe",
    "fid",
    "fd_",
    "kid",
    "kd_",
    "precision",
    "recall",
    "inception_score",
    _ACCURACY,
    "bits_per_dim",
    SECONDS,
    "classes_present",
    "class_entropy",
)


def measure(name: str) -> Measure | None:
    """What a value's name means; None for a value that is no column (a part of another one, a cost that never differs)."""
    if name in _KNOWN:
        return _KNOWN[name]
    if name.startswith(_ACCURACY):
        return Measure(name, name, "", HIGH, "share of samples that the classifier takes for their label", _IMAGES)
    if name.endswith("_floor") or name[:3] not in _DISTANCES:
        return None
    meaning, more = _DISTANCES[name[:3]]
    frechet = name.startswith("f")
    return Measure(
        name,
        name,
        "",
        LOW,
        meaning,
        (*_IMAGES, *more),
        floor_of=f"{name}_floor" if frechet else None,
        logs=True,
        brief=frechet,
        headline=frechet,
    )


def ordered(names: set[str]) -> list[Measure]:
    """The columns among `names`, in the order of the table."""
    known = [found for found in map(measure, sorted(names)) if found is not None]
    return sorted(known, key=lambda m: next(i for i, start in enumerate(_ORDER) if m.name.startswith(start)))
