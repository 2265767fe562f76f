"""Scores of given images: the images, and the data or statistics to compare them with."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.config.build import build_data
from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.config.naming import features_by_content, name_of, plain_config
from diffusion_lab.config.overrides import as_plain
from diffusion_lab.config.scores import PlannedScore, build_features, build_metrics, scored_choices
from diffusion_lab.data.in_memory import OneSet
from diffusion_lab.data.module import DataModule
from diffusion_lab.interop.given_images import Images, differences, levels, read_images
from diffusion_lab.interop.given_statistics import read_reference
from diffusion_lab.metrics.features import Features
from diffusion_lab.metrics.given import GivenImages
from diffusion_lab.metrics.reference import Moments
from diffusion_lab.metrics.score import ScorePlan
from diffusion_lab.store import FINGERPRINT_LENGTH, RunDirectory, cache_directory, run_directory
from diffusion_lab.store.own_files import users_files
from diffusion_lab.training.devices import DeviceRequest
from diffusion_lab.training.ranks import device_of

_RECORDED = ("samples", "reference", "image_size", "data", "features", "metrics", "evaluation", "logger", "seed")
_LONGEST_NAME = 60


def given_score(cfg: DictConfig, request: DeviceRequest) -> PlannedScore:
    """The score of given images. MistakeError or ValueError, in one sentence, for what cannot be scored."""
    kept = OmegaConf.masked_copy(cfg, [key for key in _RECORDED if cfg.get(key) is not None])
    if "_target_" not in kept.data:
        if kept.data.get("validation"):
            raise MistakeError("data.validation has no effect without data=…: remove it")
        del kept["data"]
    if ("data" in kept) == ("reference" in kept):
        raise MistakeError("samples=…: set reference=… (a file, or a folder) or data=…, to compare them with")
    features, published, size = build_features(kept), None, as_plain(kept).get("image_size")
    if "data" in kept:
        data: DataModule = build_data(kept)
        images = read_images(Path(cfg.samples), data.shape, size)
    else:
        images = read_images(Path(cfg.samples), size=size)
        data, published = _reference(kept, images)
    if len(data.shape) != 3 or data.num_levels is None:
        raise MistakeError(f"samples=…: {data.name} has no images of grey levels to compare them with")
    if published:
        _check_dimensions(features, published, data.shape, kept.reference)
    fitted = levels(images, data.shape, data.num_levels, data.name)
    shown = OneSet(
        _name(images.name), fitted, data.num_levels, f"{images.digest} {tuple(data.shape)} {data.num_levels}"
    )
    about = {"name": shown.name, "digest": images.digest, "shape": list(images.shape)}
    about |= {} if size is None else {"read_as": images.read_as}
    said = differences(images, fitted, data.num_levels, data.name)
    outputs, store = Path(cfg.outputs), cache_directory(Path(cfg.outputs), since=time.time() if cfg.rescore else 0.0)
    source = GivenImages(shown, images.labels, about, store, device_of(request), said, published)
    source.check(data)
    read = {"samples": images.digest, "reference": data.identity}
    plan = ScorePlan(
        source, data, [*features.values()], build_metrics(kept), instantiate(kept.evaluation), {"read": read}
    )
    read_as = f"; {images.read_as}" if images.read_as else ""
    line = f"samples  {cfg.samples}  ({source.count} images{read_as})"
    if "test_fraction" in kept.get("data", {}) and kept.evaluation.reference == "train":
        line += f"\nreference={kept.data.root} compares with all its images; data=… leaves some out, as for a model trained on them"
    run, choices = _run(kept, data, images, outputs), scored_choices({"model": "given images"})
    return PlannedScore(plan, run, kept, choices, read, cfg.rescore, line)


def _reference(cfg: DictConfig, samples: Images) -> tuple[OneSet, Mapping[str, Moments]]:
    """The images (None where only statistics were published), and the statistics by the suffix of their names."""
    if cfg.evaluation.reference != "train":
        raise MistakeError("evaluation.reference has no effect with reference=…, which has no splits: remove it")
    found = read_reference(Path(cfg.reference), as_plain(cfg).get("image_size"))
    like = samples if found.images is None else found.images
    pixels = torch.empty((0, *like.shape), dtype=torch.uint8)
    if found.images is not None:
        pixels = levels(found.images, like.shape, like.num_levels, found.name)
    data = OneSet(_name(found.name), pixels, like.num_levels, found.digest)
    data.prepare()
    unknown = torch.tensor(torch.nan, dtype=torch.float64)  # the number of images
    return data, {suffix: Moments(unknown, *known) for suffix, known in found.moments.items()}


def _check_dimensions(
    features: Mapping[str, Features], published: Mapping[str, Moments], shape: Sequence[int], reference: str
) -> None:
    for name, part in features.items():
        part.check(shape)  # pixels have a dimension from here on
        names = f"mu{part.moments_suffix} and sigma{part.moments_suffix}"
        if part.moments_suffix not in published:
            raise MistakeError(f"reference={reference} has no {names}, so remove features={name}")
        there = len(published[part.moments_suffix].mean)
        if part.dim != there:
            fix = "; choose features=inception" if there == 2048 else ""
            raise MistakeError(
                f"reference={reference}: its {names} have {there} features, but features={name} has {part.dim}{fix}"
            )


def _run(cfg: DictConfig, data: DataModule, images: Images, outputs: Path) -> RunDirectory:
    plain = plain_config(cfg)
    parts: dict[str, Any] = {key: plain[key] for key in ("data", "features", "metrics", "evaluation") if key in plain}
    parts["features"] = features_by_content(parts["features"])
    labels = "" if images.labels is None else hashlib.sha256(images.labels.numpy().tobytes()).hexdigest()
    made_of = f"{images.digest} {labels} {data.training_identity}"
    asked = {key: parts[key] for key in parts if key != "data"}
    run_id = str(name_of(asked, made_of, users_files(parts, as_plain(cfg, resolve=True))))
    short = [digest[:FINGERPRINT_LENGTH] for digest in (images.digest, run_id)]
    return run_directory(outputs, "-".join([data.name, _name(images.name), *short]))


def _name(name: str) -> str:
    """The text with only characters that are safe in file names and tables."""
    return re.sub(r"[^\w.]+", "_", name, flags=re.ASCII)[-_LONGEST_NAME:]
