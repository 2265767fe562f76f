"""One model, one data set, some sets of features, a list of metrics -> all numbers, each with its protocol and its meaning.

A number that does not exist (no likelihood, too few images, samples that are not finite) is left out of `values`, and
`protocol["absent"]` says why. Nothing is compared silently with what was measured otherwise: the floor states its own n.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from diffusion_lab.evaluation.asked import draw_asked
from diffusion_lab.evaluation.cost import TrainingCost
from diffusion_lab.evaluation.latents import latent_pictures
from diffusion_lab.evaluation.metrics.metric import Metric, Naming
from diffusion_lab.evaluation.reference import Progress, Reference
from diffusion_lab.evaluation.scores import Scores
from diffusion_lab.evaluation.settings import Evaluation
from diffusion_lab.evaluation.subject import Subject, View
from diffusion_lab.measures import Measure
from diffusion_lab.models.base import GenerativeModel
from diffusion_lab.versions import versions

if TYPE_CHECKING:
    from diffusion_lab.data.base import DataModule
    from diffusion_lab.evaluation.features import Features


def score(
    model: GenerativeModel,
    data: DataModule,
    features: Sequence[Features],
    metrics: Sequence[Metric],
    settings: Evaluation,
    cache_dir: Path,
    identities: Sequence[str],
    progress: Progress | None = None,
    training: TrainingCost | None = None,
    flops: int | None = None,
    anew: bool = False,
) -> Scores | None:
    """What `metrics` measure of `model` with the weights `settings.weights` (already resolved: not "auto").

    features: one set or several, which see the same samples; the numbers of the first have the plain names. identities: for each
    of them, what decides the samples and their features beside the weights and `model.sampling_protocol()`: the network's
    architecture, the code. cache_dir keeps the reference and the samples between calls; anew: the samples are drawn again.
    training and flops (of one network evaluation of one image) are handed on.

    Where several ranks call it, they share the drawing; rank 0 does the rest and returns the scores, the others None.
    Raises ValueError if the model, the data, the features and the metrics do not belong together, or the weights do not exist.
    """
    data.prepare()
    _check(model, data)
    measures = check_measures(features, metrics, data)
    progress = progress or (lambda stage, done, total: None)
    scores = Scores()
    with model.use_weights(settings.weights), _evaluating(model):
        references = [
            Reference(data, part.to(model.device).eval(), cache_dir, model.device, progress) for part in features
        ]
        drawn = draw_asked(model, references, settings, cache_dir, identities, progress, anew)
        if drawn is None:
            return None
        ways = zip(_namings(features), drawn, references, strict=True)
        views = [View(naming, samples, reference, settings) for naming, samples, reference in ways]
        subject = Subject(model, data, views, settings, progress, training, flops)
        for metric in metrics:
            scores.attempt(metric.measures(_namings(features)), lambda metric=metric: metric.score(subject, scores))
        scores.samples = subject.drawn.images
        if len(data.shape) == 3:
            scores.interpolation, scores.reconstructions = latent_pictures(model, data, settings.seed)
    scores.describe(measures)
    scores.protocol |= _protocol(subject)
    return scores


def check_measures(features: Sequence[Features], metrics: Sequence[Metric], data: DataModule) -> list[Measure]:
    """All that these metrics may measure. ValueError if the features cannot look at the data, or two numbers have one name."""
    for part in features:
        part.check(data.shape)
    measures = [measure for metric in metrics for measure in metric.measures(_namings(features))]
    names = [measure.name for measure in measures]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two metrics, or two of the features, call a number {twice[0]}: leave one of them out")
    return measures


def _namings(features: Sequence[Features]) -> list[Naming]:
    return [Naming(part.name, part.metric_name, first=part is features[0]) for part in features]


def _protocol(subject: Subject) -> dict:
    """What holds for every number."""
    data, view = subject.data, subject.views[0]
    labels = f"drawn from the shares of the classes in {view.split}"
    return {
        "samples": {
            "num_images": len(subject.drawn.features),
            "seed": subject.settings.seed,
            "precision": subject.settings.precision,
            "num_levels": data.num_levels,
            "labels": "none" if subject.drawn.stream.class_prior is None else labels,
        },
        "reference": {"split": view.split, "num_images": int(view.real.n)},
        "data": {"name": data.name, "identity": data.identity, "shape": list(data.shape)},
        **{
            view.naming("features"): {"name": view.features.name, "identity": view.features.identity}
            for view in subject.views
        },
        "weights": subject.settings.weights,
        "model": subject.model.protocol(),
        "versions": versions(),
    }


def _check(model: GenerativeModel, data: DataModule) -> None:
    """One sentence for what does not belong together."""
    if tuple(model.shape) != tuple(data.shape):
        raise ValueError(f"the model draws {tuple(model.shape)}, the data set {data.name} has {tuple(data.shape)}")
    if model.num_classes not in (None, data.num_classes):
        raise ValueError(
            f"the model knows {model.num_classes} classes, the data set {data.name} has {data.num_classes}"
        )


@contextmanager
def _evaluating(model: GenerativeModel) -> Iterator[None]:
    """Evaluation mode (no dropout) inside the block."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
