"""diffusion-lab evaluate: score a trained model, or images from elsewhere: Fréchet distance, bits/dim, cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import Progress

from diffusion_lab.commands.score_table import score_table
from diffusion_lab.config.given import given_score
from diffusion_lab.config.mistakes import MistakeError, lost_process, out_of_memory, users_mistakes
from diffusion_lab.config.naming import differences_of, other_models, plain_config
from diffusion_lab.config.overrides import TRAINED, options_of_this_job
from diffusion_lab.config.scores import PlannedScore, planned_scores
from diffusion_lab.config.tracking import build_trackers, track_score
from diffusion_lab.metrics.copying import SHOWN
from diffusion_lab.metrics.metric import Scores
from diffusion_lab.metrics.pictures import DRAWS, PATH_IMAGES
from diffusion_lab.metrics.score import score as compute_score
from diffusion_lab.report.drawing import may_fail, picture, png
from diffusion_lab.store.files import remove_staged, write_whole
from diffusion_lab.store.provenance import SCORING, code_now
from diffusion_lab.store.status_file import Announcement
from diffusion_lab.terminal import Terminal
from diffusion_lab.training.interruption import ending
from diffusion_lab.training.ranks import (
    broadcast_from_rank_zero,
    hold_together,
    join,
    must_start_ranks,
    rank,
    request_of,
    start_ranks,
    where,
)
from diffusion_lab.training.speed import compile_network
from diffusion_lab.versions import versions

_SECONDS_OF_A_LINE = 30.0  # between two lines on progress, where there is no terminal
_SMALLER = "use a smaller evaluation.batch_size, or that of a metric: the scores stay the same"


def run(cfg: DictConfig) -> None:
    """Compute the scores that are missing, then show all."""
    with users_mistakes():
        request = request_of({"accelerator": cfg.accelerator, "devices": cfg.get("devices", 1)}, prefix="")
        scores = planned_scores(cfg, request) if cfg.samples is None else [given_score(cfg, request)]
    new, model = not all(score.is_scored for score in scores), scores[0].model
    if new and model is not None and must_start_ranks(request):
        with users_mistakes():
            start_ranks("evaluate", options_of_this_job(model_dir=str(model.path)), request)
        return
    here = join(request)
    console = Terminal(quiet=not here.is_first)
    if new:
        console.print(where(here, cfg))
    for line in differences_of([model, *other_models(scores[0].cfg)]) if model is not None else ():
        console.print(line)
    with lost_process():
        for score in scores:
            score_once(score, cfg.get("compile", False))


def score_once(score: PlannedScore, compile: bool | str = False, quiet: bool = False) -> None:
    """Compute and write the score, unless it exists; then print its table and its folder, unless `quiet`.

    If several ranks call it, they share the sampling; rank 0 takes the lock, writes the files and prints.
    """
    run, console = score.run, Terminal(quiet=quiet or rank() > 0)
    again = "without retrain=true and rescore=true" if score.anew else "again"
    kept = f"while scoring {run.path}; finished batches are kept: run the same command {again} to go on"
    is_there = broadcast_from_rank_zero(score.is_scored)
    if not is_there:
        with (
            nullcontext() if quiet else ending(lambda name: f"{name} {kept}" if rank() == 0 else ""),
            hold_together(run.path, lambda holder: console.print(f"{run.path} is being scored by {holder}; waiting")),
        ):
            is_there = broadcast_from_rank_zero(score.is_scored)  # by another process meanwhile
            if not is_there:
                _compute(score, compile, console)
    if console.quiet:
        return
    if is_there:
        console.print(score.other_code or f"already scored: {run.path} (rescore=true scores again)")
    # All measures where the user chose the metrics.
    typed = [option for option in HydraConfig.get().overrides.task if not option.endswith(f"={TRAINED}")]
    chosen = any(option.startswith("metrics=") for option in typed)
    console.print(score_table(run.read_metrics(), everything=chosen), soft_wrap=False)
    for line in [score.about, f"score  {run.path}  (samples.png, metrics.json)"]:
        console.print(line)


def _compute(score: PlannedScore, compile: bool | str, console: Console) -> None:
    run, generator = score.run, score.plan.source.generator
    if generator is not None and (notice := compile_network(generator.networks["network"], compile)):
        console.print(notice)
    with ExitStack() as stack:
        if rank() == 0:
            remove_staged(run.path)
            stack.enter_context(Announcement(run.path))
            with users_mistakes():
                trackers = build_trackers(score.cfg, run)
        with progress_bar(console) as progress, users_mistakes(), out_of_memory("scoring", _SMALLER):
            scores = compute_score(score.plan, progress)
        if scores is not None:  # None on other ranks
            _write(scores, score)
    if scores is not None:
        track_score(trackers, score.cfg, run, score.choices)


@contextmanager
def progress_bar(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A function of (task, images done, all images) that shows progress while the block runs: bars in a terminal, else lines."""
    with Progress(transient=True, console=console, disable=not console.is_terminal) as bar:
        tasks, said = {}, time.monotonic()

        def progress(stage: str, done: int, total: int) -> None:
            nonlocal said
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)
            if not console.is_terminal and time.monotonic() > said + _SECONDS_OF_A_LINE:
                said = time.monotonic()
                console.print(f"{stage}: {done} of {total}")

        yield progress


def _write(scores: Scores, score: PlannedScore) -> None:
    """Write pictures, config and, last, the numbers. MistakeError if a number is not finite."""
    run, data = score.run, score.plan.data
    columns = {f"{name}.{key}": column for name, curve in scores.curves.items() for key, column in curve.items()}
    numbers = {name: [value] for name, value in scores.values.items()} | columns
    lost = [name for name, found in numbers.items() if not all(map(math.isfinite, found))]
    if lost:
        model = scores.protocol["model_directory"]
        raise MistakeError(f"{model} cannot be scored, because {lost[0]} is not finite: try a smaller optimizer.lr")
    for path, x, columns_of_grid in (
        (run.samples_png, scores.samples[:64], None),
        (run.interpolation_png, scores.interpolation, PATH_IMAGES),
        (run.reconstructions_png, scores.reconstructions, 8),
        (run.conditions_png, scores.conditions, 2 + DRAWS),
        (run.nearest_png, scores.nearest, min(SHOWN, len(scores.samples))),
    ):
        drawn = None
        with may_fail(path.name):
            if x is not None:
                shown, names = (x, None) if data.units is None else (data.units.restored(x), data.units.names)
                drawn = png(picture(shown, data.num_levels, columns_of_grid, names))
        if drawn is not None:
            write_whole(path, drawn)
    write_whole(run.config, OmegaConf.to_yaml(plain_config(score.cfg)).encode())
    made = {"code": code_now(SCORING), "versions": versions()}
    run.write_metrics({**scores.content(), "choices": dict(score.choices), **made})
