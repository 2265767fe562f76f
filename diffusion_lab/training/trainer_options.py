"""Lightning's Trainer for every training: its options, the precision, and checks of callbacks that the user adds."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BasePredictionWriter,
    EarlyStopping,
    GradientAccumulationScheduler,
    StochasticWeightAveraging,
)
from lightning.pytorch.callbacks import ProgressBar as LightningBar
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from diffusion_lab.models.budget import Clock, callback_of
from diffusion_lab.models.trainable import TrainableModel
from diffusion_lab.training.checkpoints import WholeCheckpoints
from diffusion_lab.training.devices import DeviceRequest, auto_precision
from diffusion_lab.training.monitor import MEASURED
from diffusion_lab.training.ranks import cluster_environment
from diffusion_lab.training.record import CSVRecord

# Options of the Trainer that cannot work here, with reasons. All others are passed on.
NOT_SUPPORTED = {
    "max_epochs": "training counts steps; use trainer.max_steps",
    "min_epochs": "training counts steps; use trainer.min_steps",
    "reload_dataloaders_every_n_epochs": "the seed and the step decide each batch, so reloading changes nothing",
    "val_check_interval": "it counts batches; use val.every_n_steps",
    "check_val_every_n_epoch": "validation counts steps; use val.every_n_steps",
    "limit_test_batches": "training tests nothing; use evaluation.num_samples and the options of metrics",
    "limit_predict_batches": "training predicts nothing; use evaluation.num_samples",
    "fast_dev_run": "it would leave an untrained model without a record; use debug=fdr",
    "barebones": "metrics.csv, checkpoints and averages are always kept",
    "logger": "use logger=csv, tensorboard or wandb, or add one with +logger.<name>._target_=…",
    "callbacks": "add one with +callbacks.<name>._target_=…",
    "enable_checkpointing": "training must be able to resume; use callbacks.checkpoint.every_n_steps",
    "default_root_dir": "all files lie in the model's folder; use outputs",
    "plugins": "checkpoints and ranks need ours; use trainer.precision and trainer.strategy",
    "use_distributed_sampler": "each rank already trains on its own rows of the batch",
    "enable_autolog_hparams": "the whole config is recorded in config.yaml and given to every logger",
    "model_registry": "it is a service for Lightning's own checkpoints, which are not written here",
}
_COUNTS = ("limit_train_batches", "overfit_batches", "limit_val_batches", "min_steps", "num_sanity_val_steps")
# Validation, sample grids and scoring use float32 weights; in float16, Adam's ε is 0 and weights become NaN.
_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
_SHORT_PRECISIONS = ("32", "bf16", "16")
_NEVER = (BaseFinetuning, BasePredictionWriter, GradientAccumulationScheduler, StochasticWeightAveraging)


def checked_precision(option: str | int, on_gpu: bool | None) -> str:
    """The resolved trainer.precision. on_gpu: None if the device is not known yet. ValueError for an invalid combination."""
    precision = auto_precision(bool(on_gpu)) if option == "auto" else str(option)
    if precision not in (*_PRECISIONS, *_SHORT_PRECISIONS):
        raise ValueError(f"trainer.precision={precision}: choose {', '.join(_PRECISIONS)} or auto")
    if precision.startswith("16") and on_gpu is False:
        raise ValueError(f"trainer.precision={precision} needs a GPU: use bf16-mixed, 32-true or auto")
    return precision


def trainer_options(
    given: Mapping[str, Any],
    request: DeviceRequest | None,
    folder: Path,
    record: Path,
    callbacks: list[Callback],
    every: int,
) -> dict[str, Any]:
    """Lightning's options from the options `trainer.…`. ValueError, in one sentence, for an option that cannot work.

    given: the options by name. request: the devices; None: a check on a machine that may have other devices. folder: of the model.
    record: the path of its metrics.csv. callbacks: all callbacks, in order. every: steps between validations; 0: no validation.
    """
    options = {
        key: value for key, value in given.items() if key not in ("_target_", "max_time", "precision", "peak_flops")
    }
    for key, why in NOT_SUPPORTED.items():
        if key in options:
            raise ValueError(f"trainer.{key}={options[key]} is not supported: {why}")
    precision = checked_precision(given["precision"], None if request is None else request.on_gpu)
    if given["max_steps"] < 1 and given.get("max_time") is None:
        raise ValueError(
            f"trainer.max_steps={given['max_steps']}: set 1 or more, or trainer.max_time, so that training ends"
        )
    accumulated = options["accumulate_grad_batches"]
    for key in _COUNTS:
        value, least = options.get(key), int(key == "limit_train_batches")
        if not (value is None or (type(value) is int and value >= least)):
            raise ValueError(f"trainer.{key}={value} must be a whole number from {least}")
        if value and key.endswith(("train_batches", "overfit_batches")):
            options[key] = value * accumulated  # Lightning counts the parts of a batch
    strategy = options.get("strategy", "auto")
    strategy = strategy.get("_target_") if isinstance(strategy, Mapping) else strategy
    # Without those strategies of Lightning that start processes by pickling or forking this one.
    known = ("auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false")
    if strategy not in known and not str(strategy).endswith(".DDPStrategy"):
        raise ValueError(
            f"trainer.strategy={strategy}: choose one of {', '.join(known)}; sharded weights (FSDP) have no averages"
        )
    if request is None:
        options |= {"accelerator": "cpu", "devices": 1, "strategy": "auto", "num_nodes": 1}
    else:
        # Lightning's "auto" may choose a device without float64, which the tables of the theory need.
        options["accelerator"] = "cuda" if request.on_gpu else "cpu"
        options["devices"] = list(request.indices) if request.on_gpu and request.indices else request.size
        options["precision"] = precision
        if request.on_gpu and not options.get("deterministic"):
            options.setdefault("benchmark", True)  # equal shapes of batches: cuDNN times its kernels once
    fixed = {
        "logger": [CSVRecord(record)],
        "callbacks": callbacks,
        "plugins": [WholeCheckpoints(), cluster_environment()],
        "min_epochs": 0,
        "max_epochs": -1,
        "val_check_interval": max(1, every) * accumulated,  # counts batches
        "check_val_every_n_epoch": None,
        "limit_val_batches": options.get("limit_val_batches", 1.0) if every > 0 else 0,
        "enable_checkpointing": True,  # with `Saving`
        "enable_progress_bar": any(isinstance(part, LightningBar) for part in callbacks),
        "use_distributed_sampler": False,
        "default_root_dir": folder,
    }
    return {"num_sanity_val_steps": 0, "enable_model_summary": False, **options, **fixed}


def check_callbacks(added: Mapping[str, Callback], trainer: Trainer, every: int, model: TrainableModel) -> None:
    """ValueError, in one sentence, for a callback that can never act, because of the value it monitors or the time it checks.

    added: the user's callbacks by name. every: steps between validations; 0: no validation.
    """
    logged = [f"val/{name}" for name in model.term_names] if every > 0 else []
    logged += [f"train/{name}" for name in (*model.term_names, *model.weighted_names, *MEASURED)]
    endless = not isinstance(trainer.limit_train_batches, int)
    # One added callback may log any value, and another may monitor it.
    known_alone = all(type(part).__module__.partition(".")[0] == "lightning" for part in added.values())
    for name, part in added.items():
        where, at_end = f"callbacks.{name}", bool(getattr(part, "_check_on_train_epoch_end", False))
        if isinstance(part, _NEVER):
            raise ValueError(
                f"{where} counts epochs or waits for predictions, but training counts steps and predicts nothing: "
                "remove it, or use a callback that counts steps"
            )
        if at_end and endless:
            raise ValueError(
                f"{where} waits for the end of an epoch, but training here is one endless epoch: add "
                "+trainer.limit_train_batches=N for epochs of N batches, or use a callback that counts steps"
            )
        monitor = getattr(part, "monitor", None)
        if isinstance(monitor, str) and monitor not in logged and known_alone:
            raise ValueError(
                f"{where}.monitor={monitor} is never logged, so it has no effect; choose one of {', '.join(logged)}"
            )
        if isinstance(part, EarlyStopping) and not at_end and every < 1:
            raise ValueError(f"{where} runs after each validation, but val.every_n_steps={every} turns validation off")


def ended_by(trainer: Trainer, added: Mapping[str, Callback]) -> str:
    """The option that ended training: a limit, or the added callback that reports it, or all that may have."""
    if 0 < trainer.max_steps <= trainer.global_step:
        return "trainer.max_steps"
    clock = callback_of(trainer, Clock)
    if clock is not None and clock.used >= 1:
        return "trainer.max_time"
    reasons = {name: getattr(part, "stopping_reason", None) for name, part in added.items()}
    known = [name for name, reason in reasons.items() if reason not in (None, EarlyStoppingReason.NOT_STOPPED)]
    return " or ".join(f"callbacks.{name}" for name in known or added)


class _PrintHandler(logging.Handler):
    """Prints records to the terminal, or to the output of the job."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage())


def quiet_lightning() -> None:
    """Show Lightning's warnings and errors once, and hide its messages about itself."""
    logger = logging.getLogger("lightning.pytorch")
    logger.handlers.clear()
    logger.setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    profiles = logging.getLogger("lightning.pytorch.profilers")  # requested by the option trainer.profiler
    profiles.setLevel(logging.INFO)
    profiles.handlers, profiles.propagate = [_PrintHandler()], False
    # Lightning 2.6 still uses features deprecated in torch 2.13; users cannot change that.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)", category=FutureWarning)
    # It assumes parameters of 32 bits; their number is correct.
    warnings.filterwarnings("ignore", message=r"Precision \S+ is not supported by the model summary")
    # The CPU was chosen.
    warnings.filterwarnings("ignore", message="GPU available but not used")
    # Training on a cluster's login node is allowed.
    warnings.filterwarnings("ignore", message="The `srun` command is available on your system")
    # Batches resume at the trainer's own step (`BatchOrder`), at any point of an epoch.
    warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch ended")
