"""Image metrics of torchmetrics, each a column by its yaml alone. The signature of `update` determines the input of each.

    update(imgs, real)       two sets of images: all samples, and all real images of the reference         FID, KID, MiFID
    update(imgs)             all samples                                                                    Inception score
    update(preds, target)    pairs: held-out images, and a sample drawn for the condition of each           SSIM, PSNR, LPIPS

Images have three channels, grey ones repeated, and the size of the data; a metric resizes them itself. Sets of images are uint8
in 0 … 255 for a metric with normalize=False, else float32 in [0, 1], on the same 256 levels. Pairs are float32 in [0, 1], or in
[−1, 1] for a metric with normalize=False (LPIPS). What `compute` draws, such as subsets, depends on evaluation.seed.
"""

from __future__ import annotations

import inspect
import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, get_type_hints

import torch
import torchmetrics
from torch import Tensor

from diffusion_lab.diffusion.levels import to_levels
from diffusion_lab.metrics.metric import Metric, Naming, Need, Scores, Subject
from diffusion_lab.metrics.reference import BATCH_SIZE, UnmeasurableError, quantise
from diffusion_lab.store.measures import HIGH, LOW, Measure


def column(name: str, metric: torchmetrics.Metric, arguments: Mapping[str, Any]) -> TorchMetric:
    """`metric` as the column `name`. ValueError if `update` takes anything but images.

    arguments: of its class, for the protocol.
    """
    update = type(metric).update
    parameters = [*inspect.signature(update).parameters.values()][1:]
    needed = [part.name for part in parameters if part.default is part.empty and part.kind is not part.VAR_KEYWORD]
    images, hints = [part for part in needed if part != "real"], get_type_hints(update)
    kinds: dict[tuple[int, bool], type[TorchMetric]] = {(1, True): OfSets, (1, False): OfSamples, (2, False): OfPairs}
    kind = kinds.get((len(images), "real" in needed))
    if kind is None or any(hints.get(part, Tensor) is not Tensor for part in images):
        takes = ", ".join(needed) or "nothing"
        raise ValueError(f"metrics.{name}: {type(metric).__name__}.update takes {takes}: choose a metric of images")
    if not re.fullmatch(r"\w+", name):
        raise ValueError(f"metrics.{name}: use letters, digits and _ in the name of a column")
    return kind(name, metric, arguments)


@dataclass(frozen=True, eq=False)
class TorchMetric(Metric):
    """The value of torchmetrics' `compute` as the column `name`; of two values, the second as `name`_std, a standard deviation."""

    agrees: ClassVar[tuple[str, ...]]

    name: str
    metric: torchmetrics.Metric
    arguments: Mapping[str, Any]

    @abstractmethod
    def feed(self, metric: torchmetrics.Metric, subject: Subject) -> dict[str, Any]:
        """Update `metric` in batches; returns entries of the protocol on the images used."""

    def measures(self, namings: Sequence[Naming]) -> Iterable[Measure]:
        better = {True: HIGH, False: LOW, None: None}[self.metric.higher_is_better]
        meaning = f"{type(self.metric).__name__} of torchmetrics"
        yield Measure(self.name, self.name, "", better, meaning, (*self.agrees, self.name), decimals=4)

    def score(self, subject: Subject) -> Scores:
        data, kind = subject.data, type(self.metric)
        if len(data.shape) != 3 or data.num_levels is None:
            raise UnmeasurableError("reads images with grey levels and two axes")
        device = torch.device(subject.views[0].device)
        metric = self.metric.clone().to(device).eval()
        for part in metric.modules():
            if isinstance(part, torchmetrics.Metric):
                part.distributed_available_fn = None  # only rank 0 scores
        try:
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                torch.manual_seed(subject.settings.seed)
                about = self.feed(metric, subject)
                computed = metric.compute()
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError) as error:  # such as too few images for a subset
            raise UnmeasurableError(" ".join(str(error).split())) from error
        values = computed if isinstance(computed, tuple) else (computed,)
        if len(values) > 2 or not all(isinstance(value, Tensor) and value.numel() == 1 for value in values):
            raise UnmeasurableError(f"{kind.__name__}.compute returns more than a number and its standard deviation")
        scores = Scores()
        for name, value in zip((self.name, f"{self.name}_std"), values, strict=False):
            scores.record(name, float(value))
        made = {"class": f"{kind.__module__}.{kind.__qualname__}", "arguments": dict(self.arguments)}
        scores.protocol[self.name] = {**made, "torchmetrics": torchmetrics.__version__, **about}
        scores.details[self.name] = f"by torchmetrics {torchmetrics.__version__}; n = {about['num_images']}"
        return scores

    def shown(self, x: Tensor) -> Tensor:
        """Samples or real images x (B, C, H, W) in [−1, 1] in the form of a set of images."""
        levels = _coloured(to_levels(x, 256))
        return levels if self._raw else levels / 255

    @property
    def _raw(self) -> bool:
        return getattr(self.metric, "normalize", None) is False


class OfSamples(TorchMetric):
    """A number of the samples alone."""

    needs: ClassVar[tuple[Need, ...]] = (Need.IMAGES,)
    agrees: ClassVar[tuple[str, ...]] = ("data", "samples")

    def feed(self, metric: torchmetrics.Metric, subject: Subject) -> dict[str, Any]:
        return self._feed_samples(metric, subject)

    def _feed_samples(self, metric: torchmetrics.Metric, subject: Subject, **which: bool) -> dict[str, Any]:
        images = subject.drawn.finite(subject.drawn.images)
        for done, x in enumerate(images.split(BATCH_SIZE)):
            metric.update(self.shown(x).to(metric.device), **which)
            subject.progress(f"{self.name} of samples", min((done + 1) * BATCH_SIZE, len(images)), len(images))
        return {"num_images": len(images)}


class OfSets(OfSamples):
    """A distance between the samples and all real images of the reference."""

    needs = (Need.IMAGES, Need.REAL_IMAGES)
    agrees = ("data", "samples", "reference")

    def feed(self, metric: torchmetrics.Metric, subject: Subject) -> dict[str, Any]:
        done, size = 0, subject.data.size(subject.settings.reference)
        for x, _ in subject.data.batches(subject.settings.reference, BATCH_SIZE):
            metric.update(self.shown(x).to(metric.device), real=True)
            done += len(x)
            subject.progress(f"{self.name} of real images", done, size)
        return self._feed_samples(metric, subject, real=False) | {"num_reference": size}


class OfPairs(TorchMetric):
    """A comparison of held-out images, as many as samples, with one sample each, drawn for its condition."""

    needs = (Need.GENERATOR, Need.TRUTH)
    agrees = ("data",)

    def feed(self, metric: torchmetrics.Metric, subject: Subject) -> dict[str, Any]:
        data, settings, done = subject.data, subject.settings, 0
        split, most = settings.unseen_split, settings.resolve_num_samples(data)
        for x_0, y, indices in subject.batches(split, settings.batch_size, most, f"{self.name} of {split} images"):
            drawn = subject.generator.sample(indices, settings.seed, y)
            if not drawn.isfinite().all():
                raise UnmeasurableError("samples are not finite")
            metric.update(*(self._beside(x) for x in (quantise(drawn, data.num_levels), x_0)))
            done += len(x_0)
        return {"split": split, "num_images": done}

    def _beside(self, x: Tensor) -> Tensor:
        x = _coloured(x)
        return x if self._raw else (x + 1) / 2


def _coloured(x: Tensor) -> Tensor:
    """(B, C, H, W) with three channels; grey images are repeated in each."""
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
