"""diffusion-lab evaluate: score a trained model, or images from elsewhere: Fréchet distance, bits/dim, cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from diffusion_lab.config.composing import with_trained_choices
from diffusion_lab.config.given import CONFIG, are_given, read_given
from diffusion_lab.config.loading import (
    Load,
    load_model,
    trained_config,
    trained_data,
)
from diffusion_lab.config.mistakes import lost_process, users_mistakes
from diffusion_lab.config.overrides import options_of_this_job
from diffusion_lab.config.scores import check_scoring, requested_scores, run_of
from diffusion_lab.store import ModelDirectory, cache_directory
from diffusion_lab.store.fingerprints import SCORING_GROUPS
from diffusion_lab.terminal import Terminal
from diffusion_lab.training.ranks import must_start_ranks, ranks, request_of, start_ranks, where

if TYPE_CHECKING:
    from diffusion_lab.data.module import DataModule
    from diffusion_lab.models.base import GenerativeModel


def completed(options: list[str]) -> list[str]:
    """Scoring options default to those of training; images given by the user have none."""
    if are_given(options):
        return [f"--config-name={CONFIG}", *options]
    return with_trained_choices(options, SCORING_GROUPS)


def run(cfg: DictConfig) -> None:
    """Load, score, show."""
    from diffusion_lab.commands.scoring import score_once
    from diffusion_lab.training.speed import check_compile, compile_network  # imports torch

    outputs = Path(cfg.outputs)
    if cfg.samples is not None:
        _score_given(cfg, outputs)
        return
    with users_mistakes():
        request = request_of(cfg, prefix="")
        directory, data, model, scores = to_score(cfg)
        fingerprint = directory.read_training()["fingerprint"]
        runs = [run_of(directory, fingerprint, score, outputs) for score in scores]
        check_compile(cfg.compile, request.on_gpu, None, model)
    new = cfg.rescore or not all(run.metrics.is_file() for run in runs)
    if new and must_start_ranks(request):
        with users_mistakes():
            start_ranks("evaluate", options_of_this_job(model_dir=str(directory.path)), request)
        return
    with ranks(request) as here, lost_process():
        console = Terminal(quiet=not (new and here.is_first))
        console.print(where(here, cfg))
        if notice := compile_network(model.to(here.device).network, cfg.compile):
            console.print(notice)
        for score in scores:
            score_once(model, data, score, directory, outputs, cfg.rescore)


def to_score(
    cfg: DictConfig, load: Load = load_model, data: DataModule | None = None
) -> tuple[ModelDirectory, DataModule, GenerativeModel, list[DictConfig]]:
    """(directory, data, model on the CPU, one config per score). MistakeError or ValueError if scoring is impossible.

    load: as in `drawing_of`. data: as in `trained_data`.
    """
    directory, saved = trained_config(cfg)
    data, scores = trained_data(saved, data), requested_scores(saved)
    model = load(directory, saved, *(score.evaluation.weights for score in scores))
    for score in scores:
        check_scoring(score, data, model.weight_names, f"{directory.path} has")
    return directory, data, model, scores


def _score_given(cfg: DictConfig, outputs: Path) -> None:
    """Score given images on one device; no samples are drawn."""
    from diffusion_lab.commands.scoring import score_source

    with users_mistakes():
        request = request_of({"accelerator": cfg.accelerator, "devices": 1}, prefix="")
    with ranks(request) as here:
        source, data, recorded, run, read_as = read_given(cfg, outputs, here.device)
        if cfg.rescore or not run.metrics.is_file():
            Terminal().print(where(here, cfg))
        score_source(
            lambda: source,
            data,
            recorded,
            run,
            cache_directory(outputs),
            cfg.rescore,
            lines=[f"samples  {cfg.samples}  ({source.count} images{read_as and '; '}{read_as})"],
            choices={"model": "given images"},
        )
