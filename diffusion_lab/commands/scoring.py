"""Score a model once: find the score that is there already, or make it, and show it."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console
from rich.progress import Progress

from diffusion_lab.commands.table import score_table
from diffusion_lab.files import remove_staged, write_whole
from diffusion_lab.from_config.build import plain_config, sampling_identity
from diffusion_lab.from_config.mistakes import MistakeError, lost_process, out_of_memory, users_mistakes
from diffusion_lab.from_config.scores import build_features, build_metrics, run_of
from diffusion_lab.from_config.tracking import tracked_score
from diffusion_lab.runs import (
    ModelDirectory,
    RunDirectory,
    cache_directory,
)
from diffusion_lab.status import Announcement

if TYPE_CHECKING:
    from diffusion_lab.data.base import DataModule
    from diffusion_lab.models.base import GenerativeModel


def score_once(
    model: GenerativeModel, data: DataModule, cfg: DictConfig, directory: ModelDirectory, outputs: Path, again: bool
) -> None:
    """Score `model` as `cfg` says, unless that score is there, and print its table and its folder.

    Where several ranks call it, they share the drawing of samples; rank 0 holds, writes and speaks for all.
    """
    from diffusion_lab.evaluation.ranks import hold_together, rank, word_of_rank_zero

    console = Console(quiet=rank() > 0)
    training = directory.read_training()
    run = run_of(directory, training["fingerprint"], cfg, outputs)

    def is_there() -> bool:
        return word_of_rank_zero(run.metrics.is_file()) and not again

    if is_there():
        _say_scored(console, run)
    else:
        with hold_together(run.path, lambda holder: console.print(f"{run.path} is being scored by {holder}; waiting")):
            if is_there():  # whoever held it has scored it
                _say_scored(console, run)
            else:
                if rank() == 0:
                    remove_staged(run.path)
                with ExitStack() as stack:
                    if rank() == 0:
                        stack.enter_context(Announcement(run.path))
                        show = stack.enter_context(tracked_score(cfg, run, directory.read_choices()))
                    _score(model, data, cfg, directory, run, cache_directory(outputs), training, again, console)
                    if rank() == 0:
                        show(run.read_metrics())
    if rank() > 0:
        return
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
    again: bool,
    console: Console,
) -> None:
    from diffusion_lab.callbacks.ema import suited_weights
    from diffusion_lab.evaluation.cost import TrainingCost
    from diffusion_lab.evaluation.latents import PATH_IMAGES
    from diffusion_lab.evaluation.score import score
    from diffusion_lab.pictures import picture, png

    if cfg.evaluation.weights == "auto":
        with open_dict(cfg):
            cfg.evaluation.weights = suited_weights(model.weight_names, training["steps"])
    with users_mistakes():
        features, metrics, settings = build_features(cfg), build_metrics(cfg), instantiate(cfg.evaluation)
    cost = TrainingCost(training["steps"], training["seconds"], training["images"])
    with Progress(transient=True, console=console) as bar:
        tasks = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        sizes = {f"metrics.{name}": node for name, node in cfg.metrics.items()} | {"evaluation": cfg.evaluation}
        at = " and ".join(
            f"{key}.batch_size={node.batch_size}" for key, node in sizes.items() if node and "batch_size" in node
        )
        unread = model.protocol().keys() - model.sampling_protocol().keys()
        identities = [sampling_identity(training["fingerprint"], cfg, unread, name) for name in features]
        with users_mistakes(), lost_process(), out_of_memory(at, "take fewer at a time; it changes no number"):
            scores = score(
                *(model, data, list(features.values()), metrics, settings, cache, identities, progress, cost),
                flops=training["flops"],
                anew=again,
            )
    if scores is None:
        return  # rank 0 has them
    columns = {f"{name}.{key}": column for name, curve in scores.curves.items() for key, column in curve.items()}
    numbers = {name: [value] for name, value in scores.values.items()} | columns
    lost = [name for name, found in numbers.items() if not all(map(math.isfinite, found))]
    if lost:
        raise MistakeError(
            f"{directory.path} cannot be scored, because {lost[0]} is not finite: did its training diverge? Train it "
            "with a smaller optimizer.lr"
        )
    write_whole(run.samples_png, png(picture(scores.samples[:64], model.num_levels)))
    if scores.interpolation is not None:
        ways = picture(scores.interpolation, model.num_levels, columns=PATH_IMAGES)
        write_whole(run.interpolation_png, png(ways))
    if scores.reconstructions is not None:
        write_whole(run.reconstructions_png, png(picture(scores.reconstructions, model.num_levels, columns=8)))
    write_whole(run.config, OmegaConf.to_yaml(plain_config(cfg)).encode())
    scores.protocol |= {"model_directory": directory.path.name, "fingerprint": training["fingerprint"]}
    run.write_metrics(scores.content())
