"""The callbacks that the user adds: found among ours, built, and refused where they could never do what they are for."""

from __future__ import annotations

from typing import Any

from hydra.utils import instantiate
from lightning import Callback
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BasePredictionWriter,
    EarlyStopping,
    GradientAccumulationScheduler,
    StochasticWeightAveraging,
)
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from omegaconf import DictConfig

from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.models.trainable import TrainableModel
from diffusion_lab.store.fingerprints import OUR_CALLBACKS
from diffusion_lab.training.monitor import MEASURED

_NEEDED = ("finite", "monitor", "checkpoint")
_NEVER = (BaseFinetuning, BasePredictionWriter, GradientAccumulationScheduler, StochasticWeightAveraging)

Added = dict[str, Callback]  # by its key in cfg.callbacks, in the user's order


def added_callbacks(cfg: DictConfig) -> Added:
    """Every callback of the config that is not one of ours. MistakeError for what is no callback, or if one of ours is missing."""
    callbacks = cfg.get("callbacks") or {}
    missing = [name for name in _NEEDED if callbacks.get(name) is None]
    if missing:
        raise MistakeError(
            f"callbacks: training needs {', '.join(missing)}; add yours to the default ones: callbacks=[default,mine]"
        )
    added = {}
    for name, node in callbacks.items():
        if name in OUR_CALLBACKS or node is None:
            continue
        built = instantiate(node)
        if not isinstance(built, Callback):
            raise MistakeError(
                f"callbacks.{name} is not a Lightning callback: its _target_ must name a subclass of Callback"
            )
        added[name] = built
    return added


def ours(cfg: DictConfig, name: str, **more: Any) -> list[Callback]:
    """Our callback of this name, with the arguments that only a training has; none where the user leaves it out."""
    node = cfg.callbacks.get(name)
    if node is None:
        return []
    return [instantiate(node)(**more) if more else instantiate(node)]


def check_callbacks(added: Added, cfg: DictConfig, model: TrainableModel) -> None:
    """MistakeError, in one sentence, for a callback that could never fire because of the value it monitors or when it checks."""
    if not added:
        return
    first_logged = _first_logged(cfg, model)
    # A callback of the user's own may log whatever it likes, so that another may wait for it.
    known_alone = all(type(part).__module__.partition(".")[0] == "lightning" for part in added.values())
    for name, part in added.items():
        where = f"callbacks.{name}"
        if isinstance(part, _NEVER) or cfg.callbacks[name].get("check_on_train_epoch_end"):
            raise MistakeError(
                f"{where} waits for the end of an epoch or for predictions, but training here is one endless epoch: "
                "remove it, or use a callback that counts steps"
            )
        monitor = getattr(part, "monitor", None)
        if not isinstance(monitor, str):
            continue
        if monitor not in first_logged and known_alone:
            raise MistakeError(
                f"{where}.monitor={monitor} is never logged, so it has no effect; choose one of {', '.join(first_logged)}"
            )
        if isinstance(part, EarlyStopping):
            _check_early_stopping(where, monitor, first_logged.get(monitor, 1), cfg)
        first = first_logged.get(monitor, 1)
        if 0 < cfg.trainer.max_steps < first:
            raise MistakeError(
                f"{where}.monitor={monitor} is first logged at step {first}, after trainer.max_steps={cfg.trainer.max_steps}: "
                "log it more often (val.every_n_steps, trainer.log_every_n_steps)"
            )


def stopping_callbacks(added: Added) -> str:
    """Which of the added callbacks ended training, as a key of the config; all that may have, if none reports it."""
    reasons = {name: getattr(part, "stopping_reason", None) for name, part in added.items()}
    known = [name for name, reason in reasons.items() if reason not in (None, EarlyStoppingReason.NOT_STOPPED)]
    return " or ".join(f"callbacks.{name}" for name in known or added)


def _check_early_stopping(where: str, monitor: str, first: int, cfg: DictConfig) -> None:
    """It runs after each validation, and by then its metric must have been logged."""
    every = cfg.val.every_n_steps
    if every < 1:
        raise MistakeError(f"{where} runs after each validation, but val.every_n_steps={every} turns validation off")
    if first > every:
        raise MistakeError(
            f"{where}.monitor={monitor} is first logged at step {first}, after the validation at step {every}: "
            "use val.every_n_steps of at least trainer.log_every_n_steps"
        )


def _first_logged(cfg: DictConfig, model: TrainableModel) -> dict[str, int]:
    """Name -> the first step at which it is logged."""
    held_out = [f"val/{name}" for name in model.term_names] if cfg.val.every_n_steps > 0 else []
    trained = [f"train/{name}" for name in (*model.term_names, *model.sum_names, *MEASURED)]
    return dict.fromkeys(held_out, cfg.val.every_n_steps) | dict.fromkeys(trained, cfg.trainer.log_every_n_steps)
