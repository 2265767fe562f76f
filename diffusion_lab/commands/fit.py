"""Training a model in its directory, from the start or from a checkpoint."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from lightning import Callback, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from diffusion_lab.conditions.condition import records
from diffusion_lab.config.build import choices_made
from diffusion_lab.config.identity import plain_config
from diffusion_lab.config.mistakes import MistakeError, lost_process, out_of_memory, users_mistakes
from diffusion_lab.config.tracking import build_trackers, described
from diffusion_lab.config.training import Built, Training
from diffusion_lab.data.checks import DataError
from diffusion_lab.models.budget import Clock, callback_of, seconds_trained
from diffusion_lab.store import write_json
from diffusion_lab.store.files import make_folders, remove_staged, write_whole
from diffusion_lab.store.identity import both, code_now, made_by
from diffusion_lab.terminal import Terminal, in_words
from diffusion_lab.training.checkpoints import Saving, newest_good, previous_of
from diffusion_lab.training.ema import PowerAverages
from diffusion_lab.training.finite import NotFiniteError
from diffusion_lab.training.interruption import Interrupted
from diffusion_lab.training.monitor import Monitor
from diffusion_lab.training.ranks import Ranks
from diffusion_lab.training.speed import GPU_SHARE, compile_model, peak_flops, tf32
from diffusion_lab.training.trainer import stopping_callbacks
from diffusion_lab.versions import versions


def fit(training: Training, built: Built, here: Ranks) -> None:
    """Train in `training.place` while holding the model's folder.

    Interrupted after a signal; MistakeError for a mistake of the user.
    """
    cfg, data, directory = training.cfg, training.data, training.place
    model, trainer, interruption = built.model, built.trainer, built.interruption
    choices = choices_made()
    if len(cfg.condition) > 1:  # for a list of choices Hydra records only one
        choices["condition"] = "-".join(cfg.condition)
    console = Terminal(quiet=not here.is_first)
    cost = model.cost()
    with interruption.forwarding_signals(), ExitStack() as stack:
        if here.is_first:
            with users_mistakes():
                trackers = build_trackers(cfg, directory)
            make_folders(directory.path)
            for folder in (directory.path, directory.samples):
                remove_staged(folder)  # by a process that was killed
            write_whole(directory.config, OmegaConf.to_yaml(OmegaConf.create(plain_config(cfg))).encode())
            write_json(directory.choices, choices)
            about = described(cfg, directory, choices)
            trainer.loggers += [stack.enter_context(tracker.training(about)) for tracker in trackers]
            stack.enter_context(built.announcement)
        resumed, begun_by, wrong = here.agree(newest_good(directory.resume) if here.is_first else None)
        code = code_now()
        if cfg.retrain and made_by(begun_by, code):
            resumed, begun_by = None, {}  # other code began it: this one starts anew
        made = {"code": code, "versions": versions(), "precision": str(trainer.precision)}
        for sentence in wrong:
            console.print(f"{sentence}; skipping it")
        if data.how_read is not None:
            console.print(data.how_read)
        console.print(
            f"{data.name}: {data.num_trained_on} training images {tuple(data.shape)}; "
            f"{choices['model']} with {cost.parameters:,} parameters, "
            f"{cost.forward_flops / 1e6:.1f} MFLOP per image and evaluation; into {directory.path}"
        )
        notice = compile_model(model, cfg.compile) if cfg.compile else None
        for note in filter(None, [*data.notes(), str(training.picked), notice, training.more]):
            console.print(note)
        if resumed:
            console.print(f"resuming from {resumed}")
            if by := made_by(begun_by, code):
                ways = "retrain=true starts anew, variant=WORD trains beside it"
                console.print(f"{directory.path} was begun by {by}, and this code goes on: {ways}")
            if begun_by.get("precision") not in (None, made["precision"]):
                console.print(f"it began with precision {begun_by['precision']}, and goes on with {made['precision']}")
            made["code"] = both(begun_by.get("code") or code, code)
        elif cfg.init_from is not None:
            console.print(f"starting from the weights {cfg.init_weights} of {cfg.init_from}")
        if not resumed and here.is_first:
            for old in (*directory.snapshots, *directory.kept_averages):
                old.unlink()
        saving = callback_of(trainer, Saving)
        if saving is not None:
            saving.made_by = made
        monitor = callback_of(trainer, Monitor)
        peak = cfg.trainer.get("peak_flops") or peak_flops(torch.device(here.device))
        if monitor is not None and peak and model.training_evaluations:
            flops = model.training_evaluations * cost.forward_flops
            monitor.seconds_per_image = flops / (peak * trainer.world_size)
        if monitor is not None and monitor.seconds_per_image and trainer.max_steps > 0 and not resumed:
            seconds = trainer.max_steps * data.batch_size * monitor.seconds_per_image / GPU_SHARE
            share = f"{GPU_SHARE:.0%} of the device's peak, until the first steps are timed"
            console.print(f"about {in_words(seconds)} of training, estimated at {share}")

        # Before training, so that test data that cannot be read cost no training.
        of_test = partial(data.y_of, "test")
        conditions = records(data.conditions, of_test, data.num_test) if here.is_first else {}
        with interruption.listening(), _mistakes_while_training(cfg), tf32(here.device != "cpu"):
            trainer.fit(model, train_dataloaders=data, ckpt_path=resumed, weights_only=True if resumed else None)
        if interruption.signum is not None:
            when = f"{signal.Signals(interruption.signum).name} at step {trainer.global_step}"
            said = f"{when}; everything is saved in {directory.resume}; run the same command again to resume"
            raise Interrupted(interruption.signum, said if here.is_first else "")
        ended_by = _ended_by(trainer, built.added)
        limit = f"{ended_by}={OmegaConf.select(cfg, ended_by)}" if ended_by.startswith("trainer.") else ended_by
        console.print(f"training ended by {limit} after {trainer.global_step:,} steps")
        if here.is_first:
            kept = callback_of(trainer, PowerAverages)
            if kept is not None:
                kept.finish()
            model.save_weights({name: directory.weights(name) for name in model.weight_names})
            directory.finish(
                steps=trainer.global_step,
                seconds=seconds_trained(trainer),
                images=model.batches_trained * data.batch_size,
                ended_by=ended_by,
                conditions=conditions,
                weights=model.weight_names,
                fingerprint=str(training.name),
                asked=training.name.asked,
                files=training.name.files,
                parameters=cost.parameters,
                flops=cost.forward_flops,
                **made,
            )
            previous_of(directory.resume).unlink(missing_ok=True)
        here.agree(None)  # all ranks wait until the weights exist


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
        except (DataError, NotFiniteError) as error:
            raise MistakeError(str(error)) from error
        except (RuntimeError, MisconfigurationException) as error:  # a callback's metric was not logged
            if not re.search("conditioned on metric|monitor=.*could not find the monitored key", str(error)):
                raise
            raise MistakeError(" ".join(str(error).split())) from error


def _ended_by(trainer: Trainer, others: Mapping[str, Callback]) -> str:
    """The option that ended a training."""
    if 0 < trainer.max_steps <= trainer.global_step:
        return "trainer.max_steps"
    clock = callback_of(trainer, Clock)
    return "trainer.max_time" if clock is not None and clock.used >= 1 else stopping_callbacks(others)
