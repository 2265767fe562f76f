"""Building a training from a config: its data, its model with the initial weights, its folder, and Lightning's Trainer."""

from __future__ import annotations

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
from diffusion_lab.config.identity import start_files, training_fingerprint
from diffusion_lab.config.loading import check_worse
from diffusion_lab.config.mistakes import MistakeError
from diffusion_lab.config.overrides import as_options, as_plain
from diffusion_lab.config.picking import Picked, fill_in, pick
from diffusion_lab.config.scores import (
    add_scored_moments,
    check_planned_score,
    requested_scores,
)
from diffusion_lab.config.tracking import build_trackers
from diffusion_lab.data.checks import check_shares, require
from diffusion_lab.models.budget import TimeBudget, seconds_of
from diffusion_lab.models.trainable import GenerativeModel
from diffusion_lab.store import ModelDirectory, model_directory
from diffusion_lab.store.fingerprints import OUR_CALLBACKS
from diffusion_lab.store.status_file import Announcement
from diffusion_lab.training.devices import AUTO_PRECISIONS, Request
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
    """The training of `cfg`, whose facts are filled in, and the configs of the scores that follow. directory: its folder.

    note: a sentence if this training began with another precision or other picks than a new one would have here.
    """

    cfg: DictConfig
    data: DataModule
    fingerprint: str
    directory: ModelDirectory
    scores: list[DictConfig]
    note: str | None
    picked: Picked

    @property
    def place(self) -> ModelDirectory:
        """The folder that is trained into."""
        return self.directory.retraining if self.cfg.retrain else self.directory

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
        callbacks = build_callbacks(cfg, self.place, self.fingerprint, interruption)
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
    auto: str,
    on_gpu: bool,
    data_of: Callable[[DictConfig], DataModule] = build_training_data,
) -> Training:
    """The training of a config of `train`; fills in its facts. ValueError or MistakeError for invalid options.

    family: of the model. on_gpu: where it trains. data_of: loads the config's data. auto: what trainer.precision=auto means here.
    Precision and picks depend on the device and are part of a training's identity. A training that has begun, perhaps on another
    machine, keeps them.
    """
    check_budget(cfg)
    data, wanted = data_of(cfg), cfg.trainer.precision
    picks = [pick(cfg, data, kind) for kind in (on_gpu, not on_gpu)]
    if picks[0].options == picks[1].options:
        picks.pop()
    settle_budget(cfg)
    fill_in_facts(cfg, data)
    precisions = dict.fromkeys((auto, *AUTO_PRECISIONS)) if wanted == "auto" else (wanted,)
    choices = [(picked, picked.options | {"trainer.precision": name}) for picked in picks for name in precisions]
    unset = dict.fromkeys(name for _, options in choices for name in options)
    places = []
    for _, options in choices:
        fill_in(cfg, unset | options)
        fingerprint = training_fingerprint(cfg)
        places.append((fingerprint, model_directory(Path(cfg.outputs), data.name, family, fingerprint)))
    began = next((i for i, (_, directory) in enumerate(places) if directory.path.exists()), 0)
    picked, options = choices[began]
    fill_in(cfg, unset | options)
    data.batch_size = cfg.data.batch_size
    add_scored_moments(cfg)
    kept, new = (" ".join(as_options(these)).replace('"', "") for these in (options, choices[0][1]))
    note = None if kept == new else f"{kept}, as this training began; a new one here would have {new}"
    return Training(cfg, data, *places[began], requested_scores(cfg), note, picked)


def _start(model: TrainableModel, cfg: DictConfig) -> None:
    """Load the weights of init_from. ValueError, naming the differences, if they belong to another network."""
    files = start_files(cfg)
    try:
        for file in files:
            model.start_from(file)
    except ValueError as error:
        fix = f"its condition and the options of its network are in {ModelDirectory(Path(cfg.init_from)).config}"
        raise ValueError(f"init_from={cfg.init_from}: {error}; {fix}") from error


def build_callbacks(
    cfg: DictConfig, directory: ModelDirectory, fingerprint: str, interruption: Interruption
) -> dict[str, Callback]:
    """The callbacks of the config by name: ours, the user's, and the one that saves.

    A callback with `_partial_: true` is given those of the following that it has a parameter for. MistakeError for what is not a
    callback, or if a callback that training needs is missing.
    """
    given = {
        "folder": directory.samples,
        "path": directory.resume,
        "fingerprint": fingerprint,
        "interruption": interruption,
    }
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
        *([] if max_time is None else [TimeBudget(seconds_of(max_time))]),
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
