"""evaluation.at: from the moments that are to be scored to what training keeps, to a config for each score, and to its cost."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from safetensors import SafetensorError, safe_open

from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.store import ModelDirectory
from diffusion_lab.store.records import RunError, inside
from diffusion_lab.store.weights import IMAGES, SECONDS, STEPS, Moment, read_moment, snapshot_name

END = "end"  # the finished model
_AUTO = "auto"
_LARGEST = 2**63


def requested_scores(cfg: DictConfig) -> list[DictConfig]:
    """One copy of `cfg` for each moment of evaluation.at, with its evaluation.weights; `cfg` alone if no moment is named.

    evaluation.weights picks one of them. MistakeError for what is no moment.
    """
    wanted, weights = requested_weights(cfg.evaluation.get("at")), cfg.evaluation.weights
    if wanted and weights not in (_AUTO, *wanted):
        raise MistakeError(
            f"evaluation.weights={weights}: evaluation.at already chooses the weights ({', '.join(wanted)}); "
            "remove one of the two"
        )
    return [_with_weights(cfg, name) for name in ([weights] if weights != _AUTO else wanted or [_AUTO])]


def add_scored_moments(cfg: DictConfig) -> None:
    """Put the moments of evaluation.at into snapshots.at. MistakeError for what training cannot keep: a moment after its end."""
    kept, scored_at = (
        moments_of("snapshots.at", cfg.snapshots.at),
        moments_of("evaluation.at", cfg.evaluation.get("at") or []),
    )
    branches = moments_of("snapshots.branches", cfg.snapshots.branches)
    for option, moments in (("snapshots.at", kept), ("evaluation.at", scored_at), ("snapshots.branches", branches)):
        for moment in moments:
            ends = _end(cfg, moment)
            if ends is not None:
                raise MistakeError(f"{option}: training ends before {moment} ({ends}); remove it, or train for longer")
    new = [moment for moment in dict.fromkeys(scored_at) if moment not in kept]
    with open_dict(cfg):
        cfg.snapshots.at = [*cfg.snapshots.at, *map(_written, new)]


def kept_weights(cfg: DictConfig) -> list[str]:
    """Names of the weights of earlier moments that a training will have."""
    return list(map(snapshot_name, moments_of("snapshots.at", cfg.snapshots.at)))


def requested_weights(at: Sequence[Any] | None) -> list[str]:
    """[1m, end] -> ["at_1m", "end"]. MistakeError for what is not a moment, and for a moment that is listed twice."""
    ends = [END] if END in (at or ()) else []
    names = [*map(snapshot_name, moments_of("evaluation.at", at or ())), *ends]
    if len(set(names)) < len(at or ()):
        raise MistakeError(f"evaluation.at={list(at or ())}: remove the repeated moment")
    return names


def read_training_progress(
    directory: ModelDirectory, weights: str, facts: Sequence[str] = ("step", "seconds", "images")
) -> dict[str, float]:
    """What training had taken when these weights of an earlier moment were written. Files of kept averages record only the step.

    RunError if the file is damaged or lacks one of these facts.
    """
    file = inside(directory.path, directory.weights(weights))
    try:
        with safe_open(file, "np") as content:
            metadata = content.metadata() or {}
        found = {name: float(metadata.get(name, "nan")) for name in facts}
    except (OSError, SafetensorError, ValueError) as error:
        raise RunError(f"{file} is not a file of weights: {' '.join(str(error).split())}") from None
    if not all(0 <= number < _LARGEST for number in found.values()):
        raise RunError(f"{file} does not say when in training it was written")
    return found


def _with_weights(cfg: DictConfig, name: str) -> DictConfig:
    one = copy.deepcopy(cfg)
    with open_dict(one):
        one.evaluation.at = None
        one.evaluation.weights = _AUTO if name == END else name
    return one


def moments_of(option: str, at: Iterable[Any]) -> list[Moment]:
    """The moments that an option lists. MistakeError, naming the option, for what is none."""
    try:
        return [read_moment(written) for written in at if not (written == END and option == "evaluation.at")]
    except ValueError as error:
        raise MistakeError(f"{option}={OmegaConf.to_object(OmegaConf.create(list(at)))}: {error}") from None


def _written(moment: Moment) -> float | str:
    return str(moment) if moment.unit in (SECONDS, STEPS, IMAGES) else moment.amount


def _end(cfg: DictConfig, moment: Moment) -> str | None:
    """The option that ends training before a moment, as far as that is known beforehand."""
    from diffusion_lab.models.budget import seconds_of

    steps, time = cfg.trainer.max_steps, cfg.trainer.get("max_time")
    if time is not None and moment.unit == SECONDS and moment.amount > seconds_of(time):
        return f"trainer.max_time={time}"
    batch = cfg.data.batch_size * cfg.trainer.get("accumulate_grad_batches", 1)
    needed = {STEPS: moment.amount, IMAGES: moment.amount / max(batch, 1)}.get(moment.unit, 0)
    return f"trainer.max_steps={steps}" if 0 < steps < needed else None
