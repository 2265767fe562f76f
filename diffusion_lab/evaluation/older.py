"""A config that older code saved, upgraded: where options and classes went, and what was measured before that."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from diffusion_lab.evaluation import metrics
from diffusion_lab.evaluation.described import BEFORE

_BOUND = "diffusion_lab.evaluation.settings.Bound"
_OF_BOUND = ("num_images", "batch_size", "max_terms", "num_draws")
_OF_METRICS = {
    "kid_subsets": ("kernel_distance", "num_subsets"),
    "kid_subset_size": ("kernel_distance", "subset_size"),
    "neighbours": ("precision_recall", "neighbours"),
}
# Dotted option -> where it is now.
MOVED = {
    "evaluation.reference_split": "evaluation.reference",
    **{f"evaluation.{old}": f"metrics.{metric}.{new}" for old, (metric, new) in _OF_METRICS.items()},
    **{f"evaluation.bound.{name}": f"metrics.bits_per_dim.{name}" for name in _OF_BOUND},
    **{f"features.{name}": f"features.inception.{name}" for name in ("path", "download", "sha256")},
}

# Groups that a diffusion model did not have, with what stood in their place.
_DIFFUSION = "diffusion_lab.models.diffusion.DiffusionModel"
_SINCE = {
    "rounding": {"_target_": "diffusion_lab.diffusion.NearestLevel"},
    "start": {"_target_": "diffusion_lab.diffusion.NoiseStart"},
    "bound": {"num_steps": 50},
}
# Classes that a guidance names -> where they are now.
_CLASSIFIER = "diffusion_lab.from_config.classifier.TrainedClassifierGuidance"
_CLASSES = {
    "diffusion_lab.commands.classifier.classifier_guidance": _CLASSIFIER,
    "diffusion_lab.commands.classifier.TrainedClassifierGuidance": _CLASSIFIER,
    **{
        f"diffusion_lab.commands.worse.{name}": f"diffusion_lab.from_config.worse.{name}"
        for name in ("TrainedAutoguidance", "TrainedWorse")
    },
}


def upgraded(config: Mapping[str, Any]) -> dict[str, Any]:
    """Plain containers of a file with older names replaced; everything else stays the same."""
    config = dict(config)
    features, evaluation = config.get("features"), config.get("evaluation")
    if isinstance(features, Mapping) and "_target_" in features:
        config["features"] = {_name(features): features}
    if isinstance(evaluation, Mapping) and "metrics" not in config:
        config["evaluation"], config["metrics"] = _split_evaluation(evaluation)
    evaluation = config.get("evaluation")
    if isinstance(evaluation, Mapping) and "reference_split" in evaluation:
        left = {name: value for name, value in evaluation.items() if name != "reference_split"}
        config["evaluation"] = {**left, "reference": evaluation["reference_split"]}
    if isinstance(config.get("guidance"), Mapping):
        config["guidance"] = _with_classes(config["guidance"])
    if config.get("labels") is not None and config.get("conditional") is True:
        config["conditional"] = False  # a model on clusters was called conditional
    model = config.get("model")
    if isinstance(model, Mapping) and model.get("_target_") == _DIFFUSION:
        if isinstance(config.get("facts"), Mapping):
            config["facts"] = {"end_shares": None, **config["facts"]}
        for group, part in _SINCE.items():
            config.setdefault(group, part)
        config["model"] = {"rounding": "${rounding}", "start": "${start}", "bound_steps": "${bound.num_steps}", **model}
    return config


def _with_classes(guidance: Mapping[str, Any]) -> dict[str, Any]:
    """A guidance, and the worse model that it names, with the classes of today."""
    found = dict(guidance)
    target = found.get("_target_")
    if isinstance(target, str):
        found["_target_"] = _CLASSES.get(target, target)
    if isinstance(found.get("worse"), Mapping):
        found["worse"] = _with_classes(found["worse"])
    return found


def _name(features: Mapping[str, Any]) -> str:
    """What a choice of features is called in conf/features."""
    kind = str(features["_target_"]).rpartition(".")[2]
    known = {"Pixels": "pixels", "InceptionFeatures": "inception"}.get(kind, features.get("name"))
    return known if isinstance(known, str) and re.fullmatch(r"[A-Za-z]\w*", known) else "mine"


def _split_evaluation(evaluation: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is left to `evaluation`, and the metrics with the options that stood there."""
    measured = {name: {"_target_": f"{metrics.__name__}.{type(m).__name__}", **asdict(m)} for name, m in BEFORE.items()}
    left = dict(evaluation)
    for old, (metric, new) in _OF_METRICS.items():
        if old in left:
            measured[metric][new] = left.pop(old)
    bound = left.get("bound")
    if isinstance(bound, Mapping) and bound.get("_target_") == _BOUND and bound.keys() <= {"_target_", *_OF_BOUND}:
        measured["bits_per_dim"] |= {name: value for name, value in bound.items() if name != "_target_"}
        del left["bound"]
    return left, measured
