"""What makes two trainings the same. Imports no torch.

The fingerprint is that of everything that shapes training and of nothing else: the training part of the resolved config, the
data set's identity, and a digest of the code that trains. So the same command finds its model again.

The code is that of whole modules (see `imports`): of the classes that the config names, of what every training uses besides, and of
all that these import, in the packages of the lab that train. What only samples, scores, watches or shows is left out, unless the
config or a module of the user names it: an edit there retrains nothing. A score counts the same packages, sampling and metrics.
Installed packages count by name only: their versions are recorded with the model, and another one retrains nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from diffusion_lab.conf_dir import CONF
from diffusion_lab.store.imports import LAB, Scope

# What may be chosen after training.
SCORING_GROUPS = (
    "sampler",
    "guidance",
    "rounding",
    "start",
    "decoder",
    "bound",
    "sampling",
    "evaluation",
    "features",
    "metrics",
    "measured_variance",  # what variance=analytic names
)
SCORED_GROUPS = (*SCORING_GROUPS, "variance")  # which may too where it did not shape training
# Keys of the resolved config that do not shape the weights, with everything below them; all other keys do.
# fmt: off
TRAINING_EXCLUDED = frozenset((
    *SCORING_GROUPS,
    # what is watched and kept while training
    "logger", "checkpoint", "progress", "snapshots",
    "trainer.enable_progress_bar", "trainer.enable_model_summary", "trainer.profiler", "trainer.detect_anomaly",
    "trainer.num_sanity_val_steps", "trainer.limit_val_batches", "trainer.inference_mode",
    # where files lie: the identity of the data set, and of weights that training starts from, is that of their content
    "model_dir", "init_from", "init_weights", "branch_from",
    "outputs", "paths", "data.root", "data.path", "data.train", "data.test", "data.train_labels", "data.test_labels",
    "data.download",
    # they choose files and validation images; the identity is that of the images that remain
    "data.on_error", "data.max_pixels", "data.max_bytes", "data.validation",
    # options of the command
    "retrain", "rescore", "score", "objective_metric", "tags", "sweep",
    # on which machine, how fast: randomness is keyed for the global batch, so these change rounding only
    "compile", "workers", "data.num_workers",
    "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.benchmark", "trainer.deterministic",
))
# Code: packages and modules of the lab. Files, locks, callbacks that watch, and what only talks to the user change no number.
_TRAINS = frozenset(("baselines", "data", "diffusion", "models", "networks"))
_ONLY_AFTER_TRAINING = frozenset((
    "diffusion.advice", "diffusion.analytic", "diffusion.chain_bounds", "diffusion.denoising", "diffusion.guidance",
    "diffusion.inpainting", "diffusion.interpolation", "diffusion.optimal_spacing", "diffusion.rounding", "diffusion.samplers",
    "diffusion.solvers", "diffusion.spacings", "diffusion.starts", "diffusion.step_costs",
    "models.bound", "models.drawn", "models.measured",
))
_SCORES = _TRAINS | {"metrics", "store.measures"}


def _lab(*modules: str) -> frozenset[str]:
    return frozenset(f"{LAB}.{module}" for module in modules)


# The weights that are scored, and what is measured for them before they draw.
_LOADED = _lab(
    "training.profiles", "config.heads", "config.measured", "config.loading", "config.weights"
)
TRAINING = Scope(_TRAINS, _ONLY_AFTER_TRAINING, _lab(
    "training.ema", "training.finite", "training.profiles", "training.snapshots", "training.trainer",
    "commands.fit", "commands.train", "config.build", "config.started", "config.trainer",
))
SCORING = Scope(_SCORES, roots=_LOADED | _lab("training.ema", "config.build", "metrics.score", "metrics.trained"))
GIVEN = Scope(_SCORES, roots=_lab("config.build", "metrics.score", "metrics.given"))  # images that no model draws
# The samples of a score. `measuring` imports one function of `metrics.trained`, which imports everything that scores.
DRAWING = Scope(_SCORES, frozenset(("metrics.trained",)), _LOADED | _lab("metrics.cached_samples"))
MEASURING = Scope(_SCORES, roots=_LOADED | _lab("metrics.measuring"))  # the statistics of a network
# fmt: on
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
# Callbacks that watch and keep; others are the user's, and may do anything to a training.
OUR_CALLBACKS = tuple(yaml.safe_load((CONF / "callbacks" / "default.yaml").read_text(encoding="utf-8")))
# What only such a callback can act on: when it looks, and at what.
_SEEN_BY_CALLBACKS = frozenset(("val", "trainer.log_every_n_steps", "trainer.limit_val_batches"))


def training_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved config (plain containers) without the keys that do not shape training.

    Callbacks that the user adds, or puts in the place of one of ours, count, and with them the validation and the logging that they
    may look at; ours do not.
    """
    callbacks = {name: node for name, node in (config.get("callbacks") or {}).items() if node is not None}
    added = {name for name, node in callbacks.items() if not (name in OUR_CALLBACKS and _is_ours(node))}
    excluded = TRAINING_EXCLUDED | {f"callbacks.{name}" for name in config.get("callbacks") or {} if name not in added}
    excluded = excluded - _SEEN_BY_CALLBACKS if added else excluded | _SEEN_BY_CALLBACKS | {"callbacks"}

    def keep(node: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        return {
            key: keep(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
            for key, value in node.items()
            if f"{prefix}{key}" not in excluded
        }

    return keep(config, "")


def scored_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved config without the keys that shape no score: what was trained, and the choices of scoring."""
    return training_part(config) | {key: config[key] for key in SCORED_GROUPS if config.get(key) is not None}


def _is_ours(callback: Mapping[str, Any]) -> bool:
    return str(callback.get("_target_", "diffusion_lab.")).startswith("diffusion_lab.")


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys whose values differ, or that only one of the two has."""
    changed = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            changed += changed_keys(before, after, f"{prefix}{key}.")
        elif key not in old or key not in new or before != after:
            changed.append(f"{prefix}{key}")
    return changed


def fingerprint(training_config: Mapping[str, Any], data_identity: str, code: str) -> str:
    """64 hex digits; equal for equal trainings. Raises TypeError or ValueError for what JSON cannot hold."""
    content = {"config": training_config, "data": data_identity, "code": code}
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def canonical_json(content: Any) -> str:
    """One text for one content: keys sorted, no spaces, floats in their shortest exact form (Python's repr)."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=True)


def named_in(config: Any) -> Iterator[str]:
    """Every dotted name below a node of a config: a `_target_`, and what may be handed to one by name."""
    if isinstance(config, Mapping):
        config = list(config.values())
    if isinstance(config, list | tuple):
        for child in config:
            yield from named_in(child)
    elif isinstance(config, str) and _DOTTED.fullmatch(config):
        yield config
