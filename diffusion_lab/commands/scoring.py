"""Score a model once: find the score that is there already, or make it, and show it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console
from rich.progress import Progress

from diffusion_lab.commands.build import plain_config, scoring_fingerprint
from diffusion_lab.commands.mistakes import out_of_memory, users_mistakes
from diffusion_lab.commands.table import score_table
from diffusion_lab.files import remove_staged, write_whole
from diffusion_lab.lock import hold
from diffusion_lab.runs import FINGERPRINT_LENGTH, ModelDirectory, RunDirectory, cache_directory, run_directory
from diffusion_lab.status import Announcement

if TYPE_CHECKING:
    from diffusion_lab.data.base import DataModule
    from diffusion_lab.models.base import GenerativeModel


def score_once(
    model: GenerativeModel, data: DataModule, cfg: DictConfig, directory: ModelDirectory, outputs: Path, again: bool
) -> None:
    """Score `model` as `cfg` says, unless that score is there, and print its table and its folder."""
    console = Console()
    training = directory.read_training()
    # "auto" stays in the name of a score, so that it is known before the model is trained.
    run_id = scoring_fingerprint(training["fingerprint"], cfg)[:FINGERPRINT_LENGTH]
    run = run_directory(outputs, f"{directory.path.name}-{run_id}")
    if run.metrics.is_file() and not again:
        _say_scored(console, run)
    else:
        with hold(run.path, lambda holder: console.print(f"{run.path} is being scored by {holder}; waiting")):
            if run.metrics.is_file() and not again:  # whoever held it has scored it
                _say_scored(console, run)
            else:
                with Announcement(run.path):
                    _score(model, data, cfg, directory, run, cache_directory(outputs), training)
    console.print(score_table(run.read_metrics()))
    console.print(f"model  {directory.path}  (weights, config, metrics.csv)", highlight=False, soft_wrap=True)
    console.print(f"score  {run.path}  (samples.png, metrics.json)", highlight=False, soft_wrap=True)


def _say_scored(console: Console, run: RunDirectory) -> None:
    console.print(f"this score is there already: {run.path} (rescore=true scores anew)", highlight=False)


def _score(
    model: GenerativeModel,
    data: DataModule,
    cfg: DictConfig,
    directory: ModelDirectory,
    run: RunDirectory,
    cache: Path,
    training: dict,
) -> None:
    from diffusion_lab.callbacks.ema import suited_weights
    from diffusion_lab.evaluation.cost import TrainingCost
    from diffusion_lab.evaluation.score import score
    from diffusion_lab.pictures import picture, png

    if cfg.evaluation.weights == "auto":
        with open_dict(cfg):
            cfg.evaluation.weights = suited_weights(model.weight_names, training["steps"])
    with users_mistakes():
        features, settings = instantiate(cfg.features), instantiate(cfg.evaluation)
        features.check(data.shape)
    remove_staged(run.path)
    cost = TrainingCost(training["steps"], training["seconds"], training["images"])
    with Progress(transient=True) as bar:
        tasks = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        at = f"evaluation.batch_size={settings.batch_size} and evaluation.bound.batch_size={settings.bound.batch_size}"
        with users_mistakes(), out_of_memory(at, "take fewer at a time; it changes no number"):
            scores = score(model, data, features, settings, cache, progress, cost, training["flops"])
    write_whole(run.samples_png, png(picture(scores.samples[:64], model.num_levels)))
    write_whole(run.config, OmegaConf.to_yaml(plain_config(cfg)).encode())
    run.write_metrics(
        {
            "values": scores.values,
            "protocol": {
                **scores.protocol,
                "model_directory": directory.path.name,
                "fingerprint": training["fingerprint"],
            },
            "curves": scores.curves,
        }
    )
