"""From cfg.trainer and cfg.callbacks to Lightning's Trainer, with what we never leave out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydra.utils import instantiate
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar as LightningBar
from omegaconf import DictConfig

from diffusion_lab.config.callbacks import Added, added_callbacks, check_callbacks, ours
from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.config.ranks import cluster_environment, request_of
from diffusion_lab.config.tracking import build_trackers
from diffusion_lab.models.budget import TimeBudget, seconds_of
from diffusion_lab.store import ModelDirectory
from diffusion_lab.store.status_file import Announcement
from diffusion_lab.training.announce import Announce
from diffusion_lab.training.devices import precision_of
from diffusion_lab.training.interruption import Interruption
from diffusion_lab.training.precision import Precision
from diffusion_lab.training.record import CSVRecord
from diffusion_lab.training.saving import WholeCheckpoints
from diffusion_lab.training.snapshots import Snapshots

if TYPE_CHECKING:
    from diffusion_lab.data.module import DataModule
    from diffusion_lab.models.trainable import TrainableModel

# Options of Lightning's Trainer that would be ignored or get in the way.
_STEPS = "the batches have no end, so training counts steps: use trainer.max_steps"
_VALIDATION = "use val.every_n_steps and val.num_images"
_SCORING = "training neither tests nor predicts: see evaluation for what is scored afterwards"
_REFUSED = {
    **dict.fromkeys(("max_epochs", "min_epochs"), _STEPS),
    "limit_train_batches": "use trainer.max_steps and train_images, as debug=limit does",
    "overfit_batches": "use train_images, as debug=overfit does",
    "fast_dev_run": "use debug=fdr",
    "reload_dataloaders_every_n_epochs": _STEPS,
    "min_steps": "use the patience of the callback that stops training early",
    **dict.fromkeys(("val_check_interval", "check_val_every_n_epoch", "limit_val_batches"), _VALIDATION),
    "num_sanity_val_steps": _VALIDATION,
    **dict.fromkeys(("limit_test_batches", "limit_predict_batches"), _SCORING),
    "logger": "use logger=csv, tensorboard or wandb, or add one with +logger.<name>._target_=…",
    "callbacks": "add one with +callbacks.<name>._target_=…",
    "enable_checkpointing": "use callbacks.checkpoint.every_n_steps; add others with +callbacks.<name>._target_=…",
    "enable_progress_bar": "use callbacks.progress=null for none",
    "enable_model_summary": "add +callbacks.summary._target_=lightning.pytorch.callbacks.ModelSummary",
    "default_root_dir": "use outputs",
    "plugins": "use trainer.precision and trainer.strategy",
    "use_distributed_sampler": "each rank already trains on its own rows of the batch",
    "barebones": "metrics.csv, checkpoints and averages are always kept",
    **dict.fromkeys(("enable_autolog_hparams", "model_registry"), "the config is recorded whole in config.yaml"),
}
# Validation, sample grids and scoring give the weights float32; in float16, Adam's ε is 0 and weights become NaN.
_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
_SHORT_PRECISIONS = ("32", "bf16", "16")


def check_training(
    cfg: DictConfig, data: DataModule, model: TrainableModel, directory: ModelDirectory, fingerprint: str
) -> None:
    """Build Lightning's Trainer. Mistakes in its options are errors before anything is written."""
    added = added_callbacks(cfg)
    trainer = build_trainer(cfg, directory, fingerprint, Interruption(), Announcement(directory.path), added)
    model.check_trainer(trainer)
    model.optimization.check(model.named_parameters())
    check_callbacks(added, cfg, model)
    data.hold_out(cfg.val.num_images, cfg.val.batch_size, cfg.val.seed)
    build_trackers(cfg)


def build_trainer(
    cfg: DictConfig,
    directory: ModelDirectory,
    fingerprint: str,
    interruption: Interruption,
    announcement: Announcement,
    added: Added,
) -> Trainer:
    """Lightning's Trainer with our callbacks and the user's, our record, and an endless stream of batches."""
    options = {**cfg.trainer}
    for key, why in _REFUSED.items():
        if key in options:
            raise MistakeError(f"trainer.{key}={options[key]} is not supported: {why}")
    max_time = options.pop("max_time", None)
    if cfg.trainer.max_steps < 1 and max_time is None:
        raise MistakeError("set trainer.max_steps or trainer.max_time, so that training ends")
    request = request_of(cfg.trainer)
    precision = precision_of(options["precision"], request.on_gpu)
    if str(precision) not in (*_PRECISIONS, *_SHORT_PRECISIONS):
        raise MistakeError(f"trainer.precision={precision}: choose {', '.join(_PRECISIONS)} or auto")
    if str(precision).startswith("16") and not request.on_gpu:
        raise MistakeError(f"trainer.precision={precision} needs a GPU: use bf16-mixed, 32-true or auto")
    parts: list[Callback] = [  # in this order: see the classes that say what they must come before or after
        *([] if max_time is None else [TimeBudget(seconds_of(max_time))]),
        Precision(str(precision)),
        *ours(cfg, "finite"),
        instantiate(cfg.ema),
        Snapshots(cfg.snapshots.at, directory.weights),
        *ours(cfg, "monitor"),
        *ours(cfg, "progress"),
        *ours(cfg, "sample_grid", folder=directory.samples),
        Announce(announcement),
        *added.values(),
        *ours(cfg, "checkpoint", path=directory.resume, fingerprint=fingerprint, interruption=interruption),
    ]
    # Not Lightning's "auto", which may find a device without float64; the theory's tables need it.
    accelerator = "cuda" if request.on_gpu else "cpu"
    devices = list(request.indices) if request.on_gpu and request.indices else request.size
    every = cfg.val.every_n_steps
    return instantiate(
        {**options, "accelerator": accelerator, "devices": devices, "precision": precision},
        logger=[CSVRecord(directory.metrics_csv)],
        callbacks=parts,
        plugins=[WholeCheckpoints(), cluster_environment()],
        max_epochs=-1,
        val_check_interval=max(1, every) * options["accumulate_grad_batches"],  # counts batches
        check_val_every_n_epoch=None,
        limit_val_batches=1.0 if every > 0 else 0,
        num_sanity_val_steps=0,
        enable_checkpointing=True,  # by `Saving`
        enable_model_summary=False,
        enable_progress_bar=any(isinstance(part, LightningBar) for part in parts),
        use_distributed_sampler=False,
        default_root_dir=directory.path,
    )
