"""A metric: the computation, names, meanings and protocol of its numbers, in one class.

Not functions beside a table of meanings, because the two would drift apart. Not torchmetrics.Metric, which takes batches of one
kind, while a bound, a time or a number of parameters has no batches, and which has no names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from math import isfinite
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffusion_lab.data.checks import IncompleteError
from diffusion_lab.data.module import DataModule
from diffusion_lab.metrics.features import Features
from diffusion_lab.metrics.network_measurements import IndexedBatch, batches_of
from diffusion_lab.metrics.reference import BATCH_SIZE, MOST_VALUES, Moments, Need, Reference, UnmeasurableError
from diffusion_lab.metrics.samples import Samples, Source
from diffusion_lab.metrics.settings import Evaluation
from diffusion_lab.metrics.stored import Progress
from diffusion_lab.models.diffusion_generator import DiffusionGenerator
from diffusion_lab.models.generator import Generator
from diffusion_lab.store.measures import IMAGES, REAL_IMAGES, SAMPLES, Measure, ends, interval_of_share
from diffusion_lab.store.option_names import check_at_least

MOST_BLOCKS = 50


@dataclass(frozen=True)
class Naming:
    """Names of the numbers of one set of features: plain for the first set, and with the set's name for the others.

    features: the name of the set. distance: the name of the Fréchet distance of these features, which is unique. first: whether it
    is the first set. kind: a description of the features, including whether they were trained with labels.
    """

    features: str
    distance: str
    first: bool = True
    kind: str = "features of images"

    def __call__(self, name: str) -> str:
        """`name`, or `name`_<features>."""
        return name if self.first else f"{name}_{self.features}"

    def agrees(self, *more: str) -> tuple[str, ...]:
        """The entries of the protocol on which two numbers of these features must agree, and `more`."""
        return (*(self(part) if part == "features" else part for part in IMAGES), *more)

    def measure(self, name: str, label: str = "", more: Sequence[str] = (), **facts: Any) -> Measure:
        """A measure under the name of these features. more: further entries of the protocol on which two values must agree."""
        label = label or name
        label = label if self.first else f"{label} ({self.features})"
        return Measure(self(name), label, agrees=self.agrees(*more), **facts)


@dataclass(frozen=True)
class View:
    """Samples and real images as vectors of one set of features.

    naming: names of the numbers of these features. drawn: the samples. reference: the real images. settings: options of the score.
    """

    naming: Naming
    drawn: Samples
    reference: Reference
    settings: Evaluation

    @property
    def features(self) -> Features:
        return self.reference.features

    @property
    def device(self) -> torch.device | str:
        return self.reference.device

    @property
    def split(self) -> str:
        """The split of the reference."""
        return self.settings.reference

    @property
    def num_held_out(self) -> int:
        """The number of images in the split of the floor."""
        return self.reference.data.size(self.settings.held_out_split)

    @property
    def compared(self) -> str:
        """A description of the real images that the samples are compared with."""
        return self.reference.described(self.split)

    @property
    def no_floor(self) -> str:
        """The reason for an absent floor."""
        return f"needs real images besides the reference, but {self.compared} are all there are"

    def floor_detail(self, as_many: int, n: int, compared: str) -> str:
        """The note on a floor of `as_many` held-out images, or of the reference where none are held out, beside n samples."""
        differs = "" if as_many == n else "; a different n, so not comparable"
        of = self.settings.held_out_split if self.num_held_out else "reference"
        return f"n = {as_many} real {of} images vs {compared}{differs}"

    @cached_property
    def real(self) -> Moments:
        """Moments of all images of the reference."""
        return self.reference.moments(self.split)

    @cached_property
    def some_real(self) -> Tensor:
        """(n, D) float32: features of some images of the reference, at most settings.reference_features and MOST_VALUES numbers."""
        most = min(self.settings.reference_features, max(2, MOST_VALUES // self.features.dim))
        return self.reference.vectors(self.split, most)

    @cached_property
    def on_device(self) -> Tensor:
        """(n, D) float32: the features of all samples, also those that are not finite, on the device that computes features."""
        return self.drawn.features.to(self.device)


@dataclass(frozen=True)
class Subject:
    """The scored samples and the data, as given to a metric.

    source: the source of the samples. data: the data set. views: the same samples as vectors of each set of features, at least one.
    settings: options of the score. progress: called with (task, images done, all images).
    """

    source: Source
    data: DataModule
    views: Sequence[View]
    settings: Evaluation
    progress: Progress

    @property
    def drawn(self) -> Samples:
        """The samples; those of a generator with the cost of drawing them."""
        return self.views[0].drawn

    @property
    def generator(self) -> Generator:
        """The generator of the samples, for a metric with Need.GENERATOR."""
        assert self.source.generator is not None
        return self.source.generator

    @property
    def diffusion(self) -> DiffusionGenerator:
        """The generator, for a metric with Need.CHAIN."""
        assert isinstance(self.generator, DiffusionGenerator)
        return self.generator

    def batches(self, split: str, batch_size: int | None, limit: int, task: str = "") -> Iterator[IndexedBatch]:
        """(x_0, y, indices) of the first `limit` images of a split, as from `batches_of`. task: its name, if progress is shown."""
        done, limit = 0, min(limit, self.data.size(split))
        for batch in batches_of(self.generator, self.data, split, batch_size, limit):
            yield batch
            done += len(batch[0])
            if task:
                self.progress(task, done, limit)

    def images(self, split: str, count: int) -> Tensor:
        """(n, C, *spatial): a fixed choice of `count` images of a split, or all of them if there are fewer."""
        none = torch.empty(0, *self.data.shape)
        return torch.cat([none, *(x for x, _ in self.data.batches(split, BATCH_SIZE, limit=count))]) if count else none


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval [low, high].

    of_samples (n,), of_real (m,): the contribution of each sample and of each real image to the value's error.
    """

    value: float
    low: float
    high: float
    of_samples: Tensor
    of_real: Tensor


@dataclass
class Scores:
    """The numbers of a score by name, their protocol, and pictures.

    values: finite numbers by name. protocol, curves: plain JSON. samples: the first ones drawn, float32 on the CPU.
    sources: of a value, by name, its sources of uncertainty, each with the means of `MOST_BLOCKS` blocks of contributions to the
    value's error: the standard error of their mean is the error, and blocks of two scores with the same images are paired.
    measures: descriptions of the values; details: notes on single values, by name.
    interpolation: PATHS paths of PATH_IMAGES images from one sample to another, one after the other; for images only.
    reconstructions: real images, each followed by its reconstruction; for images and families with encoders.
    conditions: fields of held-out data, each followed by its image and samples for it; for images with fields.
    nearest: the picture of `copying.nearest_picture`, if it was measured; for images.
    """

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

    def add(self, more: Scores) -> None:
        """Add the results of another metric."""
        self.values |= more.values
        absent = self.protocol["absent"] | more.protocol["absent"]
        self.protocol |= more.protocol | {"absent": absent}
        self.curves |= more.curves
        self.details |= more.details
        for name, found in more.sources.items():
            self.sources.setdefault(name, {}).update(found)
        self.nearest = self.nearest if more.nearest is None else more.nearest

    def record(self, name: str, value: float | None, reason: str = "not measured") -> None:
        """Store a finite value; for any other, store the reason instead."""
        if value is not None and isfinite(value):
            self.values[name] = value
        else:
            self.protocol["absent"][name] = reason if value is None else f"the result is {value}"

    @contextmanager
    def attempt(self, names: Iterable[str]) -> Iterator[None]:
        """Run a block that records values; if it raises UnmeasurableError, or IncompleteError because data have missing values,
        record its message as the reason for those of `names` that are still absent.
        """
        names = list(names)
        try:
            yield
        except (UnmeasurableError, IncompleteError) as error:
            for name in names:
                if name not in self.values:
                    self.record(name, None, str(error))

    def spread(self, name: str, source: str, influence: Tensor) -> None:
        """Record a source of uncertainty of `name`: image i contributes (influence[i] − mean)/n, influence (n,)."""
        self.sources.setdefault(name, {})[source] = blocks(influence)

    def estimate(self, name: str, found: Estimate) -> None:
        """Record a value, its interval and its sources of uncertainty."""
        self.record(name, found.value)
        self.values |= dict(zip(ends(name), (found.low, found.high), strict=True))
        self.spread(name, SAMPLES, found.of_samples)
        self.spread(name, REAL_IMAGES, found.of_real)

    def share(self, name: str, source: str, hits: Tensor) -> None:
        """Record the share of hits (n,) among images of `source`, with its 95 % interval."""
        self.record(name, float(hits.double().mean()))
        self.values |= dict(zip(ends(name), interval_of_share(int(hits.sum()), len(hits)), strict=True))
        self.spread(name, source, hits.double())

    def describe(self, measures: Iterable[Measure]) -> None:
        """Store the descriptions of values that exist or are absent for a reason."""
        known = self.values.keys() | self.protocol["absent"].keys()
        self.measures += [
            replace(measure, detail=self.details.get(measure.name, "")) for measure in measures if measure.name in known
        ]

    def content(self) -> dict[str, Any]:
        """values, protocol, curves, measures and sources, as in metrics.json."""
        described = [asdict(measure) for measure in self.measures]
        return {"values": self.values, "protocol": self.protocol, "curves": self.curves, "measures": described} | (
            {"sources": self.sources} if self.sources else {}
        )


def blocks(influence: Tensor) -> list[float]:
    """(n,) -> block sums over every k-th image, over n/k: their mean is 0 and their standard error that of the mean of all."""
    centred = (influence - influence.mean()).double().cpu()
    count = min(MOST_BLOCKS, len(centred))
    sums = torch.zeros(count, dtype=torch.float64)
    return (sums.index_add(0, torch.arange(len(centred)) % count, centred) * (count / len(centred))).tolist()


class Metric(ABC):
    """A measurement of a model or of samples: a subclass with its options, and a yaml in conf/metrics or an override.

    needs: its requirements. If one is not met, `score` is not called, and the reason is recorded for all its numbers.
    least: options with their smallest allowed values; None is allowed too.
    """

    needs: ClassVar[tuple[Need, ...]] = (Need.SAMPLES,)
    least: ClassVar[tuple[tuple[str, int], ...]] = ()

    def __post_init__(self) -> None:
        """Check the options of a subclass that is a dataclass: ValueError, naming the option, if one is too small."""
        for option, least in self.least:
            check_at_least(least, self, option)

    @abstractmethod
    def measures(self, namings: Sequence[Naming]) -> Iterable[Measure]:
        """All measures in the order of the columns; a score omits those that it lacks."""

    @abstractmethod
    def score(self, subject: Subject) -> Scores:
        """Values by the names of `measures`, and how they were measured.

        A value that does not exist is recorded with the reason, or by `Scores.attempt`; UnmeasurableError is the reason for all.
        """


class FeatureMetric(Metric):
    """A measurement on features of samples and of real images, made once for each set of features."""

    @abstractmethod
    def feature_measures(self, naming: Naming) -> Iterable[Measure]:
        """Like `measures`, for one set of features."""

    @abstractmethod
    def score_view(self, view: View) -> Scores:
        """Like `score`, for one set of features. `view.naming` gives the names of its numbers."""

    def measures(self, namings: Sequence[Naming]) -> Iterable[Measure]:
        return [measure for naming in namings for measure in self.feature_measures(naming)]

    def score(self, subject: Subject) -> Scores:
        scores = Scores()
        for view in subject.views:
            with scores.attempt(measure.name for measure in self.feature_measures(view.naming)):
                scores.add(self.score_view(view))
        return scores
