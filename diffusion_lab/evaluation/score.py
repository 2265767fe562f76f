"""One model, one data set, one set of features -> all numbers, each with its protocol.

A number that does not exist (no likelihood, too few images, samples that are not finite) is left out of `values`, and
`protocol["absent"]` says why. Nothing is compared silently with what was measured otherwise: the floor states its own n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffusion_lab.data.splits import evenly_spaced
from diffusion_lab.evaluation.cache import digest
from diffusion_lab.evaluation.conditional import class_accuracy, class_distances
from diffusion_lab.evaluation.cost import TrainingCost, num_parameters
from diffusion_lab.evaluation.coverage import class_coverage
from diffusion_lab.evaluation.drawing import Drawn, draw_once
from diffusion_lab.evaluation.fidelity import INCEPTION_SCORE_PARTS, inception_score, kernel_distance, precision_recall
from diffusion_lab.evaluation.frechet import frechet_distance
from diffusion_lab.evaluation.interpolation import interpolation
from diffusion_lab.evaluation.likelihood import score_likelihood
from diffusion_lab.evaluation.reconstruction import reconstructions
from diffusion_lab.evaluation.reference import Progress, Reference
from diffusion_lab.evaluation.sampling import Stream, labels
from diffusion_lab.evaluation.settings import Evaluation
from diffusion_lab.evaluation.shards import SampleStore
from diffusion_lab.evaluation.statistics import UnmeasurableError
from diffusion_lab.models.base import GenerativeModel
from diffusion_lab.versions import versions

if TYPE_CHECKING:
    from diffusion_lab.data.base import DataModule
    from diffusion_lab.evaluation.features import Features


@dataclass
class Scores:
    """values: finite numbers by name. protocol, curves: plain JSON. samples: the first ones drawn, float32 on the CPU.
    interpolation: PATHS ways of PATH_IMAGES images from one sample to another, one after the other; of images only.
    reconstructions: test images, each followed by the image of its latent; of images only, and where the family has encoders."""

    values: dict[str, float] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=lambda: {"absent": {}})
    samples: Tensor = field(default_factory=lambda: torch.empty(0))
    interpolation: Tensor | None = None
    reconstructions: Tensor | None = None
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)

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


def score(
    model: GenerativeModel,
    data: DataModule,
    features: Features,
    settings: Evaluation,
    cache_dir: Path,
    identity: str,
    progress: Progress | None = None,
    training: TrainingCost | None = None,
    flops: int | None = None,
    anew: bool = False,
) -> Scores | None:
    """Everything there is to say about `model` with the weights `settings.weights` (already resolved: not "auto").

    cache_dir keeps the reference and the samples between calls; anew: the samples are drawn again. identity: what decides
    the samples beside the weights and `model.sampling_protocol()`: the network's architecture, the code. training and flops
    (of one network evaluation of one image) are handed on.

    Where several ranks call it, they share the drawing; rank 0 does the rest and returns the scores, the others None.
    Raises ValueError if the model, the data and the features do not belong together, or the weights do not exist.
    """
    data.prepare()
    _check(model, data, features)
    progress = progress or (lambda stage, done, total: None)
    scores = Scores()
    reference = Reference(data, features.to(model.device).eval(), cache_dir, model.device, progress)
    with model.use_weights(settings.weights), _evaluating(model):
        drawn = _draw(model, reference, settings, cache_dir, identity, progress, anew)
        if drawn is None:
            return None
        _score_samples(scores, drawn, reference, settings)
        if len(data.shape) == 3:
            scores.interpolation = interpolation(model, settings.seed)
            scores.reconstructions = reconstructions(model, data)
        _score_likelihood(scores, model, data, settings, progress)
    _score_cost(scores, model, drawn, training, flops)
    scores.protocol |= {
        "data": {"name": data.name, "identity": data.identity, "shape": list(data.shape)},
        "features": {"name": features.name, "identity": features.identity},
        "weights": settings.weights,
        "model": model.protocol(),
        "versions": versions(),
    }
    return scores


def _draw(
    model: GenerativeModel,
    reference: Reference,
    settings: Evaluation,
    cache_dir: Path,
    identity: str,
    progress: Progress,
    anew: bool,
) -> Drawn | None:
    """The samples that the settings ask for, of the weights that the model has now."""
    data, features = reference.data, reference.features
    prior = reference.class_prior(settings.reference_split) if model.num_classes is not None else None
    stream = Stream(settings.seed, settings.batch_size, data.num_levels, prior)
    decisive = {
        "model": identity,
        "weights": digest(model.state_dict()),
        "sampling": model.sampling_protocol(),
        "seed": stream.seed,
        "batch_size": stream.batch_size,
        "num_levels": stream.num_levels,
        "class_prior": None if prior is None else prior.tolist(),
        "features": features.identity,
    }
    store = SampleStore(cache_dir / "samples", decisive)
    return draw_once(model, features, stream, settings.resolve_num_samples(data.num_test), store, progress, anew)


def _score_samples(scores: Scores, drawn: Drawn, reference: Reference, settings: Evaluation) -> None:
    """Fréchet distance and its floor, kernel distance, precision, recall, and what drawing the samples took."""
    data, features, split = reference.data, reference.features, settings.reference_split
    num_samples = len(drawn.features)
    scores.samples = drawn.images

    real = reference.moments(split)
    num_held_out = data.num_test if settings.held_out_split == "test" else data.num_train
    floor_images = min(num_samples, num_held_out)
    distance = features.metric_name
    scores.measure([distance], lambda: (frechet_distance(drawn.moments(reference.device), real),))
    scores.measure(
        [f"{distance}_floor"],
        lambda: (frechet_distance(reference.moments(settings.held_out_split, floor_images), real),),
    )

    some_real = reference.vectors(split, settings.reference_features)
    subset_size = min(settings.kid_subset_size, num_samples, len(some_real))
    kernel = "k" + distance[1:]  # "fd_…" -> "kd_…", and only where the distance is a "fid" is this a "kid"
    scores.measure(
        [kernel],
        lambda: (kernel_distance(drawn.vectors(), some_real, settings.kid_subsets, subset_size, settings.seed),),
    )
    # As many real images as samples: a manifold of more points is larger, and would favour one side.
    as_many = some_real[evenly_spaced(len(some_real), min(num_samples, len(some_real)))]
    scores.measure(["precision", "recall"], lambda: precision_recall(drawn.vectors(), as_many, settings.neighbours))
    if drawn.stream.class_prior is not None:
        _score_classes(scores, drawn, reference, split)
    taken_for = features.classes(drawn.features.to(reference.device))
    if taken_for is not None:
        names = ["classes_present", "class_entropy"]
        scores.measure(names, lambda: class_coverage(drawn.finite(taken_for)))
        present, entropy = class_coverage(features.classes(some_real.to(reference.device)))
        scores.protocol["class_coverage"] = {"reference_present": present, "reference_entropy": entropy}
    logits = features.class_logits(drawn.features.to(reference.device))
    if logits is not None:
        names = ["inception_score", "inception_score_std"]
        scores.measure(names, lambda: inception_score(drawn.finite(logits), settings.seed))
        scores.protocol["inception_score"] = {"num_parts": INCEPTION_SCORE_PARTS}

    scores.protocol |= {
        "samples": {
            "num_images": num_samples,
            "seed": settings.seed,
            "num_levels": data.num_levels,
            "labels": "none"
            if drawn.stream.class_prior is None
            else f"drawn from the shares of the classes in {split}",
        },
        "reference": {"split": split, "num_images": int(real.n)},
        "floor": {"split": settings.held_out_split, "num_images": floor_images},
        "kernel_distance": {
            "kernel": "(x·y/D + 1)³",
            "num_subsets": settings.kid_subsets,
            "subset_size": subset_size,
            "num_reference": len(some_real),
        },
        "precision_recall": {"neighbours": settings.neighbours, "num_reference": len(as_many)},
    }


def _score_classes(scores: Scores, drawn: Drawn, reference: Reference, split: str) -> None:
    """Are the samples of the classes that they were asked for, and how good is each class?"""
    features, distance = reference.features, reference.features.metric_name
    y = labels(torch.arange(len(drawn.features)), drawn.stream.seed, drawn.stream.class_prior)
    scores.measure([f"accuracy_{features.name}"], lambda: (class_accuracy(features, drawn.vectors(), y),))
    try:
        by_class = class_distances(drawn.vectors(), y, reference, split)
    except UnmeasurableError as error:
        scores.protocol["absent"][f"{distance} by class"] = str(error)
        return
    scores.curves["classes"] = {
        "class": by_class.classes,
        distance: by_class.distances,
        "num_samples": by_class.num_samples,
        "num_reference": by_class.num_reference,
    }


def _score_likelihood(
    scores: Scores, model: GenerativeModel, data: DataModule, settings: Evaluation, progress: Progress
) -> None:
    likelihood = score_likelihood(model, data, settings.bound, settings.seed, progress)
    if likelihood is None:
        scores.record("bits_per_dim", None, "this model states no likelihood")
        return
    scores.record("bits_per_dim", likelihood.bits_per_dim)
    scores.record("bits_per_dim_standard_error", likelihood.standard_error)
    scores.record("bits_per_dim_noise_error", likelihood.noise_error, "needs evaluation.bound.num_draws ≥ 2")
    for name, value in (likelihood.parts | likelihood.beside).items():
        scores.record(f"bits_per_dim_{name}", value)
    if likelihood.curve:
        scores.curves["bits_per_dim"] = likelihood.curve
    scores.protocol["bound"] = {
        "kind": likelihood.kind,
        "split": "test",
        **asdict(settings.bound),
        "num_images": likelihood.num_images,
        "num_terms": max((len(entry) for entry in likelihood.curve.values()), default=None),
        "seed": settings.seed,
    }


def _score_cost(
    scores: Scores, model: GenerativeModel, drawn: Drawn, training: TrainingCost | None, flops: int | None
) -> None:
    """What the model takes: as it was written down when the samples were drawn, be it now or earlier."""
    scores.measure(["seconds_per_1000_samples"], lambda: (drawn.seconds_per_1000(),))
    cost = drawn.cost_protocol()
    scores.record("peak_memory_mib", drawn.peak_memory_mib(), cost["peak_memory"])
    scores.protocol["cost"] = cost
    scores.record("parameters", num_parameters(model))
    scores.record("nfe", drawn.nfe)
    if training is not None:
        scores.record("training_steps", training.steps)
        scores.record("training_seconds", training.seconds)
        scores.record("training_images", training.images)
    if flops is not None:
        scores.record("flops_per_sample", flops * drawn.nfe)


def _check(model: GenerativeModel, data: DataModule, features: Features) -> None:
    """One sentence for what does not belong together."""
    if tuple(model.shape) != tuple(data.shape):
        raise ValueError(f"the model draws {tuple(model.shape)}, the data set {data.name} has {tuple(data.shape)}")
    if model.num_classes not in (None, data.num_classes):
        raise ValueError(
            f"the model knows {model.num_classes} classes, the data set {data.name} has {data.num_classes}"
        )
    features.check(data.shape)


@contextmanager
def _evaluating(model: GenerativeModel) -> Iterator[None]:
    """Evaluation mode (no dropout) inside the block."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
