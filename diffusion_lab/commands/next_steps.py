"""`diffusion-lab` without a command: the content of outputs/ and the next commands to run. Does not import torch."""

from __future__ import annotations

import shlex
from pathlib import Path

from diffusion_lab.store import named_sweep, newest_model
from diffusion_lab.store.places import models_in, runs_folder, scored_runs, sweeps_in
from diffusion_lab.store.status_file import FAILED, INTERRUPTED, RUNNING
from diffusion_lab.sweeps.watch import JobProgress, is_over, job_progress, other_trainings, summary

_FIRST = {
    "diffusion-lab train": "handwritten digits, one to three minutes on two cores",
    "diffusion-lab train data=image_folder data.root=FOLDER": "your own images",
    "diffusion-lab doctor": "check this machine",
}
_WITH_A_MODEL = {
    "diffusion-lab sample": "draw 64 samples",
    "diffusion-lab demo": "change its sampler, steps and seed in your browser",
    "diffusion-lab evaluate": "score it",
    "diffusion-lab train -m schedule=linear,cosine seed=1,2": "a sweep: compare two schedules",
}
_STATES = {
    "Running now": (RUNNING,),
    "Stopped before the end": (INTERRUPTED, FAILED),
}


def next_steps(outputs: Path) -> list[str]:
    """What exists, in a few lines, and commands to type. RunError if a record cannot be read."""
    number, progress = sum(model.is_generative for model in models_in(outputs)), list[JobProgress]()
    found, commands = [f"There is no trained model in {outputs} yet."], _FIRST
    if number:
        newest, runs = newest_model(outputs), scored_runs(runs_folder(outputs))
        own = [run.samples_png for run in runs if run.path.name.startswith(newest.path.name)]
        pictures = [file for file in own if file.is_file()] or newest.grids
        found = [f"{number} trained model{'s' * (number > 1)}. The newest: {newest.path}"]
        found += [f"Samples: {max(pictures, key=lambda file: file.stat().st_mtime_ns)}"] if pictures else []
        of_runs = {f"diffusion-lab report runs={runs_folder(outputs)}": "all scores on one page"} if runs else {}
        commands = _WITH_A_MODEL | of_runs
    if sweeps_in(outputs):
        sweep = named_sweep(outputs, None)
        progress, name = job_progress(sweep), shlex.quote(sweep.path.name)
        pages = sorted(sweep.report.glob("*.html"), key=lambda page: -page.stat().st_mtime_ns)
        found += [f"Sweep {sweep.path}: {summary(progress)}", *(f"Report: {page}" for page in pages[:1])]
        if is_over(progress):
            commands = commands | {f"diffusion-lab report {name}": "tables and figures of the sweep"}
        else:
            commands = commands | {f"diffusion-lab status {name}": "progress of the sweep"}
            if (typed := sweep.read_sweep().get("command")) and all(each.state != RUNNING for each in progress):
                commands |= {f"diffusion-lab train -m {shlex.join(typed)}": "continue the sweep"}
    others = other_trainings(outputs, progress, finished=True)
    for said, states in _STATES.items():
        if some := [each for each in others if each.state in states]:
            status, more = some[0].status, f", and {len(some) - 1} more" if len(some) > 1 else ""
            step = f", step {status.step or 0} of {status.steps}" if status and status.steps else ""
            found.append(f"{said}: {some[0].folder}{step}{more}")
            if status and status.state != RUNNING:
                commands = {status.command or "diffusion-lab train …": "the same command again resumes it"} | commands
    commands = commands | {"diffusion-lab --help": "all commands"}
    width = max(map(len, commands))
    return [*found, "", "Next:", *(f"  {typed:<{width}}  {what}" for typed, what in commands.items())]
