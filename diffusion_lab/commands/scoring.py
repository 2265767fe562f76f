"""Score a model once: find the score that is there already, or make it, and show it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console
from rich.progress import Progress

from diffusion_lab.commands.build import plain_config, sampling_identity, scoring_fingerprint
from diffusion_lab.commands.mistakes import users_mistakes
from diffusion_lab.commands.table import score_table
from diffusion_lab.files import write_whole
from diffusion_lab.runs import FINGERPRINT_LENGTH, ModelDirectory, RunDirectory, cache_directory, run_directory

if TYPE_CHECKING:
    from diffusion_lab.data.base import DataModule
    from diffusion_lab.models.base import GenerativeModel


def score_once(
    model: GenerativeModel, data: DataModule, cfg: DictConfig, directory: ModelDirectory, outputs: Path, again: bool
) -> None:
    """Score `model` as `cfg` says, unless that score is there, and print its table and its folder.

    Where several ranks call it, they share the drawing of samples; rank 0 writes and speaks.
    """
    from diffusion_lab.callbacks.ema import suited_weights
    from diffusion_lab.evaluation.ranks import rank

    console = Console(quiet=rank() > 0)
    training = directory.read_training()
    if cfg.evaluation.weights == "auto":
        with open_dict(cfg):
            cfg.evaluation.weights = suited_weights(model.weight_names, training["steps"])
    run_id = scoring_fingerprint(training["fingerprint"], cfg)[:FINGERPRINT_LENGTH]
    run = run_directory(outputs, f"{directory.path.name}-{run_id}")
    if run.metrics.is_file() and not again:
        console.print(f"this score is there already: {run.path} (rescore=true scores anew)", highlight=False)
    else:
        _score(model, data, cfg, directory, run, cache_directory(outputs), training, again, console)
    if rank() > 0:
        return
    console.print(score_table(run.read_metrics()))
    console.print(f"model  {directory.path}  (weights, config, metrics.csv)", highlight=False, soft_wrap=True)
    console.print(f"score  {run.path}  (samples.png, metrics.json)", highlight=False, soft_wrap=True)


def _score(
    model: GenerativeModel,
    data: DataModule,
    cfg: DictConfig,
    directory: ModelDirectory,
    run: RunDirectory,
    cache: Path,
    training: dict,
    again: bool,
    console: Console,
) -> None:
    from diffusion_lab.evaluation.cost import TrainingCost
    from diffusion_lab.evaluation.score import score
    from diffusion_lab.pictures import picture, png

    with users_mistakes():
        features, settings = instantiate(cfg.features), instantiate(cfg.evaluation)
        features.check(data.shape)
    cost = TrainingCost(training["steps"], training["seconds"], training["images"])
    with Progress(transient=True, console=console) as bar:
        tasks = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        with users_mistakes():
            identity, flops = sampling_identity(training["fingerprint"]), training["flops"]
            scores = score(model, data, features, settings, cache, identity, progress, cost, flops, anew=again)
    if scores is None:
        return  # another rank has them
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
