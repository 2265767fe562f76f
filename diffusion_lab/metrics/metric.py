"""A metric: what it measures of a model, what its numbers are called and mean, and how they were measured, in one class.

Why not a function for each number beside a table of what they mean: one of the two is forgotten. Why not torchmetrics.Metric: it
sees batches of one kind, which a bound, a time and a number of parameters are not, and it says nothing of names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from math import isfinite
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from diffusion_lab.data.checks import IncompleteError
from diffusion_lab.data.module import DataModule
from diffusion_lab.metrics.features import Features
from diffusion_lab.metrics.reference import MOST_VALUES, Moments, Need, Reference, UnmeasurableError
from diffusion_lab.metrics.samples import Samples, Source
from diffusion_lab.metrics.settings import Evaluation
from diffusion_lab.metrics.shards import Progress
from diffusion_lab.models.base import GenerativeModel
from diffusion_lab.store.measures import IMAGES, Measure, ends, interval_of_share
from diffusion_lab.store.options import check_at_least

if TYPE_CHECKING:
    from diffusion_lab.models.drawn import DrawnDiffusion

MOST_BLOCKS = 50


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


@dataclass(frozen=True)
class View:
    """Samples and real images as one set of features sees them. naming: what its numbers are called."""

    naming: Naming
    drawn: Samples
    reference: Reference
    settings: Evaluation

    @property
    def features(self) -> Features:
        return self.reference.features

    @property
    def device(self) -> torch.device:
        return self.reference.device

    @property
    def split(self) -> str:
        """Which real images are the reference."""
        return self.settings.reference

    @property
    def num_held_out(self) -> int:
        """How many images the other split has."""
        return self.reference.data.size(self.settings.held_out_split)

    @property
    def compared(self) -> str:
        """What the samples are compared with, in words."""
        return self.reference.described(self.split)

    @cached_property
    def real(self) -> Moments:
        """Of all images of the reference."""
        return self.reference.moments(self.split)

    @cached_property
    def some_real(self) -> Tensor:
        """(n, D) float32: the features of some images of the reference, settings.reference_features at most, and not too large."""
        most = min(self.settings.reference_features, max(2, MOST_VALUES // self.features.dim))
        return self.reference.vectors(self.split, most)

    @cached_property
    def on_device(self) -> Tensor:
        """(n, D) float32: the features of all samples, where the features compute. Samples that are not finite are among them."""
        return self.drawn.features.to(self.device)


@dataclass(frozen=True)
class Subject:
    """What is scored, on which data. views: at least one; all are of the same samples."""

    source: Source
    data: DataModule
    views: Sequence[View]
    settings: Evaluation
    progress: Progress

    @property
    def drawn(self) -> Samples:
        """The samples; of a model, with what drawing them took."""
        return self.views[0].drawn

    @property
    def model(self) -> GenerativeModel:
        """What drew them, for a metric that needs a model."""
        assert self.source.model is not None
        return self.source.model

    @property
    def denoiser(self) -> DrawnDiffusion:
        """The same, for a metric that needs one that denoises."""
        assert self.model.denoiser is not None
        return self.model.denoiser


@dataclass
class Scores:
    """values: finite numbers by name. protocol, curves: plain JSON. samples: the first ones drawn, float32 on the CPU.
    sources: of a value, by name, what makes it uncertain, each with the means of `MOST_BLOCKS` blocks of what its images add to the
    value's error: the standard error of their mean is the error, and blocks of two scores with the same images are paired.
    measures: what the values mean; details: what has to be known of one of them besides, by name.
    interpolation: PATHS ways of PATH_IMAGES images from one sample to another, one after the other; of images only.
    reconstructions: real images, each before its reconstruction; of images only, and where the family has encoders.
    conditions: fields of held-out data, each before its image and draws for it; of images only, and where there are fields.
    nearest: as `copying.nearest_picture` makes it; of images only, and where it was measured."""

    values: dict[str, float] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=lambda: {"absent": {}})
    samples: Tensor = field(default_factory=lambda: torch.empty(0))
    interpolation: Tensor | None = None
    reconstructions: Tensor | None = None
    conditions: Tensor | None = None
    nearest: Tensor | None = None
    curves: dict[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    measures: list[Measure] = field(default_factory=list)
    details: dict[str, str] = field(default_factory=dict)
    sources: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def record(self, name: str, value: float | None, reason: str = "not measured") -> None:
        """A finite value is kept; any other is replaced by the reason."""
        if value is not None and isfinite(value):
            self.values[name] = value
        else:
            self.protocol["absent"][name] = reason if value is None else f"the result is {value}"

    @contextmanager
    def attempt(self, names: Iterable[str]) -> Iterator[None]:
        """The block records these values; those that it could not measure have the reason, if it raises UnmeasurableError, or if
        the data have missing values."""
        names = list(names)
        try:
            yield
        except (UnmeasurableError, IncompleteError) as error:
            for name in names:
                if name not in self.values:
                    self.record(name, None, str(error))

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


class Metric(ABC):
    """Something that is measured of a model or of samples: a subclass with its options, and a yaml in conf/metrics or an override.

    needs: what it cannot do without. Where that is missing, `score` is not called, and all its numbers have the reason.
    needs_samples: whether it looks at samples; where no metric does, a model draws only those of the picture.
    needs_step_costs: what each step of the model's chain costs is measured before.
    least: options, each with the least number that it may be; None is allowed too.
    """

    needs: ClassVar[tuple[Need, ...]] = ()
    needs_samples: ClassVar[bool] = True
    needs_step_costs: ClassVar[bool] = False
    least: ClassVar[tuple[tuple[str, int], ...]] = ()

    def __post_init__(self) -> None:
        """Of a subclass that is a dataclass: ValueError that names an option that is too small."""
        for option, least in self.least:
            check_at_least(least, self, option)

    @abstractmethod
    def measures(self, namings: Sequence[Naming]) -> Iterable[Measure]:
        """All that it may measure, in the order of the columns; what a score does not have is left out there."""

    @abstractmethod
    def score(self, subject: Subject, scores: Scores) -> None:
        """Record values by the names of `measures`, and how they were measured.

        May raise UnmeasurableError: its sentence is then the reason of all that it has not recorded.
        """


class FeatureMetric(Metric):
    """Something that is measured of the features of samples and of real images, once for each set of features."""

    @abstractmethod
    def feature_measures(self, naming: Naming) -> Iterable[Measure]:
        """As `measures`, for one set of features."""

    @abstractmethod
    def score_view(self, view: View, scores: Scores) -> None:
        """As `score`, for one set of features. `view.naming` is what its numbers are called."""

    def measures(self, namings: Sequence[Naming]) -> Iterable[Measure]:
        return [measure for naming in namings for measure in self.feature_measures(naming)]

    def score(self, subject: Subject, scores: Scores) -> None:
        for view in subject.views:
            with scores.attempt(measure.name for measure in self.feature_measures(view.naming)):
                self.score_view(view, scores)
