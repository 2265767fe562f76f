"""Training a model in its directory, from the start or from a checkpoint."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.conditions.condition import records
from diffusion_lab.config.mistakes import MistakeError, lost_process, out_of_memory, users_mistakes
from diffusion_lab.config.naming import plain_config
from diffusion_lab.config.tracking import build_trackers, described
from diffusion_lab.config.training import Built, Training
from diffusion_lab.data.checks import DataError
from diffusion_lab.models.budget import callback_of, seconds_trained
from diffusion_lab.models.optimization import ParameterGroupsError
from diffusion_lab.models.tuning import merge_adapters
from diffusion_lab.networks.flops import NetworkCost
from diffusion_lab.store import write_json
from diffusion_lab.store.files import make_folders, remove_staged, write_whole
from diffusion_lab.store.option_names import SCORING_GROUPS
from diffusion_lab.store.own_files import sha256_of
from diffusion_lab.store.provenance import TRAINING, both, code_now, made_by
from diffusion_lab.terminal import Terminal
from diffusion_lab.training.checkpoints import Saving, newest_good, previous_of
from diffusion_lab.training.ema import PowerAverages
from diffusion_lab.training.finite import NotFiniteError
from diffusion_lab.training.interruption import Interrupted, Interruption
from diffusion_lab.training.monitor import Monitor
from diffusion_lab.training.ranks import Ranks, broadcast_from_rank_zero, wait_for_all
from diffusion_lab.training.speed import compile_model, peak_flops, tf32
from diffusion_lab.training.trainer_options import ended_by
from diffusion_lab.versions import versions

_NOT_LOGGED = "conditioned on metric|monitor=.*could not find the monitored key"  # what a callback monitors
# Groups in the line on the data, or without effect on the weights.
_NOT_NAMED = {"model", "data", "logger", "debug", *SCORING_GROUPS}


def fit(training: Training, built: Built, here: Ranks) -> None:
    """Train in `training.place`, and put the finished model into its folder, whose lock the caller holds.

    In this order: folder and checkpoint; trackers; compilation; Trainer.fit; weights and record; the folder takes the model's name.
    Interrupted after a signal; MistakeError for a mistake of the user.
    """
    cfg, data, place = training.cfg, training.data, training.place
    model, trainer, interruption = built.model, built.trainer, built.interruption
    console, saving = Terminal(quiet=not here.is_first), callback_of(trainer, Saving)
    again = built.announcement.command
    with interruption.forwarding_signals():
        with ExitStack() as stack:
            with users_mistakes():
                trackers = build_trackers(cfg, place) if here.is_first else []
            begun = broadcast_from_rank_zero(_begin(training) if here.is_first else None)
            about = described(cfg, place, training.choices)
            trainer.loggers += [stack.enter_context(tracker.training(about)) for tracker in trackers]
            if here.is_first:
                stack.enter_context(built.announcement)
            made = _what_trains(built, begun)
            if saving is not None:
                saving.made_by = made
            cost = model.cost()
            _measure_share_of_peak(training, built, here, cost)
            notice = compile_model(model, cfg.compile) if cfg.compile else None
            for note in filter(
                None, [*_lines_on_model(training, built, cost), notice, *_lines_on_start(training, built, begun)]
            ):
                console.print(note)
            # Before training, so that unreadable test data fail first.
            conditions = (
                records(data.conditions, lambda i: data.y_of("test", i), data.num_test) if here.is_first else {}
            )
            resumed = begun.checkpoint
            with interruption.listening(), _mistakes_while_training(cfg), tf32(here.device != "cpu"):
                trainer.fit(model, train_dataloaders=data, ckpt_path=resumed, weights_only=True if resumed else None)
            if saving is not None and saving.has_stopped_training:
                how = f"at step {trainer.global_step}; everything is saved in {place.resume}; to resume: {again}"
                raise _interrupted(interruption, how, here)
            merge_adapters(model.network)
            limit = _say_what_ended_it(training, built, console)
            if here.is_first:
                _finish(training, built, cost, ended_by=limit, conditions=conditions, **built.start.record, **made)
        if here.is_first:
            training.directory.swap()
        wait_for_all()
        if interruption.signum is not None:  # it came too late to stop the training
            how = f"after the end of training; to score the model: {again}"
            raise _interrupted(interruption, how, here)


def _interrupted(interruption: Interruption, how: str, here: Ranks) -> Interrupted:
    assert interruption.signum is not None
    return Interrupted(
        interruption.signum, f"{signal.Signals(interruption.signum).name} {how}" if here.is_first else ""
    )


@dataclass(frozen=True)
class _Begun:
    """The checkpoint to resume from, or None; its step; what made it; a sentence on each that cannot be used.

    line: a sentence on the training that this one goes on from, at its start.
    """

    checkpoint: Path | None
    step: int
    made_by: Mapping[str, Any]
    wrong: Sequence[str]
    line: str | None = None


def _begin(training: Training) -> _Begun:
    """Make the folder, with the config and the choices, and without weights of a training that is not resumed."""
    place = training.place
    make_folders(place.path)
    for folder in (place.path, place.samples):
        remove_staged(folder)  # by a process that was killed
    write_whole(place.config, OmegaConf.to_yaml(OmegaConf.create(plain_config(training.cfg))).encode())
    write_json(place.choices, training.choices)
    begun = _Begun(*newest_good(place.resume))
    if training.cfg.retrain and made_by(begun.made_by, TRAINING):
        begun = _Begun(None, 0, {}, begun.wrong)  # other code began it: this one starts anew
    if begun.checkpoint is None:
        for old in (*place.snapshots, *place.kept_averages):
            old.unlink()
        if training.parent is not None:
            line = training.parent.start(place, training.cfg)
            begun = replace(_Begun(*newest_good(place.resume)), wrong=begun.wrong, line=line)
    return begun


def _what_trains(built: Built, begun: _Begun) -> dict[str, Any]:
    """Code, versions and precision, which checkpoints record too; of a training that other code began, both codes."""
    code = code_now()
    both_codes = both(begun.made_by.get("code") or code, code)
    return {"code": both_codes, "versions": versions(), "precision": str(built.trainer.precision)}


def _measure_share_of_peak(training: Training, built: Built, here: Ranks, cost: NetworkCost) -> None:
    """Let the monitor log train/mfu, if the peak speed of the devices is known."""
    model, trainer, monitor = built.model, built.trainer, callback_of(built.trainer, Monitor)
    peak = training.cfg.trainer.get("peak_flops") or peak_flops(torch.device(here.device))
    if monitor is not None and peak and model.training_evaluations:
        flops = model.training_evaluations * cost.forward_flops
        monitor.seconds_per_image = flops / (peak * trainer.world_size)


def _lines_on_model(training: Training, built: Built, cost: NetworkCost) -> Iterator[str | None]:
    """Lines to print on the model and its data."""
    data = training.data
    yield data.how_read
    yield (
        f"{data.name}: {data.num_trained_on} training images {tuple(data.shape)}; "
        f"{training.choices['model']} with {cost.parameters:,} parameters, "
        f"{cost.forward_flops / 1e6:.1f} MFLOP per image and evaluation; into {training.place.path}"
    )
    named = reversed([*training.choices.items()])  # in the order of the config
    shaping = {group: choice for group, choice in named if group.partition("/")[0] not in _NOT_NAMED}
    chosen = (f"{group}={choice}" for group, choice in shaping.items() if choice not in (None, "default", "none"))
    yield f"{' '.join(chosen)} (all options: --cfg job, and config.yaml there)"
    yield from (*data.notes(), *training.notes)


def _lines_on_start(training: Training, built: Built, begun: _Begun) -> Iterator[str]:
    """Lines to print on where the weights come from."""
    before, precision = begun.made_by.get("precision"), str(built.trainer.precision)
    yield from (f"{sentence}; skipping it" for sentence in begun.wrong)
    if begun.checkpoint is not None:
        yield begun.line or f"resuming from {begun.checkpoint} at step {begun.step:,}"
        if by := made_by(begun.made_by, TRAINING):
            ways = "retrain=true starts over, variant=WORD trains a separate model"
            yield f"{training.place.path} was started by {by}; continuing with the code as it is now: {ways}"
        if before not in (None, precision):
            yield f"it was started with precision {before}, and continues with {precision}"
    else:
        yield from built.start.lines


def _say_what_ended_it(training: Training, built: Built, console: Terminal) -> str:
    """Print the option that ended training, with its value, and return its name."""
    limit = ended_by(built.trainer, built.added)
    value = f"={OmegaConf.select(training.cfg, limit)}" if limit.startswith("trainer.") else ""
    console.print(f"training ended by {limit}{value} after {built.trainer.global_step:,} steps")
    return limit


def _finish(training: Training, built: Built, cost: NetworkCost, **more: Any) -> None:
    """Write the weights and, last, the record of the training."""
    place, model, trainer = training.place, built.model, built.trainer
    averages = callback_of(trainer, PowerAverages)
    if averages is not None:
        averages.finish()
    model.save_weights({name: place.weights(name) for name in model.weight_names})
    cost_so_far: dict[str, Any] = {
        "steps": trainer.global_step,
        "seconds": seconds_trained(trainer),
        "images": model.batches_trained * training.data.batch_size,
    }
    if training.parent is not None:
        more["stages"] = [*training.parent.stages, {"model": training.directory.path.name, **cost_so_far}]
    place.finish(
        **cost_so_far,
        weights=model.weight_names,
        fingerprint=str(training.name),
        asked=training.name.asked,
        files=training.name.files,
        options=training.name.options,
        config=sha256_of(place.config),
        parameters=cost.parameters,
        flops=cost.forward_flops,
        **more,
    )
    previous_of(place.resume).unlink(missing_ok=True)


@contextmanager
def _mistakes_while_training(cfg: DictConfig) -> Iterator[None]:
    parts = 2 * cfg.trainer.accumulate_grad_batches
    keeps = cfg.network.get("activation_checkpointing") is False
    recompute = "compute activations twice (network.activation_checkpointing=true), " if keeps else ""
    fix = f"split each batch (trainer.accumulate_grad_batches={parts}), {recompute}or use a smaller data.batch_size"
    at = f"data.batch_size={cfg.data.batch_size} and trainer.precision={cfg.trainer.precision}"
    with lost_process(), out_of_memory(at, fix):
        try:
            yield
        except (DataError, NotFiniteError, ParameterGroupsError) as error:
            raise MistakeError(str(error)) from error
        except (RuntimeError, MisconfigurationException) as error:
            if not re.search(_NOT_LOGGED, str(error)):
                raise
            raise MistakeError(" ".join(str(error).split())) from error
