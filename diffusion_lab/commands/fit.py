"""Train a model in its directory, from the beginning or from where it stopped."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from hydra.utils import instantiate
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar as LightningBar
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from diffusion_lab.callbacks.announce import Announce
from diffusion_lab.callbacks.ema import same_so_far
from diffusion_lab.callbacks.finite import NotFiniteError
from diffusion_lab.callbacks.interruption import InterruptedTraining, Interruption
from diffusion_lab.callbacks.monitor import Monitor
from diffusion_lab.callbacks.precision import Precision, PrecisionError
from diffusion_lab.callbacks.record import CSVRecord
from diffusion_lab.callbacks.saving import WholeCheckpoints, newest_good, previous_of
from diffusion_lab.callbacks.snapshots import Snapshots
from diffusion_lab.commands.build import plain_config, variance_matters
from diffusion_lab.commands.callbacks import Added, added_callbacks, check_callbacks, ours, stopped
from diffusion_lab.commands.mistakes import MistakeError, lost_process, out_of_memory, users_mistakes
from diffusion_lab.commands.precision import precision_of
from diffusion_lab.commands.ranks import Ranks, cluster_environment, request_of
from diffusion_lab.commands.tracking import build_trackers, tracked_training
from diffusion_lab.files import remove_staged, write_whole
from diffusion_lab.fingerprints import changed_keys, training_part
from diffusion_lab.models.budget import TimeBudget, seconds_of, time_budget
from diffusion_lab.networks.compilation import compile_network
from diffusion_lab.runs import ModelDirectory, write_json
from diffusion_lab.status import Announcement
from diffusion_lab.versions import versions

if TYPE_CHECKING:
    from diffusion_lab.data.base import DataModule
    from diffusion_lab.models.trainable import TrainableModel

_BYTES = 4  # of a number in a checkpoint
_MOMENTS = 2  # numbers that AdamW keeps for each weight

# Options of Lightning's Trainer that would be ignored or get in the way.
_STEPS = "the batches have no end, so training counts steps: use trainer.max_steps"
_VALIDATION = "use val.every_n_steps and val.num_images"
_SCORING = "training neither tests nor predicts: see evaluation for what is scored afterwards"
_REFUSED = {
    **dict.fromkeys(("max_epochs", "min_epochs", "limit_train_batches", "overfit_batches", "fast_dev_run"), _STEPS),
    "reload_dataloaders_every_n_epochs": _STEPS,
    "min_steps": "an early end is decided by its callback: use that one's patience",
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
    "use_distributed_sampler": "each rank takes its rows of the batch without one",
    "barebones": "metrics.csv, checkpoints and averages are always kept",
    **dict.fromkeys(("enable_autolog_hparams", "model_registry"), "the config is recorded whole in config.yaml"),
}


def fit(
    cfg: DictConfig,
    data: DataModule,
    model: TrainableModel,
    directory: ModelDirectory,
    fingerprint: str,
    choices: dict[str, str],
    here: Ranks,
) -> None:
    """Train in `directory`, a model's or the `retraining` in it, while the model's is held.

    InterruptedTraining after a signal; MistakeError for what the user can mend.
    """
    console = Console(quiet=not here.is_first, highlight=False, soft_wrap=True)
    interruption = Interruption()
    cost = model.cost()
    with interruption.handing_on(), ExitStack() as stack:
        announcement = Announcement(directory.home, cfg.trainer.max_steps if cfg.trainer.max_steps > 0 else None)
        with users_mistakes():
            trackers = build_trackers(cfg, directory.logs) if here.is_first else []
            added = added_callbacks(cfg)
            trainer = build_trainer(cfg, directory, fingerprint, interruption, announcement, added)
            data.hold_out(cfg.val.num_images, cfg.val.batch_size, cfg.val.seed)
        if here.is_first:
            _prepare(cfg, directory, choices, sum(weights.numel() for weights in model.parameters()))
            trainer.loggers += stack.enter_context(tracked_training(trackers, cfg, directory, choices))
            stack.enter_context(announcement)
        resumed, wrong = here.agree(newest_good(directory.resume, fingerprint) if here.is_first else None)
        for sentence in wrong:
            console.print(f"{sentence}; skipping it")
        console.print(
            f"{data.name}: {data.num_train} training images {tuple(data.shape)}; "
            f"{choices['model']} with {cost.parameters:,} parameters, "
            f"{cost.forward_flops / 1e6:.1f} MFLOP an image and evaluation; into {directory.path}"
        )
        notice = compile_network(model.network) if cfg.compile else None
        if notice:
            console.print(notice)
        if resumed:
            console.print(f"going on from {resumed}")
        elif here.is_first:
            for old in directory.snapshots:
                old.unlink()

        with interruption.listening(), _mistakes_while_training(cfg):
            trainer.fit(model, train_dataloaders=data, ckpt_path=resumed, weights_only=True if resumed else None)
        if interruption.signum is not None:
            raise InterruptedTraining(interruption.signum, _how_to_go_on(interruption.signum, trainer, directory))
        ended_by = _ended_by(trainer, added)
        console.print(f"training ended by {_said(cfg, ended_by)} after {trainer.global_step:,} steps")
        if here.is_first:
            model.save_weights({name: directory.weights(name) for name in model.weight_names})
            directory.finish(
                steps=trainer.global_step,
                seconds=next(part.seconds for part in trainer.callbacks if isinstance(part, Monitor)),
                images=model.batches_trained * data.batch_size,
                ended_by=ended_by,
                precision=str(trainer.precision),
                fingerprint=fingerprint,
                parameters=cost.parameters,
                flops=cost.forward_flops,
                versions=versions(),
            )
            previous_of(directory.resume).unlink(missing_ok=True)
            alike = same_so_far(model.weight_names, trainer.global_step)
            if alike:
                console.print(f"{' and '.join(alike)} are the same weights: averages differ only after their warm-up")
        here.agree(None)  # nobody reads the weights before they are there


def check_training(
    cfg: DictConfig, data: DataModule, model: TrainableModel, directory: ModelDirectory, fingerprint: str
) -> None:
    """Build what trains and let it go: what is wrong with its options is said before anything is written."""
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
            raise MistakeError(f"trainer.{key}={options[key]} cannot be honoured: {why}")
    if not isinstance(cfg.trainer.max_steps, int):
        raise MistakeError(f"trainer.max_steps={cfg.trainer.max_steps}: the number of training steps is a whole number")
    max_time = options.pop("max_time", None)
    if cfg.trainer.max_steps < 1 and max_time is None:
        raise MistakeError("trainer.max_steps or trainer.max_time must say when training ends")
    request = request_of(cfg.trainer)
    precision = precision_of(options["precision"], request.on_gpu)
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


def _prepare(cfg: DictConfig, directory: ModelDirectory, choices: dict[str, str], num_parameters: int) -> None:
    """What an earlier process left is cleared away or checked; what describes the training is written."""
    directory.path.mkdir(exist_ok=True)
    remove_staged(directory.path)
    config = plain_config(cfg)
    if directory.config.is_file():
        before = OmegaConf.to_container(OmegaConf.load(directory.config))
        unread = set() if variance_matters(cfg) else {"variance"}  # another one is the same training
        changed = [
            key
            for key in changed_keys(training_part(before), training_part(config))
            if key.partition(".")[0] not in unread
        ]
        if changed:
            raise MistakeError(
                f"{directory.config} was changed since this training began ({', '.join(changed)}); "
                + (f"remove {directory.path} to begin anew" if cfg.retrain else "retrain=true trains anew")
            )
    numbers = num_parameters * (1 + _MOMENTS + len(cfg.ema.decays)) * 3  # two checkpoints and one that is being written
    needed = _BYTES * (numbers + num_parameters * len(cfg.snapshots.at))
    free = shutil.disk_usage(directory.path).free
    if free < needed:
        raise MistakeError(
            f"{directory.path}: {free / 2**20:,.0f} MiB are free on this disk and training needs {needed / 2**20:,.0f} MiB for its "
            "checkpoints and snapshots; make room, or outputs=… takes another disk"
        )
    write_whole(directory.config, OmegaConf.to_yaml(OmegaConf.create(config)).encode())
    write_json(directory.choices, choices)


@contextmanager
def _mistakes_while_training(cfg: DictConfig) -> Iterator[None]:
    from diffusion_lab.data.base import DataError

    fix = f"take fewer at a time (data.batch_size={max(1, cfg.data.batch_size // 2)} trainer.accumulate_grad_batches=2)"
    at = f"data.batch_size={cfg.data.batch_size} and trainer.precision={cfg.trainer.precision}"
    with lost_process(), out_of_memory(at, fix):
        try:
            yield
        except (DataError, NotFiniteError, PrecisionError) as error:
            raise MistakeError(str(error)) from error
        except (RuntimeError, MisconfigurationException) as error:  # of a callback whose metric nobody has logged
            if not re.search("conditioned on metric|monitor=.*could not find the monitored key", str(error)):
                raise
            raise MistakeError(" ".join(str(error).split())) from error


def _ended_by(trainer: Trainer, added: Added) -> str:
    """The option that ended a training."""
    if 0 < trainer.max_steps <= trainer.global_step:
        return "trainer.max_steps"
    time = time_budget(trainer)
    return "trainer.max_time" if time is not None and time.used >= 1 else stopped(added)


def _said(cfg: DictConfig, option: str) -> str:
    """A budget with its value, a callback by its name."""
    return f"{option}={OmegaConf.select(cfg, option)}" if option.startswith("trainer.") else option


def _how_to_go_on(signum: int, trainer: Trainer, directory: ModelDirectory) -> str:
    import signal

    return (
        f"{signal.Signals(signum).name} at step {trainer.global_step}; everything is saved in {directory.resume}, "
        "the same command goes on from there"
    )
