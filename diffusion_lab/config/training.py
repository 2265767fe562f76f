"""Building a training from a config: its data, its model with the initial weights, its folder, and Lightning's Trainer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.utils import instantiate
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from omegaconf import DictConfig

from diffusion_lab.config.build import (
    build_model,
    build_training_data,
    check_budget,
    entries,
    fill_in_facts,
    settle_budget,
)
from diffusion_lab.config.identity import name_of_training, start_files
from diffusion_lab.config.loading import check_worse
from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.config.overrides import as_plain
from diffusion_lab.config.picking import Picked, fill_in, for_gpu, pick
from diffusion_lab.config.scores import (
    add_scored_moments,
    check_planned_score,
    requested_scores,
)
from diffusion_lab.config.tracking import build_trackers
from diffusion_lab.data.checks import check_shares, require
from diffusion_lab.models.budget import Clock, seconds_of
from diffusion_lab.models.trainable import GenerativeModel
from diffusion_lab.store import ModelDirectory, model_directory
from diffusion_lab.store.identity import OUR_CALLBACKS, Name
from diffusion_lab.store.status_file import Announcement
from diffusion_lab.training.devices import Request
from diffusion_lab.training.ema import PowerAverages
from diffusion_lab.training.interruption import Interruption
from diffusion_lab.training.snapshots import Snapshots
from diffusion_lab.training.speed import check_compile
from diffusion_lab.training.trainer import (
    check_callbacks,
    checked_precision,
    quiet_lightning,
    trainer_options,
)

if TYPE_CHECKING:
    from diffusion_lab.data.module import DataModule
    from diffusion_lab.models.trainable import TrainableModel

_VARIANT = re.compile(r"[\w-]+", re.ASCII)
_NEEDED = ("finite", "monitor", "checkpoint")


@dataclass(frozen=True)
class Built:
    """A model and its Trainer. added: the user's callbacks. announcement: what to record in the model's folder."""

    model: TrainableModel
    trainer: Trainer
    added: Mapping[str, Callback]
    interruption: Interruption
    announcement: Announcement


@dataclass(frozen=True)
class Training:
    """The training of `cfg`, whose facts are filled in, and the configs of the scores that follow.

    directory: its folder. place: the folder that is trained into, another one while a finished model is trained again.
    more: a sentence on options that a GPU has time for.
    """

    cfg: DictConfig
    data: DataModule
    name: Name
    directory: ModelDirectory
    place: ModelDirectory
    scores: list[DictConfig]
    picked: Picked
    more: str | None

    def build(self, request: Request | None) -> Built:
        """The model with the initial weights, and its Trainer. Mistakes in the options are raised before anything is written.

        request: the devices; None for a job that may run on another machine, where device-dependent options are not checked.
        """
        quiet_lightning()
        cfg, directory, interruption = self.cfg, self.directory, Interruption()
        check_worse(cfg)
        model = build_model(cfg)
        _start(model, cfg)
        processes = 1 if request is None else request.size * cfg.trainer.get("num_nodes", 1)
        check_shares(self.data.batch_size, processes, cfg.trainer.accumulate_grad_batches)
        on_gpu = None if request is None else request.on_gpu
        require(
            on_gpu is not False or cfg.data.get("on_device") is not True, "data.on_device=true needs a GPU; use auto."
        )
        announcement = Announcement(directory.path, cfg.trainer.max_steps if cfg.trainer.max_steps > 0 else None)
        callbacks = build_callbacks(cfg, self.place, interruption)
        trainer = _build_trainer(cfg, self.place, request, callbacks, announcement)
        model.check_trainer(trainer)
        check_compile(cfg.compile, on_gpu, cfg.trainer.accumulate_grad_batches, model)
        model.optimization.check(model.named_parameters())
        added = {name: part for name, part in callbacks.items() if name not in OUR_CALLBACKS}
        check_callbacks(added, trainer, cfg.val.every_n_steps, model)
        self.data.hold_out(cfg.val.num_images, cfg.val.batch_size, cfg.val.seed)
        if request is not None or not directory.finished:  # a sweep of finished models needs no trackers of trainings
            build_trackers(cfg)
        if isinstance(model, GenerativeModel):
            for score in self.scores:
                check_planned_score(score, self.data, model, directory)
        return Built(model, trainer, added, interruption, announcement)


def training_of(
    cfg: DictConfig,
    family: str,
    on_gpu: bool,
    data_of: Callable[[DictConfig], DataModule] = build_training_data,
) -> Training:
    """The training of a config of `train`; fills in its facts. ValueError or MistakeError for invalid options.

    family: of the model. on_gpu: where it trains, which decides nothing but a proposal. data_of: loads the config's data.
    """
    check_budget(cfg)
    if not (cfg.variant is None or _VARIANT.fullmatch(str(cfg.variant))):
        raise MistakeError(f"variant={cfg.variant}: use a word of letters, digits, - and _")
    data = data_of(cfg)
    picked, more = pick(cfg, data), for_gpu(cfg, data) if on_gpu else None
    settle_budget(cfg)
    fill_in_facts(cfg, data)
    fill_in(cfg, picked.options)
    name = name_of_training(cfg)
    directory = model_directory(Path(cfg.outputs), data.name, family, str(name))
    place = directory.beside if cfg.retrain and directory.finished else directory
    data.batch_size = cfg.data.batch_size
    add_scored_moments(cfg)
    return Training(cfg, data, name, directory, place, requested_scores(cfg), picked, more)


def _start(model: TrainableModel, cfg: DictConfig) -> None:
    """Load the weights of init_from. ValueError, naming the differences, if they belong to another network."""
    files = start_files(cfg)
    try:
        for file in files:
            model.start_from(file)
    except ValueError as error:
        fix = f"its condition and the options of its network are in {ModelDirectory(Path(cfg.init_from)).config}"
        raise ValueError(f"init_from={cfg.init_from}: {error}; {fix}") from error


def build_callbacks(cfg: DictConfig, directory: ModelDirectory, interruption: Interruption) -> dict[str, Callback]:
    """The callbacks of the config by name: ours, the user's, and the one that saves.

    A callback with `_partial_: true` is given those of the following that it has a parameter for. MistakeError for what is not a
    callback, or if a callback that training needs is missing.
    """
    given = {"folder": directory.samples, "path": directory.resume, "interruption": interruption}
    nodes = dict(entries(cfg, "callbacks"))
    if cfg.trainer.get("enable_progress_bar") is False:
        nodes.pop("progress", None)
    missing = [name for name in _NEEDED if name not in nodes]
    if missing:
        raise MistakeError(f"callbacks: training needs {', '.join(missing)}; add yours as callbacks=[default,mine]")
    built = {}
    for name in sorted(nodes, key=lambda name: 2 if name == "checkpoint" else name not in OUR_CALLBACKS):
        part = instantiate(nodes[name])
        if nodes[name].get("_partial_"):
            part = part(**{key: value for key, value in given.items() if key in signature(part).parameters})
        if not isinstance(part, Callback):
            raise MistakeError(f"callbacks.{name}: its _target_ must name a subclass of Lightning's Callback")
        built[name] = part
    return built


def _build_trainer(
    cfg: DictConfig,
    directory: ModelDirectory,
    request: Request | None,
    callbacks: dict[str, Callback],
    announcement: Announcement,
) -> Trainer:
    """Lightning's Trainer with the callbacks of every training, those of the config, and the announcement of our record."""
    checked_precision(cfg.trainer.precision, None if request is None else request.on_gpu)
    averages = [PowerAverages(cfg.snapshots.averages, directory.weights)] if cfg.snapshots.averages else []
    max_time = cfg.trainer.get("max_time")

    def announce(trainer: Trainer, *_: object) -> None:
        if trainer.is_global_zero:
            announcement.step(trainer.global_step)

    always = [  # this order: weights written at a step contain the averages of that step, and its time
        Clock() if max_time is None else Clock(seconds_of(max_time)),
        instantiate(cfg.ema),
        *averages,
        Snapshots(cfg.snapshots.at, directory.weights),
        LambdaCallback(on_train_batch_end=announce),
    ]
    options = trainer_options(
        as_plain(cfg.trainer, resolve=True),
        request,
        directory.path,
        directory.metrics_csv,
        [*always, *callbacks.values()],
        cfg.val.every_n_steps,
    )
    return instantiate({"_target_": cfg.trainer["_target_"]}, **options)
