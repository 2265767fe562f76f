"""The path of a score: samples -> features, of samples and real images -> metrics -> numbers with protocol and meaning.

plan        everything that determines a score                      here
source      a generator that draws samples, or files of them        samples.py
drawer      draws the samples missing in the cache, on all ranks    drawer.py (of files: given.py)
features    images -> vectors                                       features/
references  real images as vectors of each set of features          reference.py
view        samples and real images as vectors, for a metric        metric.py
metrics     compute the numbers                                     a file each
scores      numbers, protocol, curves, pictures                     metric.py

A number that does not exist (no likelihood, too few images, samples that are not finite) is omitted from `values`, and
`protocol["absent"]` holds the reason. Numbers measured differently are not compared silently: the floor has its own n.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from diffusion_lab.data.module import DataModule, images_at_once
from diffusion_lab.metrics.features import Features
from diffusion_lab.metrics.metric import Metric, Naming, Scores, Subject, View
from diffusion_lab.metrics.pictures import condition_picture, latent_pictures
from diffusion_lab.metrics.reference import Need, UnmeasurableError
from diffusion_lab.metrics.samples import KEPT_IMAGES, Source
from diffusion_lab.metrics.settings import Evaluation
from diffusion_lab.metrics.stored import Progress, silent
from diffusion_lab.report.drawing import may_fail
from diffusion_lab.store.measures import Measure
from diffusion_lab.versions import versions


@dataclass(frozen=True)
class ScorePlan:
    """Everything that determines a score. ValueError if the data, the features and the metrics do not fit together.

    source: the samples. data: the data set of the reference and of held-out images. features: the numbers of the first have plain
    names. metrics: in the order of their columns. settings: the options `evaluation.…`. recorded: further entries of the protocol.
    """

    source: Source
    data: DataModule
    features: Sequence[Features]
    metrics: Sequence[Metric]
    settings: Evaluation
    recorded: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.settings.check(self.data)
        check_measures(self.features, self.metrics, self.data)


@torch.no_grad()
def score(plan: ScorePlan, progress: Progress = silent) -> Scores | None:
    """The scores of the metrics on the samples, against the real images of the data.

    If several ranks call it, rank 0 returns the scores, the others None.
    """
    data, features, metrics = plan.data, plan.features, plan.metrics
    data.prepare()
    measures, namings = check_measures(features, metrics, data), _namings(features)
    source = plan.source.with_measurements(data, progress)
    references = source.references(data, features, progress)
    scores = Scores()
    settings = replace(plan.settings, batch_size=plan.settings.batch_size or images_at_once(data.shape))
    needs, few = {need for metric in metrics for need in metric.needs}, settings
    if source.generator is not None and not needs & {Need.SAMPLES, Need.IMAGES}:
        few = replace(settings, num_samples=min(settings.resolve_num_samples(data), KEPT_IMAGES))
    found = source.samples(references, few, Need.IMAGES in needs, progress)
    if found is None:
        return None
    ways = zip(namings, found, references, strict=True)
    views = [View(naming, samples, reference, settings) for naming, samples, reference in ways]
    subject = Subject(source, data, views, settings, progress)
    lacks = {**source.lacks, **references[0].lacks}
    for number, metric in enumerate(metrics):
        progress("metrics", number, len(metrics))
        with scores.attempt(measure.name for measure in metric.measures(namings)):
            if missing := [lacks[need] for need in metric.needs if need in lacks]:
                raise UnmeasurableError(missing[0])
            scores.add(metric.score(subject))
    scores.samples = subject.drawn.images
    if source.generator is not None and len(data.shape) > 1:
        with may_fail("the picture of its latents"):
            pictures = latent_pictures(source.generator, data, settings.seed, settings.unseen_split)
            scores.interpolation, scores.reconstructions = pictures
        with may_fail("the picture of its conditions"):
            scores.conditions = condition_picture(source.generator, data, settings.seed, settings.unseen_split)
    remarks = [*source.remarks(data, settings), *references[0].remarks]
    if remarks:
        scores.protocol["remarks"] = remarks
        for measure in measures:
            if measure.headline and measure.name in scores.details and "reference" in measure.agrees:
                scores.details[measure.name] = "; ".join([scores.details[measure.name], *remarks])
    scores.describe(measures)
    scores.protocol |= _protocol(subject) | dict(plan.recorded)
    return scores


def check_measures(features: Sequence[Features], metrics: Sequence[Metric], data: DataModule) -> list[Measure]:
    """All measures of these metrics. ValueError if features do not support the data, or two numbers have one name."""
    for part in features:
        part.check(data.shape)
        if data.num_levels is None and part.reads_levels:
            said = f"features={part.name} read images of 256 levels, and {data.name} has real numbers"
            raise ValueError(f"{said}: choose features=pixels")
    measures = [measure for metric in metrics for measure in metric.measures(_namings(features))]
    names = [measure.name for measure in measures]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two metrics or two features have a value named {twice[0]}: remove one of them")
    return measures


def _namings(features: Sequence[Features]) -> list[Naming]:
    return [Naming(part.name, part.metric_name, part is features[0], part.kind) for part in features]


def _protocol(subject: Subject) -> dict[str, Any]:
    """The protocol common to all numbers."""
    data, view, settings = subject.data, subject.views[0], subject.settings
    of_source = subject.source.protocol(settings)
    common = {
        "num_images": len(subject.drawn.features),
        "seed": settings.seed,
        "precision": settings.precision,
        "num_levels": data.num_levels,
    }
    return {
        **of_source,
        "samples": common | of_source["samples"],
        "reference": view.reference.protocol(view.split),
        **({} if data.clusters is None else {"classes": data.clusters.description}),
        "data": {"name": data.name, "identity": data.identity, "shape": list(data.shape)},
        **{
            view.naming("features"): {"name": view.features.name, "identity": view.features.identity}
            for view in subject.views
        },
        "versions": versions(),
    }
