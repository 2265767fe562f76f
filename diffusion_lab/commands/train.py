"""diffusion-lab train: train a model, then sample and score it, a whole experiment in one command.

data -> model -> fit -> weights -> score. Running the same command again finds existing results. One run passes, in this order:

    config/training       training_of      the options are checked; the data; the name of the training and its folder
    config/training       Training.build   the model with its initial weights, the callbacks, Lightning's Trainer
    training/ranks        start_ranks      for several devices one process each, which repeats the two lines above
    commands/fit          fit              the training; the weights and the record are written
    config/weight_files   load_weights     the weights to score
    commands/evaluate     score_once       samples and scores, once for each requested moment
"""

from __future__ import annotations

import time
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from diffusion_lab.commands.accuracy import report_accuracy
from diffusion_lab.commands.evaluate import score_once
from diffusion_lab.commands.fit import fit
from diffusion_lab.config.build import family
from diffusion_lab.config.mistakes import MistakeError, lost_process, users_mistakes
from diffusion_lab.config.naming import differences_of, other_models
from diffusion_lab.config.overrides import command_as_typed, options_of_this_job
from diffusion_lab.config.scores import about_model, planned_score, run_of
from diffusion_lab.config.training import Built, Training, training_of
from diffusion_lab.config.weight_files import load_weights
from diffusion_lab.models.noisy_classifier import NoisyClassifier
from diffusion_lab.models.trainable import GenerativeModel
from diffusion_lab.store import RunDirectory
from diffusion_lab.sweeps.plan import Value
from diffusion_lab.terminal import Terminal
from diffusion_lab.training.ranks import (
    Ranks,
    broadcast_from_rank_zero,
    hold_together,
    join,
    must_start_ranks,
    rank,
    request_of,
    start_ranks,
    where,
)


def run(cfg: DictConfig) -> Value:
    """Train unless the model exists, then score unless the scores exist; the values that cfg.objective_metric names."""
    num_nodes = cfg.trainer.get("num_nodes", 1)
    with users_mistakes():  # every mistake in the options is raised here
        request = request_of(cfg.trainer)
        training = training_of(cfg, family(), request.on_gpu)
        built = training.build(request, command_as_typed("train"))
    if must_start_ranks(request, num_nodes):
        with users_mistakes():
            start_ranks("train", options_of_this_job(), request, num_nodes)
    else:
        here = join(request)
        Terminal(quiet=not here.is_first).print(where(here, cfg.trainer))
        with lost_process():
            _train(training, built, here)
            _score(training, built, here)
    if cfg.objective_metric is None or rank() > 0:
        return None
    run, several = (
        run_of(training.directory, training.scores[-1], Path(cfg.outputs)),
        OmegaConf.is_list(cfg.objective_metric),
    )
    return [_value(run, name) for name in cfg.objective_metric] if several else _value(run, cfg.objective_metric)


def _train(training: Training, built: Built, here: Ranks) -> None:
    """Train, unless the model is there; while another process trains it, wait."""
    console, directory = Terminal(quiet=not here.is_first), training.directory
    waiting = f"{directory.path} is being trained by {{}}; waiting until it has finished"
    with hold_together(directory.path, lambda holder: console.print(waiting.format(holder))):
        if here.is_first:
            directory.swap()  # a process may have been killed before it did
        is_done = broadcast_from_rank_zero(training.is_done)
        if is_done:
            directory.make_newest()
            console.print(f"this model is already trained: {directory.path} (set retrain=true to train again)")
        reused = [directory] if is_done else []
        anew = None if is_done else training.why_anew()
        for line in filter(None, [anew, *differences_of([*reused, *other_models(training.cfg)])]):
            console.print(line)
        if not is_done:
            fit(training, built, here)


def _score(training: Training, built: Built, here: Ranks) -> None:
    """Score a generative model at each requested moment; measure the accuracy of a classifier."""
    cfg, model, directory = training.cfg, built.model, training.directory
    if isinstance(model, NoisyClassifier) and here.is_first:
        report_accuracy(model, training.data, directory, here.device)
    if not isinstance(model, GenerativeModel):
        return
    if not cfg.score:
        Terminal(quiet=not here.is_first).print(about_model(directory))
        return
    model.float()  # as a loaded model, whatever trainer.precision is
    load_weights(model, directory, *(score.evaluation.weights for score in training.scores))
    model.to(here.device)  # Lightning leaves a trained model on the CPU
    since = time.time() if cfg.rescore or cfg.retrain else 0.0
    for score in training.scores:
        with users_mistakes():
            planned = planned_score(model, training.data, score, directory, Path(cfg.outputs), since)
        score_once(planned, cfg.compile)


def _value(run: RunDirectory, name: str) -> float:
    """The value of a score called `name`."""
    values = run.read_metrics()["values"]
    if name not in values:
        raise MistakeError(f"objective_metric={name}: the score has no such value; it has {', '.join(sorted(values))}")
    return values[name]
