"""Scoring a model once: find an existing score or compute it, and show it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from diffusion_lab.config.composing import TRAINED
from diffusion_lab.config.identity import plain_config, sampling_identity
from diffusion_lab.config.measured_variance import use_measured
from diffusion_lab.config.mistakes import MistakeError, lost_process, out_of_memory, users_mistakes
from diffusion_lab.config.scores import build_features, build_metrics, run_of, scored_choices
from diffusion_lab.config.tracking import tracked_score
from diffusion_lab.config.weight_files import plan_of_average, read_training_progress
from diffusion_lab.data.module import DataModule
from diffusion_lab.data.pictures import may_fail, picture, png
from diffusion_lab.metrics.copying import SHOWN
from diffusion_lab.metrics.metric import Scores
from diffusion_lab.metrics.samples import Source, TrainedModel
from diffusion_lab.metrics.score import DRAWS, PATH_IMAGES, score
from diffusion_lab.models.base import GenerativeModel
from diffusion_lab.store import (
    ModelDirectory,
    RunDirectory,
    cache_directory,
)
from diffusion_lab.store.files import remove_staged, write_whole
from diffusion_lab.store.measures import STANDARD_ERROR, TRAINING_SECONDS, Measure, ends, read_measures
from diffusion_lab.store.status_file import Announcement
from diffusion_lab.store.weight_names import is_snapshot, snapshot_name
from diffusion_lab.terminal import Terminal
from diffusion_lab.training.ema import default_weights
from diffusion_lab.training.interruption import ending
from diffusion_lab.training.profiles import wanted_length
from diffusion_lab.training.ranks import broadcast_from_rank_zero, hold_together, rank

_SECONDS_OF_A_LINE = 30.0  # between two lines on progress, where there is no terminal


def score_once(
    model: GenerativeModel,
    data: DataModule,
    cfg: DictConfig,
    directory: ModelDirectory,
    outputs: Path,
    again: bool,
    quiet: bool = False,
) -> RunDirectory:
    """Score `model` as `cfg` says unless the score exists, and print its table and folder unless `quiet`.

    If several ranks call it, they share the sampling; rank 0 takes the lock, writes the files and prints.
    """
    training = directory.read_training()
    cost, moment = _cost(directory, training, cfg.evaluation.weights, model.moments)

    def source() -> Source:
        if cfg.evaluation.weights == "auto":
            with open_dict(cfg):
                cfg.evaluation.weights = default_weights(model.weight_names, training["steps"])
        with progress_bar(Terminal(quiet=quiet or rank() > 0)) as progress, users_mistakes(), lost_process():
            weights, cache = cfg.evaluation.weights, cache_directory(outputs)
            and_costs = any(metric.needs_step_costs for metric in build_metrics(cfg))
            use_measured(model, lambda: data, cfg, directory, weights, cache, progress, and_costs)
        unread = model.protocol().keys() - model.sampling_protocol().keys()
        unread |= {"measured_variance"} if "variance" in unread else set()
        identities = [
            sampling_identity(training["fingerprint"], cfg, unread, name) for name, node in cfg.features.items() if node
        ]
        return TrainedModel(model, identities, cache_directory(outputs), cost, again)

    run = run_of(directory, training["fingerprint"], cfg, outputs)
    score_source(
        source,
        data,
        cfg,
        run,
        cache_directory(outputs),
        again,
        lines=[
            f"model  {directory.path}  (weights, config{', metrics.csv' if directory.metrics_csv.is_file() else ''})"
        ],
        recorded={"model_directory": directory.path.name, "fingerprint": training["fingerprint"]} | moment,
        choices=directory.read_choices(),
        quiet=quiet,
    )
    return run


def _cost(
    directory: ModelDirectory, training: Mapping[str, Any], weights: str, guided_by: Iterable[float | str]
) -> tuple[dict[str, float | None], dict[str, str]]:
    """The cost of training up to these weights, and the entry of the weights in the protocol.

    guided_by: earlier moments that guide the model. MistakeError if one of them is not earlier than the weights.
    """
    whole = {fact: training[fact] for fact in ("steps", "seconds", "images")}
    if wanted_length(weights) is not None:
        *_, error = plan_of_average(directory, weights)
        text = f"built from averages of {len(directory.kept_averages)} moments, with an error of {error:.1%} of its profile"
        return whole, {"average": text}
    if not is_snapshot(weights):
        return whole, {}
    moment, steps = read_training_progress(directory, weights), training["steps"]
    step = int(moment["step"])
    for guiding in guided_by:
        later = int(read_training_progress(directory, snapshot_name(guiding))["step"])
        if later >= step:
            raise MistakeError(
                f"guidance.moment={guiding} (step {later}) is not before {weights}; choose an earlier one"
            )
    text = f"the training as it was at step {step} of {steps}"
    return {"steps": step, "seconds": moment["seconds"], "images": int(moment["images"])}, {"moment": text}


def score_source(
    source: Callable[[], Source],
    data: DataModule,
    cfg: DictConfig,
    run: RunDirectory,
    cache: Path,
    again: bool,
    lines: Sequence[str],
    recorded: Mapping[str, str] = MappingProxyType({}),
    choices: Mapping[str, str | None] = MappingProxyType({}),
    quiet: bool = False,
) -> None:
    """Score the samples of `source` unless `run` has the score; print its table, `lines` and its folder.

    recorded: further entries of the protocol. choices: of the model's training.
    """
    choices = scored_choices(choices)
    console = Terminal(quiet=quiet or rank() > 0)

    def is_there() -> bool:
        there = broadcast_from_rank_zero(run.metrics.is_file()) and not again
        if there:
            console.print(f"already scored: {run.path} (rescore=true scores again)")
        return there

    def waiting(holder: str) -> None:
        console.print(f"{run.path} is being scored by {holder}; waiting")

    how_to_go_on = (
        f"while scoring {run.path}; finished batches are kept in {cache}: run the same command again to go on"
    )
    if not is_there():
        with ExitStack() as stack:
            if not quiet:
                stack.enter_context(ending(lambda name: f"{name} {how_to_go_on}" if rank() == 0 else ""))
            stack.enter_context(hold_together(run.path, waiting))
            if not is_there():  # another process may have scored it meanwhile
                if rank() == 0:
                    remove_staged(run.path)
                    stack.enter_context(Announcement(run.path))
                    show = stack.enter_context(tracked_score(cfg, run, choices))
                scores = _scores(source(), data, cfg, console)
                if scores is not None:  # None on other ranks
                    scores.protocol |= recorded
                    _write(scores, data, cfg, run, choices)
                    show(run.read_metrics())
    if console.quiet:
        return
    typed = [option for option in HydraConfig.get().overrides.task if not option.endswith(f"={TRAINED}")]
    chosen = any(option.startswith("metrics=") for option in typed)
    console.print(score_table(run.read_metrics(), everything=chosen), soft_wrap=False)
    for line in [*lines, f"score  {run.path}  (samples.png, metrics.json)"]:
        console.print(line)


def _scores(source: Source, data: DataModule, cfg: DictConfig, console: Console) -> Scores | None:
    with users_mistakes():
        features, metrics, settings = build_features(cfg), build_metrics(cfg), instantiate(cfg.evaluation)
    fix = "use a smaller evaluation.batch_size, or that of a metric: the scores stay the same"
    with progress_bar(console) as progress, users_mistakes(), lost_process(), out_of_memory("scoring", fix):
        return score(source, data, list(features.values()), metrics, settings, progress)


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


def _write(
    scores: Scores, data: DataModule, cfg: DictConfig, run: RunDirectory, choices: Mapping[str, str | None]
) -> None:
    """Write pictures, config and, last, the numbers. MistakeError if a number is not finite."""
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
    write_whole(run.config, OmegaConf.to_yaml(plain_config(cfg)).encode())
    run.write_metrics({**scores.content(), "choices": dict(choices)})


def score_table(metrics: Mapping[str, Any], everything: bool) -> Table:
    """The table of metrics.json: name, value and meaning.

    everything: all measures, with reasons for missing ones; otherwise the main ones: distances with those of real images,
    precision, recall, bits/dim, seconds of sampling and of training. A missing distance always has its reason.
    """
    protocol, values = metrics["protocol"], metrics["values"]
    title = Text(_title(protocol, values), style="table.title")
    floor = protocol.get("floor", {}).get("num_images")
    few = "" if floor in (None, protocol["samples"]["num_images"]) else f" ({floor} of them)"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("", style="dim")
    for measure in sorted(read_measures(metrics), key=lambda measure: measure.name == TRAINING_SECONDS):
        value, note = "–", protocol["absent"].get(measure.name)
        if measure.name in values:
            value, note = _value(measure, values), measure.detail or measure.meaning
        if note is None or not (everything or (_is_main(measure) and (measure.name in values or measure.floor_of))):
            continue
        if not everything and measure.floor_of in values:
            note = f"real images: {values[measure.floor_of]:.{measure.decimals}f}{few}; {note}"
        table.add_row(*map(Text, (f"{measure.label} {measure.arrow}", value, note)))
    return table


def _is_main(measure: Measure) -> bool:
    """Whether the short table shows it: measurements only, so not NFE, which follows from the choices.

    For features after the first, only distances are shown.
    """
    if measure.headline or measure.name == TRAINING_SECONDS:
        return True
    later = any(part.startswith("features_") for part in measure.agrees)
    return measure.brief and measure.column and bool(measure.agrees) and not later


def _value(measure: Measure, values: dict[str, float]) -> str:
    """The value with its standard error, or with the interval stated in the score.

    An unbiased estimate of a non-negative quantity can be negative: then only its interval is shown, cut at 0.
    """

    def written(number: float) -> str:
        return f"{number:.{measure.decimals}f}"

    name, error = measure.name, values.get(measure.name + STANDARD_ERROR)
    interval = [values[end] for end in ends(name) if end in values]
    text = written(values[name]) + (f" ± {written(error)}" if error is not None else "")
    if len(interval) == 2 and values[name] < 0:
        text = f"0 to {written(max(0, interval[1]))}"
    elif len(interval) == 2:
        text += f" [{', '.join(map(written, interval))}]"
    return text + (f" {measure.unit}" if measure.unit else "")


def _title(protocol: dict[str, Any], values: Mapping[str, float]) -> str:
    given = protocol["samples"].get("given")
    parts = [protocol["data"]["name"], protocol["model"]["family"]]
    if given is not None:
        parts.append(given["name"])
    else:
        sampler = protocol["model"].get("sampler", "").partition("Sampler(")[0]
        parts += [f"{sampler} of {values['nfe']:.0f} evaluations"] if sampler and "nfe" in values else []
        parts.append(f"weights {protocol['weights']}")
    reference = protocol["reference"]
    real = reference.get("given") or f"{reference['num_images']} {reference['split']} images"
    return f"{', '.join(parts)}, against {real}"
