"""A planned score: found, or computed, written and shown."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import Progress

from diffusion_lab.commands.score_table import score_table
from diffusion_lab.config.composing import TRAINED
from diffusion_lab.config.identity import plain_config
from diffusion_lab.config.mistakes import MistakeError, lost_process, out_of_memory, users_mistakes
from diffusion_lab.config.scores import PlannedScore
from diffusion_lab.config.tracking import build_trackers, described
from diffusion_lab.metrics.copying import SHOWN
from diffusion_lab.metrics.metric import Scores
from diffusion_lab.metrics.score import DRAWS, PATH_IMAGES, score
from diffusion_lab.report.drawing import may_fail, picture, png
from diffusion_lab.store.files import remove_staged, write_whole
from diffusion_lab.store.identity import SCORING_ROOMS, code_now
from diffusion_lab.store.status_file import Announcement
from diffusion_lab.terminal import Terminal
from diffusion_lab.training.interruption import ending
from diffusion_lab.training.ranks import broadcast_from_rank_zero, hold_together, rank
from diffusion_lab.versions import versions

_SECONDS_OF_A_LINE = 30.0  # between two lines on progress, where there is no terminal
_SMALLER = "use a smaller evaluation.batch_size, or that of a metric: the scores stay the same"


def score_once(planned: PlannedScore, quiet: bool = False) -> None:
    """Compute the score and write it, unless it is there; then print its table and its folder, unless `quiet`.

    If several ranks call it, they share the sampling; rank 0 takes the lock, writes the files and prints.
    """
    run, console = planned.run, Terminal(quiet=quiet or rank() > 0)

    def is_there() -> bool:
        there = broadcast_from_rank_zero(planned.is_scored)
        if there:
            console.print(planned.other_code or f"already scored: {run.path} (rescore=true scores again)")
        return there

    def waiting(holder: str) -> None:
        console.print(f"{run.path} is being scored by {holder}; waiting")

    if not is_there():
        with ExitStack() as stack:
            if not quiet:
                how_to_go_on = (
                    f"while scoring {run.path}; finished batches are kept: run the same command again to go on"
                )
                stack.enter_context(ending(lambda name: f"{name} {how_to_go_on}" if rank() == 0 else ""))
            stack.enter_context(hold_together(run.path, waiting))
            if not is_there():  # another process may have scored it meanwhile
                if rank() == 0:
                    remove_staged(run.path)
                    stack.enter_context(Announcement(run.path))
                    with users_mistakes():
                        trackers = build_trackers(planned.cfg, run)
                with (
                    progress_bar(console) as progress,
                    users_mistakes(),
                    lost_process(),
                    out_of_memory("scoring", _SMALLER),
                ):
                    scores = score(planned.plan, progress)
                if scores is not None:  # None on other ranks
                    _write(scores, planned)
                    about = described(planned.cfg, run, planned.choices)
                    for tracker in trackers:
                        tracker.score(about, run.read_metrics(), run.samples_png)
    if console.quiet:
        return
    typed = [option for option in HydraConfig.get().overrides.task if not option.endswith(f"={TRAINED}")]
    chosen = any(option.startswith("metrics=") for option in typed)
    console.print(score_table(run.read_metrics(), everything=chosen), soft_wrap=False)
    for line in [planned.about, f"score  {run.path}  (samples.png, metrics.json)"]:
        console.print(line)


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


def _write(scores: Scores, planned: PlannedScore) -> None:
    """Write pictures, config and, last, the numbers. MistakeError if a number is not finite."""
    run, data = planned.run, planned.plan.data
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
    write_whole(run.config, OmegaConf.to_yaml(plain_config(planned.cfg)).encode())
    made = {"code": code_now(SCORING_ROOMS), "versions": versions()}
    run.write_metrics({**scores.content(), "choices": dict(planned.choices), **made})
