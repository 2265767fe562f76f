"""Building a training from a config: its data, its model with the initial weights, its folder, and Lightning's Trainer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from omegaconf import DictConfig, open_dict

from diffusion_lab.config.build import (
    build_model,
    build_training_data,
    check_budget,
    choices_made,
    entries,
    fill_in_facts,
    settle_budget,
)
from diffusion_lab.config.composing import SOURCE
from diffusion_lab.config.continuing import Parent, parent_of
from diffusion_lab.config.loading import check_worse
from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.config.naming import Name, folder_of, name_of_training, why_anew
from diffusion_lab.config.overrides import TRAINED, as_plain, named
from diffusion_lab.config.picking import fill_in, for_gpu, pick
from diffusion_lab.config.scores import check_planned_score, requested_scores, scored_moments
from diffusion_lab.config.starting import Start, options_for_source, started
from diffusion_lab.config.tracking import build_trackers
from diffusion_lab.data.checks import check_shares, require
from diffusion_lab.data.module import DataModule
from diffusion_lab.models.budget import Clock, seconds_of
from diffusion_lab.models.trainable import GenerativeModel, TrainableModel
from diffusion_lab.store import ModelDirectory
from diffusion_lab.store.option_names import OUR_CALLBACKS
from diffusion_lab.store.status_file import Announcement
from diffusion_lab.store.weight_names import IMAGES, SECONDS, STEPS, Moment, read_moments
from diffusion_lab.training.devices import DeviceRequest
from diffusion_lab.training.ema import PowerAverages
from diffusion_lab.training.interruption import Interruption
from diffusion_lab.training.snapshots import Snapshots
from diffusion_lab.training.speed import check_compile
from diffusion_lab.training.trainer_options import check_callbacks, quiet_lightning, trainer_options

_VARIANT = re.compile(r"[\w-]+", re.ASCII)
_NEEDED = ("finite", "monitor", "checkpoint")


@dataclass(frozen=True)
class Built:
    """A model and Lightning's Trainer for it.

    trainer: with all callbacks. added: the user's callbacks by name. interruption: the signals of this process. announcement: keeps
    status.json up to date. start: what the weights come from, and which train.
    """

    model: TrainableModel
    trainer: Trainer
    added: Mapping[str, Callback]
    interruption: Interruption
    announcement: Announcement
    start: Start


@dataclass(frozen=True)
class Training:
    """The training of `cfg`, whose facts are filled in.

    data: its data set. name: its digests. directory: its folder. earlier: the record of a finished training there, or None. scores:
    the configs of the scores that follow. notes: sentences on options that were picked for the data, and on those for a GPU.
    parent: the training that this one goes on from.
    """

    cfg: DictConfig
    data: DataModule
    name: Name
    directory: ModelDirectory
    earlier: Mapping[str, Any] | None
    scores: list[DictConfig]
    notes: Sequence[str]
    parent: Parent | None = None

    @property
    def place(self) -> ModelDirectory:
        """The folder that training writes to: `directory`, or one beside it while a finished model is trained again."""
        return self.directory.beside if self.cfg.retrain and self.earlier is not None else self.directory

    @property
    def is_done(self) -> bool:
        """Whether the model exists; with retrain=true, whether another process has trained it since this one began."""
        found = _record(self.directory)
        return found is not None and not (self.cfg.retrain and found == self.earlier)

    @property
    def choices(self) -> dict[str, str | None]:
        """The option of each group; of a list of conditions Hydra records only one, and of parts of init_from a placeholder."""
        several = {"condition": "-".join(self.cfg.condition)} if len(self.cfg.condition) > 1 else {}
        made = {group: option for group, option in choices_made().items() if group != SOURCE}
        taken = [group for group, option in made.items() if option == TRAINED]
        source = ModelDirectory(Path(self.cfg.continue_from or self.cfg.init_from)) if taken else None
        theirs = source.read_choices() if source is not None and source.choices.is_file() else {}
        return made | {group: theirs.get(group) for group in taken} | several

    def why_anew(self) -> str | None:
        """One sentence on a new training that the user may have expected to exist; None without a reason."""
        typed = named(HydraConfig.get().overrides.task)
        return None if self.directory.path.exists() else why_anew(self.cfg, self.directory, self.name, typed)

    def build(self, request: DeviceRequest | None, command: str = "") -> Built:
        """The model with the initial weights, and its Trainer. Mistakes in the options are raised before anything is written.

        request: the devices; None for a job that may run on another machine, where device-dependent options are not checked.
        command: the line to type to start or resume it.
        """
        quiet_lightning()
        cfg, interruption = self.cfg, Interruption()
        check_worse(cfg)
        model = build_model(cfg)
        start = started(model, cfg)
        steps = cfg.trainer.max_steps if cfg.trainer.max_steps > 0 else None
        announcement = Announcement(self.directory.path, steps, command)
        callbacks = build_callbacks(cfg, self.place, interruption)
        trainer = _build_trainer(cfg, self.place, request, callbacks, announcement)
        added = {name: part for name, part in callbacks.items() if name not in OUR_CALLBACKS}
        self.data.hold_out(cfg.val.num_images, cfg.val.batch_size, cfg.val.seed)
        self._check(model, trainer, added, request)
        return Built(model, trainer, added, interruption, announcement, start)

    def _check(
        self, model: TrainableModel, trainer: Trainer, added: Mapping[str, Callback], request: DeviceRequest | None
    ) -> None:
        """ValueError or MistakeError for parts that do not fit together, and for scores that would fail after training."""
        cfg, on_gpu = self.cfg, None if request is None else request.on_gpu
        processes = 1 if request is None else request.size * cfg.trainer.get("num_nodes", 1)
        check_shares(self.data.batch_size, processes, cfg.trainer.accumulate_grad_batches)
        require(
            on_gpu is not False or cfg.data.get("on_device") is not True, "data.on_device=true needs a GPU; use auto."
        )
        model.check_trainer(trainer)
        check_compile(cfg.compile, on_gpu, cfg.trainer.accumulate_grad_batches, model)
        model.optimization.check(model.named_parameters())
        check_callbacks(added, trainer, cfg.val.every_n_steps, model)
        if request is not None or self.earlier is None:  # a sweep of finished models needs no trackers of trainings
            build_trackers(cfg)
        if isinstance(model, GenerativeModel):
            for score in self.scores:
                check_planned_score(score, self.data, model, self.directory)
        elif cfg.objective_metric is not None:
            raise MistakeError(
                f"objective_metric={cfg.objective_metric}: this model generates no samples, so it has no score"
            )


def training_of(
    cfg: DictConfig,
    family: str,
    on_gpu: bool,
    data_of: Callable[[DictConfig], DataModule] = build_training_data,
) -> Training:
    """The training of a config of `train`; fills in its facts. ValueError or MistakeError for invalid options.

    family: of the model. on_gpu: where it trains, for a suggestion only. data_of: loads the config's data.
    """
    check_budget(cfg)
    if not (cfg.variant is None or _VARIANT.fullmatch(str(cfg.variant))):
        raise MistakeError(f"variant={cfg.variant}: use a word of letters, digits, - and _")
    data = data_of(cfg)
    picked = pick(cfg, data)
    suggestion = for_gpu(cfg, data) if on_gpu else None
    settle_budget(cfg)
    fill_in_facts(cfg, data)
    fill_in(cfg, {**picked.options, **options_for_source(cfg)})
    parent = parent_of(cfg)
    name = name_of_training(cfg)
    directory = folder_of(cfg, data.name, family, name)
    data.batch_size = cfg.data.batch_size
    _keep_scored_moments(cfg)
    notes = [*filter(None, [str(picked), suggestion])]
    return Training(cfg, data, name, directory, _record(directory), requested_scores(cfg), notes, parent)


def _record(directory: ModelDirectory) -> Mapping[str, Any] | None:
    """The record of a finished training, with its duration; None if there is none."""
    return directory.read_training() if directory.finished else None


def _keep_scored_moments(cfg: DictConfig) -> None:
    """Add the moments of evaluation.at to snapshots.at. ValueError for a moment after the end of training."""
    kept, scored = read_moments("snapshots.at", cfg.snapshots.at), scored_moments(cfg.evaluation.get("at"))
    for option, moments in (("snapshots.at", kept), ("evaluation.at", scored)):
        for moment in moments:
            if (ends := _end(cfg, moment)) is not None:
                raise ValueError(f"{option}: training ends before {moment} ({ends}); remove it, or train for longer")
    new = [moment for moment in scored if moment not in kept]
    with open_dict(cfg):
        cfg.snapshots.at = [
            *cfg.snapshots.at,
            *(str(moment) if moment.unit in (SECONDS, STEPS, IMAGES) else moment.amount for moment in new),
        ]


def _end(cfg: DictConfig, moment: Moment) -> str | None:
    """The option that ends training before a moment, if that is known in advance; else None."""
    steps, time = cfg.trainer.max_steps, cfg.trainer.get("max_time")
    if time is not None and moment.unit == SECONDS and moment.amount > seconds_of(time):
        return f"trainer.max_time={time}"
    needed = {STEPS: moment.amount, IMAGES: moment.amount / max(cfg.data.batch_size, 1)}.get(moment.unit, 0)
    return f"trainer.max_steps={steps}" if 0 < steps < needed else None


def build_callbacks(cfg: DictConfig, directory: ModelDirectory, interruption: Interruption) -> dict[str, Callback]:
    """The callbacks of the config by name: ours, the user's, and the one that saves.

    A callback with `_partial_: true` gets those of the following arguments that are parameters of it. MistakeError for an object
    that is not a callback, or if a callback that training needs is missing.
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
    request: DeviceRequest | None,
    callbacks: dict[str, Callback],
    announcement: Announcement,
) -> Trainer:
    """Lightning's Trainer with the callbacks of every training, those of the config, and one that keeps status.json up to date."""
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
