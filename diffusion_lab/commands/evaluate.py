"""diffusion-lab evaluate: score a trained model, or images from elsewhere: Fréchet distance, bits/dim, cost."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from diffusion_lab.config.given import given_score
from diffusion_lab.config.loading import (
    Load,
    load_module,
    trained_config,
    trained_data,
)
from diffusion_lab.config.mistakes import lost_process, users_mistakes
from diffusion_lab.config.overrides import options_of_this_job
from diffusion_lab.config.scores import check_scoring, planned_score, requested_scores
from diffusion_lab.store import ModelDirectory
from diffusion_lab.store.identity import said_of_model
from diffusion_lab.terminal import Terminal
from diffusion_lab.training.ranks import must_start_ranks, ranks, request_of, start_ranks, where

if TYPE_CHECKING:
    from diffusion_lab.data.module import DataModule
    from diffusion_lab.models.trainable import GenerativeModel


def run(cfg: DictConfig) -> None:
    """Load, plan, score, show."""
    from diffusion_lab.commands.scoring import score_once
    from diffusion_lab.training.speed import check_compile, compile_network  # imports torch

    outputs = Path(cfg.outputs)
    if cfg.samples is not None:
        with users_mistakes():
            request = request_of({"accelerator": cfg.accelerator, "devices": 1}, prefix="")
        with ranks(request) as here:
            planned = given_score(cfg, outputs, here.device)
            if not planned.is_scored:
                Terminal().print(where(here, cfg))
            score_once(planned)
        return
    with users_mistakes():
        request = request_of(cfg, prefix="")
        directory, data, module, configs = to_score(cfg)
        check_compile(cfg.compile, request.on_gpu, None, module)
        since = time.time() if cfg.rescore else 0.0  # of all scores, which share the values of real images
        done = [planned_score(module, data, one, directory, outputs, since).is_scored for one in configs]
    said = said_of_model(directory.path, directory.read_training())
    new = not all(done)
    if new and must_start_ranks(request):
        with users_mistakes():
            start_ranks("evaluate", options_of_this_job(model_dir=str(directory.path)), request)
        return
    with ranks(request) as here, lost_process():
        console = Terminal(quiet=not (new and here.is_first))
        console.print(where(here, cfg))
        if said:
            Terminal(quiet=not here.is_first).print(said)
        module.to(here.device)
        for number, one in enumerate(configs):
            with users_mistakes():
                planned = planned_score(module, data, one, directory, outputs, since)
            if (notice := compile_network(planned.network, cfg.compile)) and number == 0:
                console.print(notice)
            score_once(planned)


def to_score(
    cfg: DictConfig, load: Load = load_module, data: DataModule | None = None
) -> tuple[ModelDirectory, DataModule, GenerativeModel, list[DictConfig]]:
    """(directory, data, module on the CPU, one config per score). MistakeError or ValueError if scoring is impossible.

    load: as in `drawing_of`. data: as in `trained_data`.
    """
    directory, saved = trained_config(cfg)
    data, scores = trained_data(saved, data), requested_scores(saved)
    module = load(directory, saved, *(score.evaluation.weights for score in scores))
    for score in scores:
        check_scoring(score, data, module.weight_names, f"{directory.path} has")
    return directory, data, module, scores
