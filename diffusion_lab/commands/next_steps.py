"""`diffusion-lab` without a command: the content of outputs/ and the next commands to run. Does not import torch."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from diffusion_lab.store import ModelDirectory, RunError, newest_model, newest_sweep
from diffusion_lab.store.places import models_in, runs_folder, scored_runs, sweeps_in
from diffusion_lab.store.status_file import FAILED, INTERRUPTED, RUNNING, read_status
from diffusion_lab.sweeps.watch import is_over, job_progress, summary

Command = tuple[str, str]  # as typed, and its purpose

_FIRST: list[Command] = [
    ("diffusion-lab train", "handwritten digits, one to three minutes on two cores"),
    ("diffusion-lab train data=image_folder data.root=FOLDER", "your own images"),
    ("diffusion-lab doctor", "check this machine"),
]
_ALL: Command = ("diffusion-lab --help", "all commands")


def next_steps(outputs: Path) -> list[str]:
    """At most 15 lines: what exists, and commands to type."""
    models = models_in(outputs)
    found, commands, of_sweep = _sweep(outputs)
    found += _unfinished([model for model in models if not model.finished and model.path.name not in of_sweep])
    count = sum(model.is_generative for model in models)
    if count:
        newest = newest_model(outputs)
        found = [*_model(newest, count, outputs), *found]
        commands = [*_with_model(newest, outputs), *commands]
    else:
        found = [f"There is no trained model in {outputs} yet.", *found]
        commands = [*commands, *_FIRST]
    commands = [*commands, _ALL]
    width = max(len(typed) for typed, _ in commands)
    return [*found, "", "Next:", *(f"  {typed:<{width}}  {what}" for typed, what in commands)]


def _model(newest: ModelDirectory, count: int, outputs: Path) -> list[str]:
    scored = [run for run in scored_runs(runs_folder(outputs)) if run.path.name.startswith(newest.path.name)]
    pictures = [run.samples_png for run in scored if run.samples_png.is_file()] or newest.grids
    found = [f"{count} trained model{'s' * (count > 1)}. The newest: {newest.path}"]
    if pictures:
        found.append(f"Samples: {max(pictures, key=lambda file: file.stat().st_mtime_ns)}")
    return found


def _with_model(newest: ModelDirectory, outputs: Path) -> list[Command]:
    steps = ""
    with suppress(RunError):  # a broken record changes no more than this
        steps = " sampler.spacing.num_steps=10" if newest.read_choices().get("sampler") else ""
    commands = [
        ("diffusion-lab sample", "draw 64 samples"),
        ("diffusion-lab demo", "change its sampler, steps and seed in your browser"),
        (f"diffusion-lab evaluate{steps}", "score it" + (" with ten sampling steps" if steps else "")),
        ("diffusion-lab train -m schedule=linear,cosine seed=1,2", "a sweep: compare two schedules"),
    ]
    if scored_runs(runs_folder(outputs)):
        commands.append((f"diffusion-lab report runs={runs_folder(outputs)}", "all scores on one page"))
    return commands


def _unfinished(models: list[ModelDirectory]) -> list[str]:
    """One line for running trainings and one for stopped ones."""
    states: dict[str, list[str]] = {}
    for model in models:
        status = read_status(model.path)
        if status is not None:
            step = f" (step {status.step or 0} of {status.steps})" if status.steps else ""
            states.setdefault(status.state, []).append(f"{model.path}{step}")
    found = [f"Training now: {_some(states[RUNNING])}"] if RUNNING in states else []
    stopped = [*states.get(INTERRUPTED, []), *states.get(FAILED, [])]
    if stopped:
        found.append(f"Stopped before the end: {_some(stopped)}. Run the same `diffusion-lab train …` again to resume.")
    return found


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _sweep(outputs: Path) -> tuple[list[str], list[Command], Collection[str]]:
    """The newest sweep: lines that describe it, commands for it, and the folders of its models."""
    if not sweeps_in(outputs):
        return [], [], ()
    sweep = newest_sweep(outputs)
    try:
        content, progress = sweep.read_sweep(), job_progress(sweep)
    except RunError as error:
        return [f"The newest sweep cannot be read: {error}"], [], ()
    pages = sorted(sweep.report.glob("*.html"), key=lambda page: -page.stat().st_mtime_ns)
    found = [f"Sweep {sweep.path}: {summary(progress)}", *(f"Report: {page}" for page in pages[:1])]
    name = shlex.quote(sweep.path.name)
    commands = [(f"diffusion-lab report {name}", "tables and figures of the sweep")]
    if not is_over(progress):
        commands = [(f"diffusion-lab status {name}", "progress of the sweep")]
        if content.get("command") and not any(standing.state == RUNNING for standing in progress):
            commands.append((f"diffusion-lab train -m {shlex.join(content['command'])}", "continue the sweep"))
    return found, commands, {cell["model"] for cell in content["cells"]}
