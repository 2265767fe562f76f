"""diffusion-lab train: train a model, then sample and score it, a whole experiment in one command.

data -> model -> fit -> weights -> score. Running the same command again finds existing results.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from rich.console import Console

from diffusion_lab.config.build import family
from diffusion_lab.config.mistakes import MistakeError, lost_process, users_mistakes
from diffusion_lab.config.overrides import options_of_this_job
from diffusion_lab.config.scores import planned_score, run_of
from diffusion_lab.config.weight_files import load_weights
from diffusion_lab.store import ModelDirectory, RunDirectory
from diffusion_lab.store.identity import of_earlier_version, said_of_model, why_anew
from diffusion_lab.store.places import models_in
from diffusion_lab.terminal import Terminal
from diffusion_lab.training.ranks import hold_together, must_start_ranks, ranks, request_of, start_ranks, where

if TYPE_CHECKING:
    from diffusion_lab.config.training import Training


def run(cfg: DictConfig) -> float | None:
    """Build and check everything, train unless the model exists, score unless the score exists.

    Returns the value that cfg.objective_metric names, for a sweeper that searches; else None.
    """
    from diffusion_lab.commands.accuracy import report_accuracy
    from diffusion_lab.commands.fit import fit
    from diffusion_lab.commands.scoring import score_once
    from diffusion_lab.config.training import training_of
    from diffusion_lab.models.noisy_classifier import NoisyClassifier
    from diffusion_lab.models.trainable import GenerativeModel
    from diffusion_lab.training.speed import compile_network

    num_nodes = cfg.trainer.get("num_nodes", 1)
    with users_mistakes():
        request = request_of(cfg.trainer)
        training = training_of(cfg, family(), request.on_gpu)
        built = training.build(request)
        directory, scores = training.directory, training.scores
    model = built.model
    generative = model if isinstance(model, GenerativeModel) else None
    run = run_of(directory, scores[-1], Path(cfg.outputs))
    if must_start_ranks(request, num_nodes):
        with users_mistakes():
            start_ranks("train", options_of_this_job(), request, num_nodes)
        return _objective(run, cfg.objective_metric)
    with ranks(request) as here, lost_process():
        console = Terminal(quiet=not here.is_first)
        console.print(where(here, cfg.trainer))

        def waiting(holder: str) -> None:
            console.print(f"{directory.path} is being trained by {holder}; waiting until it has finished")

        def is_trained() -> bool:
            """Whether the model is there; with retrain=true, whether another process has trained it since this one began."""
            again = cfg.retrain and _stamp(directory) == before
            return here.agree(directory.finished and not again)

        before = _stamp(directory)
        if is_trained():
            _take_trained(console, directory)
        else:
            with hold_together(directory.path, waiting):
                if here.is_first:
                    directory.swap()  # a process may have been killed before this
                if is_trained():  # by another process
                    _take_trained(console, directory)
                else:
                    _say_why_anew(console, training)
                    fit(training, built, here)
                    if here.is_first:
                        directory.swap()
                    here.agree(None)  # all ranks wait until the weights exist
        if generative is not None and cfg.score:
            generative.float()  # as a loaded model, whatever trainer.precision is
            load_weights(generative, directory, *(score.evaluation.weights for score in scores))
            generative.to(here.device)  # Lightning leaves a trained model on the CPU
            since = time.time() if cfg.rescore or cfg.retrain else 0.0
            for score in scores:
                with users_mistakes():
                    planned = planned_score(generative, training.data, score, directory, Path(cfg.outputs), since)
                compile_network(planned.network, cfg.compile)
                score_once(planned)
        elif isinstance(model, NoisyClassifier) and here.is_first:
            report_accuracy(model, training.data, directory, here.device)
    scored = generative is not None and cfg.score and here.is_first
    return _objective(run, cfg.objective_metric) if scored else None


def _objective(run: RunDirectory, name: str | None) -> float | None:
    """The value of a score called `name`; None without a name."""
    if name is None:
        return None
    values = run.read_metrics()["values"]
    if name not in values:
        raise MistakeError(f"objective_metric={name}: the score has no such value; it has {', '.join(sorted(values))}")
    return values[name]


def _stamp(directory: ModelDirectory) -> int | None:
    """A number that another training changes; None if there is none that has finished."""
    return directory.training.stat().st_ino if directory.finished else None


def _take_trained(console: Console, directory: ModelDirectory) -> None:
    """Say that the model is there, and let commands that name no model take it."""
    directory.make_newest()
    console.print(f"this model is already trained: {directory.path} (set retrain=true to train again)")
    if said := said_of_model(directory.path, directory.read_training()):
        console.print(said)


def _say_why_anew(console: Console, training: Training) -> None:
    """A sentence before a new training that the user may have expected to be there."""
    directory = training.directory
    if directory.path.exists():
        return
    kind = directory.path.name.rpartition("-")[0]
    alike = [
        model for model in models_in(directory.outputs) if model.path.name.rpartition("-")[0] == kind and model.finished
    ]
    earlier = {str(model.path): model.read_training() for model in alike}
    if said := why_anew(training.name, earlier):
        console.print(said)
    elif of_0_1 := [path for path, record in earlier.items() if of_earlier_version(record)]:
        console.print(
            f"the names of models have changed with 0.2, so what 0.1 trained, such as {of_0_1[0]}, is not found by the same "
            "command, which trains anew; sample and evaluate read it with model_dir=…"
        )
